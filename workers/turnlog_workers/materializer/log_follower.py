"""Following the whole event log with kafka-python: explicit positions, no group, no silent reset, no gap."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    CorruptRecordError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from turnlog_schemas.codec import Codec, is_foreign
from turnlog_schemas.errors import UnknownFingerprintError, WireError
from turnlog_schemas.events import EventHeader
from turnlog_streams.reader_rule import (
    FOREIGN,
    LogFormatError,
    LoggedEvent,
    LogPosition,
    advance,
    check_log_format,
    is_accepted,
    record_id,
)
from turnlog_workers.base.ports import LogAuthorizationError, LogBrokenError
from turnlog_workers.materializer.sealed_records import SealedRecords

#: How a consumer for this must be made.
OPTIONS: Mapping[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "allow_auto_create_topics": False,
    "max_partition_fetch_bytes": 8 * 1024 * 1024,
    # Fewer, larger answers while little comes in: rows are committed twice a second at most.
    "fetch_min_bytes": 64 * 1024,
    "fetch_max_wait_ms": 250,
}
DeadLetter = tuple[int, int, bytes]  #: partition and offset of the request, and its bytes


class OtherLogError(Exception):
    """The checkpoints do not belong to this log; the text says how we know."""


class UnreadableBatchError(Exception):
    """The client library cannot parse what came, of whichever topic: this consumer is good for nothing any more."""


class LogFollower:
    """Reads all partitions of the event log from given positions on, and the dead letters' bytes beside them."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        *,
        events: str,
        partitions: int,
        dead_letters: Iterable[TopicPartition],
        codec: Codec,
        refresh_schemas: Callable[[], None],
        timeout_s: float,
        sealed: SealedRecords | None = None,
    ) -> None:
        """``refresh_schemas`` reads the schemas topic again; ``timeout_s`` bounds each question to the broker.

        ``sealed``: what opens the records of a sealed log.
        """
        self._consumer = consumer
        self._events = [TopicPartition(events, partition) for partition in range(partitions)]
        self._dead_letters = list(dead_letters)
        self._codec = codec
        self._refresh_schemas = refresh_schemas
        self._timeout_s = timeout_s
        self._sealed = sealed
        self.positions: dict[int, LogPosition] = {}
        self._unverified: set[int] = set()
        consumer.assign([*self._events, *self._dead_letters])

    def ends(self) -> dict[int, int]:
        """Where the log ends now. Raises :class:`LogBrokenError` when that is before a position."""
        ends = self._ends()
        for tp in self._events:
            position = self.positions[tp.partition]
            if ends[tp] < position.next_offset:
                raise LogBrokenError(
                    f"{tp.topic}[{tp.partition}] ends at {ends[tp]}, and {position.next_offset} was read already: "
                    "the topic was re-created. Start again to have the file rebuilt"
                )
        return {tp.partition: ends[tp] for tp in self._events}

    def _ends(self) -> Mapping[TopicPartition, int]:
        ends: Mapping[TopicPartition, int] = self._consumer.end_offsets(
            self._events, timeout_ms=int(self._timeout_s * 1000)
        )
        return ends

    def start(self, positions: Mapping[int, LogPosition]) -> None:
        """Go on from these checkpoints. Reading begins one record earlier: it must be the one that it was."""
        self.positions = {tp.partition: positions[tp.partition] for tp in self._events}
        self._unverified = {partition for partition, position in self.positions.items() if position.next_offset > 0}
        ends = self._ends()
        for tp in self._events:
            start = self.positions[tp.partition].next_offset
            if ends[tp] < start:
                raise OtherLogError(f"{tp.topic}[{tp.partition}] ends at {ends[tp]}, before {start}")
            self._consumer.seek(tp, start - 1 if tp.partition in self._unverified else start)
        if self._dead_letters:
            self._consumer.seek_to_beginning(*self._dead_letters)
            self._consumer.pause(*self._dead_letters)

    def has_reached(self, ends: Mapping[int, int]) -> bool:
        """Is everything up to these offsets read, and is it the log that the checkpoints are of?"""
        return not self._unverified and all(self.positions[p].next_offset >= end for p, end in ends.items())

    def follow_dead_letters(self) -> None:
        """Read the parked requests too, from the oldest on: once the events that tell of them are read."""
        if self._dead_letters:
            self._consumer.resume(*self._dead_letters)

    def poll(self, timeout_s: float, max_records: int) -> tuple[list[LoggedEvent], list[DeadLetter]]:
        """Accepted events in log order, and parked requests; moves :attr:`positions` on.

        Raises :class:`OtherLogError`, :class:`UnreadableBatchError`, :class:`LogBrokenError` or
        :class:`LogAuthorizationError`.
        """
        try:
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        except OffsetOutOfRangeError as error:
            self._out_of_range(error)
            return [], []
        except TopicAuthorizationFailedError as error:
            raise LogAuthorizationError(f"the broker refuses to let us read: {error}") from error
        except (CorruptRecordError, UnsupportedCodecError) as error:
            # Asked again, kafka-python 3.0.12 does not return and burns CPU.
            raise UnreadableBatchError(f"{type(error).__name__}: {error}"[:300]) from error
        accepted: list[LoggedEvent] = []
        parked: list[DeadLetter] = []
        for tp, records in polled.items():
            if tp in self._dead_letters:
                parked += [letter for record in records if (letter := _dead_letter(record)) is not None]
            else:
                accepted += self._accepted(tp, records)
        return accepted, parked

    def _out_of_range(self, error: OffsetOutOfRangeError) -> None:
        gone: Mapping[TopicPartition, int] = error.args[0] if error.args else {}
        if any(tp in self._events and tp.partition in self._unverified for tp in gone):
            raise OtherLogError(f"records are gone from the log ({error})") from error
        lost = [f"{tp.topic}[{tp.partition}]@{offset}" for tp, offset in gone.items() if tp not in self._dead_letters]
        if lost or not gone:
            raise LogBrokenError(
                f"{', '.join(lost) or error} is not in the log: records were deleted, or the topic was re-created. "
                "The event log must keep everything (run: turnlog doctor); if it was re-created, start again"
            ) from error
        self._consumer.seek_to_beginning(*gone)  # dead letters are kept for 30 days only

    def _accepted(self, tp: TopicPartition, records: Iterable[Any]) -> list[LoggedEvent]:
        position = self.positions[tp.partition]
        accepted: list[LoggedEvent] = []
        for record in records:
            if tp.partition in self._unverified:
                self._verify(tp, record)
                continue
            if record.offset != position.next_offset:
                raise LogBrokenError(
                    f"{tp.topic}[{tp.partition}]: after offset {position.next_offset - 1} comes {record.offset}. The "
                    "event log has a hole: it must be neither compacted nor written in transactions"
                )
            header, payload = self._decode(record)
            try:
                check_log_format(payload, tp.topic, tp.partition, record.offset, sealed=self._sealed is not None)
            except LogFormatError as error:
                raise LogBrokenError(str(error)) from error
            if is_accepted(position, header, payload):
                accepted.append(
                    LoggedEvent(
                        partition=tp.partition,
                        offset=record.offset,
                        header=header,
                        payload=payload,
                        logged_at=record.timestamp,
                    )
                )
            position = advance(position, record.offset, header, payload)
        self.positions[tp.partition] = position
        return accepted

    def _verify(self, tp: TopicPartition, record: Any) -> None:
        """The first record is the one before the checkpoint."""
        position = self.positions[tp.partition]
        where = f"{tp.topic}[{tp.partition}]@{position.next_offset - 1}"
        if record.offset != position.next_offset - 1:
            raise OtherLogError(f"{where} is gone")
        if record_id(*self._decode(record)) != position.last_event_id:
            raise OtherLogError(f"{where} is another record")
        self._unverified.discard(tp.partition)

    def _opened(self, record: Any, value: bytes) -> bytes:
        return value if self._sealed is None else self._sealed.open(record.partition, value, record.headers)

    def _decode(self, record: Any) -> tuple[EventHeader, Any]:
        value = record.value or b""
        if is_foreign(value):
            return FOREIGN
        try:
            try:
                return self._codec.decode(self._opened(record, value))
            except UnknownFingerprintError:
                self._refresh_schemas()
                return self._codec.decode(self._opened(record, value))
        except WireError as error:
            raise LogBrokenError(
                f"{record.topic}[{record.partition}]@{record.offset} cannot be read as an event: {error}"
            ) from error


def _dead_letter(record: Any) -> DeadLetter | None:
    """A parked request and where it came from; ``None`` for a record that does not say (nobody of ours wrote it)."""
    headers = dict(record.headers or ())
    try:
        return int(headers["x-turnlog-partition"]), int(headers["x-turnlog-offset"]), record.value or b""
    except (KeyError, ValueError):
        return None
