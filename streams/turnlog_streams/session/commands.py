"""What a session can be told: requests from outside and outcomes of its runner."""

from dataclasses import dataclass

from turnlog_schemas.commands import Chat, UpdateSession
from turnlog_schemas.parts import NO_USAGE, ContentPart, ReplyAddress, ToolCall, Usage
from turnlog_streams.forwarding import ReceiveForward, ReceiveReceipt
from turnlog_streams.history.view import HistorySummary
from turnlog_streams.refusals import Refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptChat:
    """A chat request, decoded. ``turn_id`` is the one it gets if it is new."""

    request_id: str
    command_hash: str
    turn_id: str
    chat: Chat
    reply: ReplyAddress
    partial: str = ""  #: what the running turn has said since its last message: kept, if this chat interrupts it
    usage: Usage = NO_USAGE  #: what it has cost and the log does not have yet
    first_delta_ms: int | None = None  #: from its attempt's start; ``None``: it has streamed nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Somebody wants a turn to end. ``partial`` and ``usage``: of the running one, as in :class:`AcceptChat`."""

    request_id: str
    command_hash: str
    turn_id: str | None  #: ``None``: the running one
    reply: ReplyAddress
    partial: str = ""
    usage: Usage = NO_USAGE
    first_delta_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Somebody wants the session archived, by its id."""

    request_id: str
    command_hash: str
    reply: ReplyAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Hide:
    """Somebody wants a turn not to be shown: one of the two names it."""

    request_id: str
    command_hash: str
    turn_id: str | None
    of_request: str | None
    reply: ReplyAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Somebody wants what was said of the session when it was made to be something else."""

    request_id: str
    command_hash: str
    update: UpdateSession
    reply: ReplyAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase:
    """Somebody wants the session's texts to be gone."""

    request_id: str
    command_hash: str
    reply: ReplyAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeTurn:
    """A new owner found the turn started and not ended (or accepted and nothing running)."""

    turn_id: str
    attempt: int  #: the one that was found (0: never started); a later one is somebody's resume already


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMessage:
    """A runner produced a whole message."""

    turn_id: str
    attempt: int
    message_seq: int  #: the position that it takes: the history's last plus one; a lower one is stored already
    role: str
    content: tuple[ContentPart, ...] | None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    truncated: bool = False
    usage: Usage | None = None  #: what the attempt has cost since the last command of it that told
    outcome: str | None = None  #: of a tool result


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteTurn:
    """A runner came to its end. ``usage``: what the attempt has cost and no message of it told."""

    turn_id: str
    attempt: int
    usage: Usage
    duration_ms: int = 0
    first_delta_ms: int | None = None  #: of the attempt; ``None``: it has streamed nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class FailAttempt:
    """A runner failed. ``retryable``: another attempt may help. ``usage``: as in :class:`CompleteTurn`."""

    turn_id: str
    attempt: int
    code: str
    reason: str
    retryable: bool
    usage: Usage
    duration_ms: int = 0
    first_delta_ms: int | None = None  #: of the attempt; ``None``: it has streamed nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHistoryCompaction:
    """Somebody wants the history summarised, or brings a summary: up to the message ``to_seq``."""

    request_id: str
    command_hash: str
    instructions: str | None
    reply: ReplyAddress
    summary: str | None = None
    to_seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHistoryCompaction:
    """A run made a summary. ``request_id``: of the request that it answers."""

    summary: HistorySummary
    trigger: str
    model: str | None
    tokens_before: int
    tokens_after: int
    usage: Usage
    duration_ms: int = 0
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailHistoryCompaction:
    """The model of a run made no summary."""

    history_seq: int
    trigger: str
    code: str
    reason: str
    model: str | None
    usage: Usage
    duration_ms: int = 0
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipHistoryCompaction:
    """A run on request found nothing to do."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleSession:
    """The fast model has a title for the session."""

    title: str
    instead_of: str  #: the one that it had: another one stays
    model: str
    usage: Usage


SessionCommand = (
    AcceptChat
    | Refuse
    | Cancel
    | Archive
    | Hide
    | Update
    | Erase
    | ReceiveForward
    | ReceiveReceipt
    | ResumeTurn
    | RecordMessage
    | CompleteTurn
    | FailAttempt
    | RequestHistoryCompaction
    | RecordHistoryCompaction
    | FailHistoryCompaction
    | SkipHistoryCompaction
    | TitleSession
)
