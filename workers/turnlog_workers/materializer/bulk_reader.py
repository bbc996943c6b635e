"""Reading the event log up to a bound, partition after partition, with the workers' reader.

The client of ``log_follower`` takes three times as long. Same rule, same checks.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvloop

from turnlog_streams.reader_rule import LoggedEvent, LogPosition, read_on, record_id
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogBrokenError
from turnlog_workers.kafka.event_log import KafkaEventLog
from turnlog_workers.kafka.log_to_read import log_to_read
from turnlog_workers.kafka.topic_reader import TopicReader
from turnlog_workers.kafka.topics_admin import sealed_partitions
from turnlog_workers.materializer.log_follower import OtherLogError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Where to stop reading. A partition ends at its offset, or before what comes later than its moment."""

    ends: Mapping[int, int]  #: by partition: the first offset that is not read
    #: By partition, milliseconds since 1970: it ends before its first accepted event with a later Kafka timestamp.
    moments: Mapping[int, int] = field(default_factory=dict)
    records: int | None = None  #: that will be read, as far as can be told; absent: all below the ends


class BulkReader:
    """The accepted events of some partitions from given positions on, up to a bound. Use it from one thread."""

    def __init__(self, runner: asyncio.Runner, topic: str, reader: TopicReader, log: KafkaEventLog) -> None:
        self._runner = runner
        self._topic = topic
        self._reader = reader
        self._log = log
        self._bound = Bound(ends={})
        self._waiting: list[int] = []  #: partitions that are not read yet
        self._events: AsyncIterator[list[LoggedEvent]] | None = None
        self._partition = -1  #: that is being read
        self._unverified = False
        self.positions: dict[int, LogPosition] = {}
        self.stopped: set[int] = set()  #: partitions in which an event came that is later than the bound's moment

    def log_ends(self, partitions: Sequence[int]) -> dict[int, int]:
        """Where the log ends now, by partition. Raises :class:`LogError`."""
        return dict(self._runner.run(self._reader.ends(self._topic, partitions)))

    def ends_before(self, moment: int, ends: Mapping[int, int]) -> dict[int, int]:
        """Everything below these offsets is as old as the moment (milliseconds since 1970) or older."""

        async def ask() -> dict[int, int]:
            found = {p: await self._reader.offset_at(self._topic, p, moment + 1) for p in ends}
            return {p: ends[p] if offset is None else offset for p, offset in found.items()}

        return self._runner.run(ask())

    def moment_of(self, partition: int, offset: int) -> int:
        """Kafka's timestamp of a record that is there (milliseconds since 1970). Raises :class:`LogError`."""

        async def ask() -> int:
            async for records in self._reader.read(self._topic, partition, offset, offset + 1):
                return int(records[0].timestamp)
            raise LogBrokenError(f"{self._topic}[{partition}]@{offset} is not there")

        return self._runner.run(ask())

    def start(self, positions: Mapping[int, LogPosition], bound: Bound) -> None:
        """Go on from these checkpoints. Reading begins one record earlier: it must be the one that it was."""
        self.positions, self._bound = dict(positions), bound
        self.stopped = set()
        self._events = None
        self._waiting = sorted(bound.ends, reverse=True)

    @property
    def is_done(self) -> bool:
        """Is everything read that the bound allows?"""
        return not self._waiting and self._events is None

    def read(self, records: int) -> list[LoggedEvent]:
        """Accepted events of so many records or a few more, in log order per partition; moves :attr:`positions` on.

        Raises :class:`OtherLogError`, :class:`LogBrokenError` or another :class:`LogError`.
        """
        return self._runner.run(self._read(records))

    async def _read(self, records: int) -> list[LoggedEvent]:
        accepted: list[LoggedEvent] = []
        while records > 0 and not self.is_done:
            if self._events is None:
                await self._begin(self._waiting.pop())
            batch = None if self._events is None else await anext(self._events, None)
            if batch is None:
                self._events = None
                continue
            records -= len(batch)
            accepted += self._accepted(batch)
            if self._partition in self.stopped:
                await self._end()
        return accepted

    async def _end(self) -> None:
        """Read no more of the partition; its consumer is given back."""
        events, self._events = self._events, None
        if isinstance(events, AsyncGenerator):
            await events.aclose()

    async def _begin(self, partition: int) -> None:
        position, end = self.positions[partition], self._bound.ends[partition]
        self._partition, self._unverified = partition, position.next_offset > 0
        first, behind = await self._log.bounds(partition)
        start = position.next_offset - self._unverified
        if position.next_offset > behind or first > start:
            raise OtherLogError(
                f"partition {partition} is from {first} to {behind}, and {position.next_offset} was read"
            )
        end = max(end, position.next_offset)
        self._events = self._log.read(partition, start, end) if start < end else None

    def _accepted(self, batch: list[LoggedEvent]) -> list[LoggedEvent]:
        partition = self._partition
        position = self.positions[partition]
        if self._unverified:
            self._unverified = False
            first = batch.pop(0)
            if record_id(first.header, first.payload) != position.last_event_id:
                raise OtherLogError(f"partition {partition}, offset {first.offset}, is another record")
        accepted, behind = read_on(position, batch)
        moment = self._bound.moments.get(partition)
        later = next((event for event in accepted if moment is not None and event.logged_at > moment), None)
        if later is not None:
            accepted, behind = read_on(position, [event for event in batch if event.offset < later.offset])
            self.stopped.add(partition)
        self.positions[partition] = behind
        return accepted


@contextmanager
def bulk_reader(settings: Settings) -> Iterator[BulkReader]:
    """One, with a loop of its own. Raises :class:`LogError` where the broker does not answer."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        reader = TopicReader(settings)
        log = log_to_read(settings, reader, sealed_partitions=sealed_partitions(settings))
        try:
            yield BulkReader(runner, settings.topics.events, reader, log)
        finally:
            runner.run(reader.close())
