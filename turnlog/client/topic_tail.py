"""What stands in the event log or the reply topic, from a place on: for people who look, record by record.

Nothing is left out and nothing is judged: events of owners that were overtaken and frames of overtaken attempts are
there too (read uncommitted, as the product reads). Memory is bounded by one fetch.
"""

import re
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from turnlog.client.channel_sessions import ChannelSessions
from turnlog.client.frame_decoder import FrameDecoder
from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.client.replies import ReplyFrame
from turnlog.client.reply_consumer import ReplyConsumer, StartAt, from_beginning, from_end
from turnlog.client.request_sender import RequestSender
from turnlog.errors import UsageError
from turnlog_schemas.codec import Codec, UnknownPayload
from turnlog_schemas.registry import EVENTS, FRAMES
from turnlog_schemas.type_names import snake
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings

_LAST = re.compile(r"-[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to begin, in each partition."""

    at: str = "end"  #: ``beginning`` or ``end``, where nothing else is said
    last: int = 0  #: so many records before the end
    since_ms: int | None = None  #: the first record of this moment or later, milliseconds since 1970

    @classmethod
    def of(cls, said: str) -> "Place":
        """``beginning``, ``end``, ``-5`` or a moment in ISO 8601 (without a zone: UTC). Raises UsageError."""
        if said in ("beginning", "end"):
            return cls(at=said)
        if _LAST.fullmatch(said):
            return cls(last=-int(said))
        try:
            moment = datetime.fromisoformat(said)
        except ValueError:
            raise UsageError(
                f"--offset {said[:80]!r}: beginning, end, -5 (the last 5 of each partition) or a moment such as "
                "2026-05-01T12:00"
            ) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return cls(since_ms=max(int(moment.timestamp() * 1000), 0))

    def start(self) -> StartAt:
        """Its offsets, as far as the bounds of the partitions tell."""
        if self.last:
            return lambda bounds: {each: max(first, end - self.last) for each, (first, end) in bounds.items()}
        return from_beginning if self.at == "beginning" else from_end


@dataclass(slots=True, kw_only=True)
class Filter:
    """Which records are shown: those that pass everything that is said."""

    session: str | None = None
    types: Collection[str] = ()  #: as they are named, or in snake case
    channel: str | None = None
    members: set[str] = field(default_factory=set)  #: ids of the channel's sessions that are known; it learns more

    def __post_init__(self) -> None:
        """Types are compared in snake case."""
        self.types = {snake(each) for each in self.types}

    def passes(self, header: Any, payload: Any) -> bool:
        """Is it to be shown?"""
        kind, subject = _subject(header)
        if self.channel is not None and not self.is_of_channel(header, payload):
            return False
        if self.session is not None and (kind, subject) != ("session", self.session):
            return False
        return not self.types or type_of(payload) in self.types

    def unknown_session(self, header: Any) -> str | None:
        """The session of a record, where it is not known to be the channel's, and may be."""
        kind, subject = _subject(header)
        return subject if self.channel is not None and kind == "session" and subject not in self.members else None

    def is_of_channel(self, header: Any, payload: Any) -> bool:
        """Is it the channel's, or of one of its sessions? What it says of a session is remembered."""
        kind, subject = _subject(header)
        if kind == "channel":
            opened = getattr(payload, "session_id", None)
            if subject == self.channel and opened:
                self.members.add(opened)
            return subject == self.channel
        said = getattr(getattr(payload, "new_session", None), "channel", None) or getattr(header, "channel", None)
        if kind == "session" and said == self.channel and subject:
            self.members.add(subject)
        return kind == "session" and subject in self.members


def _subject(header: Any) -> tuple[str, str]:
    """Whose record it is: ``session`` or ``channel``, and its id."""
    kind = getattr(header, "stream_kind", "session")
    return kind, header.stream_id if hasattr(header, "stream_id") else header.session_id


def type_of(payload: Any) -> str:
    """The type of an event or frame, in snake case."""
    return snake(payload.name if isinstance(payload, UnknownPayload) else type(payload).__name__)


def codec_of(events: bool) -> Codec:
    """What reads the topic."""
    return Codec(EVENTS if events else FRAMES)


def wrong_type(types: Collection[str], *, events: bool) -> str | None:
    """Why there is no such type; ``None``: there is."""
    known = {snake(each.__name__): each.__name__ for each in (EVENTS if events else FRAMES).payloads}
    for each in types:
        if snake(each) not in known:
            return f"--type {each[:80]!r} is none of {', '.join(sorted(known.values()))}"
    return None


async def tail(
    settings: Settings,
    *,
    events: bool,
    place: Place,
    wanted: Filter,
    partitions: Collection[int] = (),
    sessions: ChannelSessions | None = None,
) -> AsyncGenerator[ReplyFrame, None]:
    """The frames, or the events (each in the place of a frame), that are wanted, without end.

    ``sessions``: asked about those that are not known to be of the channel that is wanted.

    Raises :class:`NotFoundError` for a topic that is not there, :class:`BrokerUnreachableError`, :class:`UsageError`.
    """
    topic = settings.topics.events if events else settings.topics.replies
    read = await _partitions(settings, topic, wanted.session, partitions)
    decoder = FrameDecoder(settings, codec_of(events))
    consumer = ReplyConsumer(settings, client_id="turnlog-tail", connect_timeout_s=CONNECT_TIMEOUT_S)
    await consumer.start(topic, read, place.start())
    try:
        if place.since_ms is not None:
            await consumer.seek_to_moment(topic, read, place.since_ms)
        async for records in consumer.batches():
            for record in records:
                found = await decoder.decode(record)
                if found is None:
                    continue
                if sessions is not None and (session_id := wanted.unknown_session(found.header)):
                    await sessions.meet(session_id)
                if wanted.passes(found.header, found.frame):
                    yield found
    finally:
        await consumer.stop()


async def _partitions(settings: Settings, topic: str, session: str | None, wanted: Collection[int]) -> list[int]:
    sender = RequestSender(
        settings,
        client_id="turnlog-tail",
        connect_timeout_s=CONNECT_TIMEOUT_S,
        send_timeout_s=CONNECT_TIMEOUT_S,
    )
    try:
        there = await sender.partitions(topic)
    finally:
        await sender.stop()
    if missing := sorted(set(wanted) - set(there)):
        raise UsageError(f"--partition {missing[0]}: {topic} has the partitions 0 to {len(there) - 1}")
    if session is None:
        return sorted(wanted) if wanted else there
    own = partition_of(session.encode(), len(there))
    if wanted and own not in wanted:
        raise UsageError(f"session {session} is in {topic}[{own}], not in the partitions that --partition names")
    return [own]
