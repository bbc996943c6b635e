"""Commands: what a producer may ask for. A request is a :class:`RequestHeader` and one command."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.parts import ContentPart, NewSession

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
    """One user message to a session; creates the session when it does not exist."""

    content: tuple[ContentPart, ...]
    model: str | None = None
    on_busy: str = "enqueue"  #: one of :data:`ON_BUSY`
    new_session: NewSession | None = None  #: used only when this chat creates the session


Command = Chat
COMMANDS: tuple[type, ...] = (Chat,)
