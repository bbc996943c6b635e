"""Reply frames: the ephemeral output of a turn. A frame that reports something durable follows its event."""

from dataclasses import dataclass

from schemas.parts import ContentPart, ToolCall, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """Of one turn a reader keeps the highest (epoch, attempt); ``frame_seq`` removes duplicates within it."""

    session_id: str
    request_id: str
    turn_id: str | None = None
    attempt: int = 0  #: 0 for frames before the start
    epoch: int = -1  #: of the sender
    frame_seq: int = 0  #: per attempt, from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAccepted:
    """The request is in the log."""

    queued_turns: int = 0  #: turns of the session that come before this one


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """An attempt begins; frames of earlier attempts are void."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """A piece of the model's reasoning; never stored."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallStarted:
    """A stored tool call is about to run."""

    message_seq: int
    call: ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageStored:
    """A whole message is in the log."""

    message_seq: int
    role: str
    content: tuple[ContentPart, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    interrupted: bool = False
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCompleted:
    """Terminal: ``text`` is that of the turn's last assistant message, empty when there is none."""

    text: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFailed:
    """Terminal."""

    code: str
    reason: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCancelled:
    """Terminal."""

    reason: str
    text: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """Terminal: nothing was done."""

    code: str
    reason: str


Frame = (
    TurnAccepted
    | TurnStarted
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | MessageStored
    | TurnCompleted
    | TurnFailed
    | TurnCancelled
    | RequestRefused
)
FRAMES: tuple[type, ...] = (
    TurnAccepted,
    TurnStarted,
    TextDelta,
    ReasoningDelta,
    ToolCallStarted,
    MessageStored,
    TurnCompleted,
    TurnFailed,
    TurnCancelled,
    RequestRefused,
)
TERMINAL_FRAMES = (TurnCompleted, TurnFailed, TurnCancelled, RequestRefused)
