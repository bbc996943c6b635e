"""Commands: what a producer may ask for. A request is a :class:`RequestHeader` and one command."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import ClientTool, ContentPart, NewSession, ToolOutput

#: Session ids and channels: 1-128 of these characters.
ID_PATTERN = r"[A-Za-z0-9._-]{1,128}"
ON_BUSY = ("enqueue", "reject", "interrupt")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeader:
    """The fields that every request has."""

    request_id: str | None = None  #: the producer's idempotency key; absent: ``topic-partition-offset``
    session_id: str | None = None
    channel: str | None = None
    reply_to: str | None = None  #: a reply topic; absent: the default one
    sent_at: int | None = None  #: milliseconds since 1970, the producer's clock: shown, never ordered by
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One user message to a session, or the outputs of calls that it waits for; creates it when it does not exist."""

    content: tuple[ContentPart, ...]  #: may be empty where there are ``tool_outputs``; else it follows them
    model: str | None = None
    on_busy: str = "enqueue"  #: one of :data:`ON_BUSY`
    new_session: NewSession | None = None  #: used only when this chat creates the session
    params: GenerationParams | None = None  #: of this turn
    tools: tuple[ClientTool, ...] = ()  #: that the sender runs, beside those of the worker; of this turn
    tool_outputs: tuple[ToolOutput, ...] = ()  #: of all calls that the session waits for
    after_turn: str | None = None  #: refused unless it comes directly behind this turn; empty: behind none
    name: str | None = None  #: of who says it, where several people speak: 1-64 of A-Z a-z 0-9 _ -


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTurn:
    """End a turn on purpose: a queued one, or the running one, whose partial text is kept. Absent: the running one."""

    turn_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HideTurn:
    """Mark a turn as hidden, for good: nothing is erased, and models see it as before. One of the two names it."""

    turn_id: str | None = None
    of_request: str | None = None  #: the id of the request that the turn belongs to


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSession:
    """Change what was said of a session when it was made. What is absent stays; an empty text takes it back."""

    title: str | None = None  #: empty: none, so that its next message gives it one
    model: str | None = None  #: empty: the channel's default, or the deployment's
    instructions: str | None = None
    set_metadata: Mapping[str, str] = field(default_factory=dict)  #: by name; the others stay
    remove_metadata: tuple[str, ...] = ()  #: names; those that it does not have are no fault


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseSession:
    """Make every text of the session unreadable, for good, and take nothing more for it. Of sealed logs only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRunner:
    """Close the session's runner; its next turn makes a new one, by the settings of then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSession:
    """What the owner knows of the session: read your writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetHistory:
    """A page of the session's messages, in turn order."""

    after: int = 0  #: the message_seq after which the page begins
    limit: int = 100
    skip_covered: bool = False  #: leave out the messages that a summary stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactHistory:
    """Summarise the messages before the kept tail; they stay readable. Answered with the summary.

    Whoever has a summary brings it, both fields together: then no model is asked.
    """

    instructions: str | None = None  #: what the summary must take care of
    summary: str | None = None  #: that is brought
    to_seq: int | None = None  #: the last message (its message_seq) that it stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSession:
    """Open a session in the channel; it becomes the active one. The header's session_id, if any, is its id."""

    new_session: NewSession | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveSession:
    """The channel's active session; a new one if there is none. Atomic per channel."""

    new_session: NewSession | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateSession:
    """Archive the channel's active session, if any, and open a new one."""

    new_session: NewSession | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSession:
    """Archive the session that the header names: it stays readable, later chats to it are refused.

    The session decides; where the header names its channel, too, the channel does, and tells the session.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSession:
    """Which session of the channel is the active one: the one opened last that is not archived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """Internal: what one stream has to tell another, in another partition. Delivered at least once, in order."""

    source_kind: str
    source_id: str
    target_kind: str
    seq: int  #: of the source's forwards, from 1
    what: str  #: ``created``, ``archived``, ``activated``, ``deactivated``; to a channel ``opened``, ``archived``
    new_session: NewSession | None = None
    request_id_of_origin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardReceipt:
    """Internal: the target's word that a forward is in its log."""

    source_kind: str
    source_id: str
    target_kind: str
    target_id: str
    seq: int
    refused: bool = False  #: the session that it was to create is there already, and none of this channel


SessionRequest = (
    Chat | CancelTurn | HideTurn | UpdateSession | EraseSession | ResetRunner | GetSession | GetHistory | CompactHistory
)
ChannelRequest = CreateSession | ResolveSession | RotateSession | ArchiveSession | ActiveSession
Command = SessionRequest | ChannelRequest | Forwarded | ForwardReceipt
SESSION_COMMANDS: tuple[type, ...] = (
    *(Chat, CancelTurn, HideTurn, UpdateSession, EraseSession, ResetRunner, GetSession, GetHistory, CompactHistory),
)
CHANNEL_COMMANDS: tuple[type, ...] = (CreateSession, ResolveSession, RotateSession, ArchiveSession, ActiveSession)
COMMANDS: tuple[type, ...] = (*SESSION_COMMANDS, *CHANNEL_COMMANDS, Forwarded, ForwardReceipt)


def is_for_channel(command: object, channel: str | None) -> bool:
    """Does a channel decide it? Else a session does. An archive that names no channel is its session's."""
    return isinstance(command, CHANNEL_COMMANDS) and not (isinstance(command, ArchiveSession) and channel is None)
