"""Reply frames: the ephemeral output of a turn. A frame that reports something durable follows its event."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.parts import ContentPart, HistoryEntry, ToolCall, Usage


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """Of one turn a reader keeps the highest (epoch, attempt); ``frame_seq`` removes duplicates within it."""

    session_id: str
    request_id: str
    turn_id: str | None = None
    attempt: int = 0  #: 0 for frames before the start
    epoch: int = -1  #: of the sender
    frame_seq: int = 0  #: per attempt, from 0
    channel: str | None = None  #: the session's, in frames that tell of a session


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAccepted:
    """The request is in the log."""

    queued_turns: int = 0  #: turns of the session that come before this one
    opened_session: bool = False  #: this very request made the session; else what it says of a new one is not used


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """An attempt begins; frames of earlier attempts are void."""

    model: str


@direct_init
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


@direct_init
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
    outcome: str | None = None  #: of a tool message: how its call ended; absent: not said


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCompleted:
    """Terminal: ``text`` is that of the turn's last assistant message, empty when there is none."""

    text: str
    usage: Usage
    truncated: bool = False  #: the reply topic takes no more of the text: the history has all of it
    pending_calls: tuple[ToolCall, ...] = ()  #: that the sender runs: the session waits for their outputs


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
    truncated: bool = False  #: as of a completed turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnHidden:
    """Terminal, of a request to hide a turn. Whoever shows turns shows this one no more."""

    hidden_turn_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionErased:
    """Terminal, of a request to erase a session: when what it does not reach is gone, as its event says."""

    requests_kept_ms: int = 0
    replies_kept_ms: int = 0
    dead_letters_kept_ms: int = 0
    key_kept_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """Terminal: nothing was done."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """Terminal: a session, as its owner or its channel knows it (what the answerer cannot know is absent).

    Only the owner knows the title, instructions, model and metadata of a session that was not ``created`` just now.
    """

    title: str | None = None
    instructions: str | None = None
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    archived: bool = False
    active: bool | None = None  #: is it the channel's active session?
    created: bool = False  #: by this very request
    messages: int | None = None
    turns: int | None = None
    running_turn_id: str | None = None
    queued_turns: int | None = None
    context_tokens: int | None = None  #: of the prompt that the assembled history makes now
    needs_compaction: bool | None = None  #: is that more than an automatic history compaction lets pass?


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Terminal: messages in turn order; ``next_after`` continues, absent on the last page."""

    messages: tuple[HistoryEntry, ...]
    next_after: int | None = None
    covered_to: int = 0  #: the newest summary stands for the messages up to here; 0: there is none
    summary: str | None = None  #: its text, on pages that leave covered messages out


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompacted:
    """Terminal, of a request to compact the history: the newest summary and the messages that it stands for."""

    summary: str  #: empty: there was nothing to summarise
    from_seq: int = 0
    to_seq: int = 0  #: both ends inclusive
    changed: bool = False  #: made for this request; else it was there, and says it all
    tokens_before: int | None = None  #: of the prompt that the history makes (estimated)
    tokens_after: int | None = None
    usage: Usage | None = None  #: of the summary's model calls


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompactionFailed:
    """Terminal, of a request to compact the history: no summary could be had, nothing has changed."""

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
    | TurnHidden
    | SessionErased
    | RequestRefused
    | SessionInfo
    | HistoryPage
    | HistoryCompacted
    | HistoryCompactionFailed
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
    TurnHidden,
    SessionErased,
    RequestRefused,
    SessionInfo,
    HistoryPage,
    HistoryCompacted,
    HistoryCompactionFailed,
)
TERMINAL_FRAMES = (
    *(TurnCompleted, TurnFailed, TurnCancelled, TurnHidden, SessionErased, RequestRefused),
    *(SessionInfo, HistoryPage, HistoryCompacted, HistoryCompactionFailed),
)
