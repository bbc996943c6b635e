"""Events: the facts of the log. Names and fields are the storage format: they are never renamed.

A recorded event is an :class:`EventHeader` (which stream, which position, under which claim) and one payload.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from turnlog_schemas.compaction_events import (
    HistoryCompacted as HistoryCompacted,
)
from turnlog_schemas.compaction_events import (
    HistoryCompactionFailed as HistoryCompactionFailed,
)
from turnlog_schemas.compaction_events import (
    HistoryCompactionRequested as HistoryCompactionRequested,
)
from turnlog_schemas.compaction_events import (
    HistoryCompactionSkipped as HistoryCompactionSkipped,
)
from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import (
    DEFAULT_ADDRESS,
    CancelRequest,
    ClientTool,
    ContentPart,
    NewSession,
    ReplyAddress,
    ToolCall,
    ToolOutput,
    Usage,
)

SESSION = "session"
CHANNEL = "channel"
PARTITION = "partition"

#: Of the logs that this version writes and reads; every claim says it. Raised only where events are no longer read as
#: they were meant, which no release may do. 0: not said, by a development build from before the first release.
LOG_FORMAT = 1
#: Of a log whose texts are sealed, in the claims of its owners: who cannot open seals must not take blanks for texts.
SEALED_LOG_FORMAT = 2


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class EventHeader:
    """Where an event stands. Its id is (partition, epoch, n)."""

    stream_kind: str  #: ``session``, ``channel`` or ``partition``
    stream_id: str
    stream_version: int  #: +1 for each event of the stream, from 1
    epoch: int  #: offset of the claim it was written under; -1 on a claim
    n: int  #: 0, 1, 2 ... under that claim; -1 on a claim
    accepted: int  #: every request up to this offset is decided, with all its events in the log up to this record
    replied: int  #: terminal frames of all events up to this offset are sent
    turn_id: str | None = None
    attempt: int = 0
    recorded_at: int = 0  #: milliseconds since 1970, the owner's clock: shown, never ordered by


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionClaimed:
    """An owner opens an epoch: the offset of this record."""

    owner: str
    incarnation: str  #: random, one per claim: finds the claim again when the broker's answer is lost
    generation: int  #: of the consumer group: a hint for writers, readers ignore it
    partition_count: int
    requests_topic_id: str
    log_format: int = 0  #: :data:`LOG_FORMAT` of its writer


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDeadLettered:
    """A request that nobody can read or decide; its bytes went to the dead-letter topic before this event."""

    offset: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsLost:
    """Requests that were gone or unreadable before they were accepted (both ends inclusive)."""

    from_offset: int
    to_offset: int
    reason: str | None = None  #: why, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCreated:
    """A session begins."""

    new_session: NewSession  #: as it is now: its channel, if it has one, its title and what else was said of it
    request_id: str | None = None  #: of the request that made it


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAccepted:
    """A user message is accepted: from here on its turn ends in exactly one terminal event.

    Holds all that a later owner needs to run and to answer it.
    """

    request_id: str
    command_hash: str
    content: tuple[ContentPart, ...]
    model: str | None = None  #: as the request asked
    reply: ReplyAddress = DEFAULT_ADDRESS
    params: GenerationParams | None = None  #: as the request asked
    tools: tuple[ClientTool, ...] = ()  #: that the sender runs
    opened: bool = False  #: it made the session
    name: str | None = None  #: of who says it


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutputsAccepted:
    """The outputs of all calls that the session waits for are accepted: a turn that goes on from them.

    As :class:`TurnAccepted` in all else. A type of its own: who does not know it must not run the turn without them.
    """

    request_id: str
    command_hash: str
    outputs: tuple[ToolOutput, ...]
    content: tuple[ContentPart, ...] = ()  #: what the user says beside them, if anything
    model: str | None = None
    reply: ReplyAddress = DEFAULT_ADDRESS
    params: GenerationParams | None = None
    tools: tuple[ClientTool, ...] = ()
    opened: bool = False
    name: str | None = None  #: of who says what is beside them


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """An attempt at a turn begins (its number is in the header)."""

    model: str  #: the effective one
    cause: str  #: ``first``, ``retry`` (the runner failed) or ``takeover`` (the owner was lost)
    error: str | None = None  #: why the attempt before it ended, for ``retry``
    usage: Usage | None = None  #: what that attempt had cost beside what its messages tell
    params: GenerationParams | None = None  #: the effective ones: the deployment's, the session's and the request's


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class MessageStored:
    """A whole message of the history."""

    message_seq: int  #: position in the session's history, from 1
    role: str  #: ``user``, ``assistant`` or ``tool``
    content: tuple[ContentPart, ...] | None = None  #: ``None`` and the empty text differ
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    interrupted: bool = False  #: synthesised: the call's outcome is unknown (it may have run, or may yet run)
    truncated: bool = False  #: the content was cut at the size limit
    usage: Usage | None = None  #: what the attempt has cost since its message before that told; absent: nothing new
    outcome: str | None = (
        None  #: of the call that a ``tool`` message answers, one of ``parts.OUTCOMES``; absent: not said
    )
    imported: bool = False  #: said elsewhere, in no turn: the session was opened with it


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCompleted:
    """The turn ended well."""

    usage: Usage  #: of the whole turn: all its attempts, as far as they told
    duration_ms: int = 0
    requires_action: bool = False  #: the session waits for the outputs of the calls that its sender runs
    first_delta_ms: int | None = None  #: from the start of the attempt that ended it to its first delta; absent: none


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFailed:
    """The turn ended with an error."""

    code: str
    reason: str
    usage: Usage
    duration_ms: int = 0
    first_delta_ms: int | None = None  #: from the start of the attempt that ended it to its first delta; absent: none


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCancelled:
    """The turn was ended on purpose; what it had said is kept as a message."""

    reason: str
    usage: Usage
    duration_ms: int = 0
    by: CancelRequest | None = None  #: absent: no request asked for it (a newer message, an archived session)
    first_delta_ms: int | None = None  #: from the start of the attempt that ended it to its first delta; absent: none


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnHidden:
    """Somebody wants the turn (in the header) not to be shown. It stays what it is."""

    request_id: str
    command_hash: str
    reply: ReplyAddress = DEFAULT_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """A readable request that is not carried out."""

    request_id: str
    command_hash: str
    code: str
    reason: str
    reply: ReplyAddress = DEFAULT_ADDRESS
    reused: bool = False  #: the id was used before, for another command: that one's answer stays what it is


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTitled:
    """A session that was created without a title got one."""

    title: str
    model: str | None = None  #: that wrote it; absent: it is the beginning of the first message
    usage: Usage | None = None  #: of that model's call


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUpdated:
    """Somebody changed what was said of the session when it was made. All of it, as it is from here on."""

    title: str
    model: str | None = None
    instructions: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionArchived:
    """No more turns are accepted; the running one may end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionErased:
    """The session's texts cannot be read any more: the receipt. Nothing but this stays of it, and it takes nothing.

    The times are counted from this event, in milliseconds; -1: for ever, 0: not said.
    """

    request_id: str
    command_hash: str  #: of a command without fields: the same for every request
    requests_kept_ms: int = 0  #: requests that held its texts are gone then
    replies_kept_ms: int = 0
    dead_letters_kept_ms: int = 0
    key_kept_ms: int = 0  #: the broker may hold the bytes of its dropped key until then
    reply: ReplyAddress = DEFAULT_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionActivated:
    """The session is its channel's active one again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDeactivated:
    """Another session is the channel's active one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSessionOpened:
    """A session belongs to the channel from here on, and is its active one."""

    session_id: str
    by: str  #: ``request`` (create, resolve, rotate) or ``chat``
    new_session: NewSession


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSessionArchived:
    """One of the channel's sessions is archived, or turned out to be none of this channel."""

    session_id: str
    active: str | None = None  #: session id: the channel's active session from here on


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSessionErased:
    """What the channel knew of one of its sessions cannot be read any more."""

    session_id: str
    rank: int  #: of the session in its channel


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDecided:
    """The answer of a lifecycle request of a channel or a session, sent once the forwards it waits for arrived."""

    request_id: str
    command_hash: str
    session_id: str
    created: bool
    waits_for: tuple[int, ...] = ()  #: seqs of the stream's forwards
    reply: ReplyAddress = DEFAULT_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandForwarded:
    """The stream has something to tell another one; pending until its delivery is an event too."""

    seq: int  #: of this stream's forwards, from 1
    target_kind: str
    target_id: str
    what: str
    new_session: NewSession | None = None
    request_id_of_origin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardDelivered:
    """The target has the forward in its log."""

    seq: int
    refused: bool = False  #: the session that it was to create is none of this channel, which gives it up


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardReceived:
    """A forward arrived; whatever follows from it is in the same decision."""

    source_kind: str
    source_id: str
    seq: int


Event = (
    PartitionClaimed
    | RequestDeadLettered
    | RequestsLost
    | SessionCreated
    | TurnAccepted
    | ToolOutputsAccepted
    | TurnStarted
    | MessageStored
    | TurnCompleted
    | TurnFailed
    | TurnCancelled
    | TurnHidden
    | RequestRefused
    | SessionTitled
    | SessionUpdated
    | SessionArchived
    | SessionErased
    | SessionActivated
    | SessionDeactivated
    | ChannelSessionOpened
    | ChannelSessionArchived
    | ChannelSessionErased
    | RequestDecided
    | CommandForwarded
    | ForwardDelivered
    | ForwardReceived
    | HistoryCompactionRequested
    | HistoryCompacted
    | HistoryCompactionFailed
    | HistoryCompactionSkipped
)
EVENTS: tuple[type, ...] = get_args(Event)
