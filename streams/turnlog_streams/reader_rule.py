"""The reader's rule: which records of an event log count.

The same few lines serve the owner, the projection, the client and the checker. A claim is always accepted and its
offset opens an epoch. Any other event is accepted if and only if its epoch equals the highest claim offset seen in
the partition and its ``n`` is the next one. Everything else is inert, for every reader, for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.events import LOG_FORMAT, SEALED_LOG_FORMAT, EventHeader, PartitionClaimed
from turnlog_streams.records import changed

NO_EPOCH = -1


class ForeignRecord:
    """The payload of a record that nobody of ours wrote: not in our framing. It is inert, for every reader."""


#: Its header: no rule accepts it.
FOREIGN_HEADER = EventHeader(
    stream_kind="foreign", stream_id="", stream_version=0, epoch=-1, n=-1, accepted=-1, replied=-1, recorded_at=0
)
FOREIGN = FOREIGN_HEADER, ForeignRecord()


class NotRead:
    """In the place of a payload that somebody else reads."""


NOT_READ = NotRead()


@dataclass(slots=True, kw_only=True)
class SkimmedRecord:
    """A record of which only what the rule asks is read, and how far its writer was: it is its own header."""

    epoch: int
    n: int
    accepted: int
    replied: int

    @property
    def header(self) -> "SkimmedRecord":
        """As of a :class:`LoggedEvent`."""
        return self

    @property
    def payload(self) -> NotRead:
        """No claim: those are read."""
        return NOT_READ


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """A record of the event log, as read (or as confirmed by its writer), with its place."""

    partition: int
    offset: int
    header: EventHeader
    payload: Any  #: an event, or ``UnknownPayload`` for a type that this version does not know
    logged_at: int = -1  #: Kafka's timestamp of the record, milliseconds since 1970; -1: not known here


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """How far a reader of one partition has come, and under which claim: the checkpoint of a store is one of these."""

    next_offset: int = 0
    epoch: int = NO_EPOCH  #: offset of the highest claim seen
    next_n: int = 0  #: the only ``n`` that is accepted next
    accepted: int = -1  #: highest request offset that is decided
    replied: int = -1  #: terminal frames of events up to this offset are sent
    newest_generation: int = -1  #: of any claim: a hint for writers
    partition_count: int = 0  #: as the last claim says; 0: no claim yet
    requests_topic_id: str = ""  #: as the last claim says
    last_event_id: str = ""  #: of the record before ``next_offset``: tells a re-created log


class LogFormatError(ValueError):
    """A log that this version must not read: its events do not mean what they mean here."""


def check_log_format(payload: object, topic: str, partition: int, offset: int, *, sealed: bool = False) -> None:
    """Look at every record, before anything is made of those behind it. Raises :class:`LogFormatError`.

    ``sealed``: this reader can open what is sealed.
    """
    if not isinstance(payload, PartitionClaimed):
        return
    if payload.log_format == (SEALED_LOG_FORMAT if sealed else LOG_FORMAT):
        return
    where = f"{topic}[{partition}]@{offset}"
    if payload.log_format == SEALED_LOG_FORMAT:
        raise LogFormatError(
            f"{where}: the texts of this log are sealed, and this process finds no topic with their keys: restore "
            "it, or grant the right to read it"
        )
    if sealed and payload.log_format == LOG_FORMAT:
        raise LogFormatError(
            f"{where}: this log keeps its texts in the clear, although there is a topic for keys: sealing is chosen "
            "when a prefix is made. Remove that topic"
        )
    if payload.log_format > LOG_FORMAT:
        raise LogFormatError(
            f"{where}: the log is of format {payload.log_format}, this version reads format {LOG_FORMAT}: upgrade it"
        )
    raise LogFormatError(
        f"{where}: the log was written by an earlier development build, whose events this version cannot read. "
        "Use a new prefix (TURNLOG_PREFIX) or, for a development stack, a new data directory (TURNLOG_DATA_DIR)"
    )


def is_accepted(position: LogPosition, header: EventHeader, payload: object) -> bool:
    """The rule itself."""
    if isinstance(payload, PartitionClaimed):
        return True
    return header.epoch == position.epoch and header.n == position.next_n and position.epoch != NO_EPOCH


def advance(position: LogPosition, offset: int, header: EventHeader, payload: object) -> LogPosition:
    """The position behind the record at ``offset``, whether it counts or not."""
    last_event_id = record_id(header, payload)
    if isinstance(payload, PartitionClaimed):
        return changed(
            position,
            next_offset=offset + 1,
            epoch=offset,
            next_n=0,
            newest_generation=max(position.newest_generation, payload.generation),
            partition_count=payload.partition_count,
            requests_topic_id=payload.requests_topic_id,
            last_event_id=last_event_id,
        )
    if not is_accepted(position, header, payload):
        return changed(position, next_offset=offset + 1, last_event_id=last_event_id)
    return changed(
        position,
        next_offset=offset + 1,
        next_n=position.next_n + 1,
        accepted=max(position.accepted, header.accepted),
        replied=max(position.replied, header.replied),
        last_event_id=last_event_id,
    )


def read_on(position: LogPosition, batch: Sequence[LoggedEvent]) -> tuple[list[LoggedEvent], LogPosition]:
    """What counts of the next records, and the position behind them: the same as record by record, for less.

    A new owner reads a log of millions.
    """
    accepted: list[LoggedEvent] = []
    epoch, next_n, decided, replied = position.epoch, position.next_n, position.accepted, position.replied
    for event in batch:
        header = event.header
        if isinstance(event.payload, PartitionClaimed):
            before = changed(position, next_n=next_n, accepted=decided, replied=replied)
            position = advance(before, event.offset, header, event.payload)
            epoch, next_n = position.epoch, position.next_n
        elif header.epoch == epoch and header.n == next_n and epoch != NO_EPOCH:
            next_n += 1
            if header.accepted > decided:
                decided = header.accepted
            if header.replied > replied:
                replied = header.replied
        else:
            continue
        accepted.append(event)
    if batch:
        position = changed(
            position,
            next_offset=batch[-1].offset + 1,
            next_n=next_n,
            accepted=decided,
            replied=replied,
            last_event_id=record_id(batch[-1].header, batch[-1].payload),
        )
    return accepted, position


def advance_own(position: LogPosition, base: int, records: Sequence[tuple[EventHeader, object]]) -> LogPosition | None:
    """The position behind records that an owner appended at ``base``; ``None`` if one of them is not the next one.

    Equal to :func:`advance` over each of them, claims excepted: an owner appends hundreds at a time.
    """
    if not records or position.epoch == NO_EPOCH:
        return None if records else position
    next_n, accepted, replied = position.next_n, position.accepted, position.replied
    epoch = position.epoch
    for header, payload in records:
        if header.epoch != epoch or header.n != next_n or payload.__class__ is PartitionClaimed:
            return None
        next_n += 1
        if header.accepted > accepted:
            accepted = header.accepted
        if header.replied > replied:
            replied = header.replied
    return changed(
        position,
        next_offset=base + len(records),
        next_n=next_n,
        accepted=accepted,
        replied=replied,
        last_event_id=record_id(*records[-1]),
    )


def record_id(header: EventHeader, payload: object) -> str:
    """What identifies a record to a store that comes back to its checkpoint."""
    if isinstance(payload, PartitionClaimed):
        return payload.incarnation
    return f"{header.epoch}.{header.n}.{header.stream_id}"
