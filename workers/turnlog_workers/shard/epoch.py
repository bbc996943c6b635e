"""An owner's hold on one partition of the log: the claim, the catch-up, and which of its appends count.

*A broker acknowledgement is not acceptance.* An append is confirmed when the returned offset is the one right after
the last known record, or when the gap before it was read and holds no claim. Everything that has an effect waits for
that. See docs/adr/0001 and docs/guarantees.md.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from turnlog_schemas.events import LOG_FORMAT, PARTITION, EventHeader, PartitionClaimed
from turnlog_streams.reader_rule import LoggedEvent, LogPosition, advance, advance_own, is_accepted, read_on
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.ports import AppendUncertainError, EventLog, LogBrokenError, NewRecord

#: Takes accepted events, batch by batch, with the position behind them.
CaughtUp = Callable[[Sequence[LoggedEvent], LogPosition], Awaitable[None]]


class FencedError(Exception):
    """Somebody claimed the partition after us: nothing that we append counts any more."""

    def __init__(
        self, partition: int, epoch: int, by: int, newest_generation: int, *, by_namesake: bool = False
    ) -> None:
        who = "another process of our name" if by_namesake else "another"
        super().__init__(f"partition {partition}: our claim {epoch} was followed by {who} at {by}")
        self.newest_generation = newest_generation
        self.by_namesake = by_namesake  #: generations do not tell which of us is the owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an owner says of itself."""

    owner: str
    process: str  #: random, one per process: tells it from others of its name
    incarnation: str  #: begins with the process
    generation: int
    partition_count: int
    requests_topic_id: str

    def of_namesake(self, other: PartitionClaimed) -> bool:
        """Was the other claim made by another process that has our name?"""
        return other.owner == self.owner and not other.incarnation.startswith(f"{self.process}.")


class Epoch:
    """One claim and everything appended under it. ``position`` is what a reader would know who has read as far."""

    def __init__(self, log: EventLog, partition: int, position: LogPosition) -> None:
        self._log = log
        self._partition = partition
        self.position = position
        self.epoch = -1
        self._claim: Claim | None = None

    async def read_ahead(self, end: int, caught_up: CaughtUp) -> None:
        """Read the log before claiming. Raises :class:`LogError`."""
        async for batch in self._log.read(self._partition, self.position.next_offset, end):
            await caught_up(*self._take(batch))

    def _take(self, batch: Sequence[LoggedEvent]) -> tuple[list[LoggedEvent], LogPosition]:
        """What counts of a batch, and the position behind it."""
        accepted, self.position = read_on(self.position, batch)
        return accepted, self.position

    async def open(self, claim: Claim, now_ms: int, caught_up: CaughtUp) -> None:
        """Claim, then read everything up to the claim. ``caught_up`` gets the accepted events, batch by batch.

        Raises :class:`LogError`.
        """
        self._claim = claim
        header = EventHeader(
            stream_kind=PARTITION,
            stream_id=str(self._partition),
            stream_version=0,
            epoch=-1,
            n=-1,
            accepted=-1,
            replied=-1,
            recorded_at=now_ms,
        )
        payload = PartitionClaimed(
            owner=claim.owner,
            incarnation=claim.incarnation,
            generation=claim.generation,
            partition_count=claim.partition_count,
            requests_topic_id=claim.requests_topic_id,
            log_format=LOG_FORMAT,
        )
        record = self._log.encode(header, payload, str(self._partition).encode())
        try:
            offset = await self._log.append(self._partition, [record])
        except AppendUncertainError:
            offset = -1
        crash_point("epoch.after_claim")
        end = offset + 1 if offset >= 0 else (await self._log.bounds(self._partition))[1]
        await self._catch_up(claim, end, caught_up)

    async def _catch_up(self, claim: Claim, end: int, caught_up: CaughtUp) -> None:
        async for batch in self._log.read(self._partition, self.position.next_offset, end):
            ours = [
                index
                for index, event in enumerate(batch)
                if isinstance(event.payload, PartitionClaimed) and event.payload.incarnation == claim.incarnation
            ]
            if ours:
                await caught_up(*self._take(batch[: ours[0] + 1]))
                self.epoch = batch[ours[0]].offset
                return
            await caught_up(*self._take(batch))
        raise AppendUncertainError(f"partition {self._partition}: our claim is not in the log up to {end}")

    async def append(self, records: Sequence[NewRecord]) -> int:
        """Append and confirm; the offset of the first record.

        Raises :class:`FencedError`, :class:`AppendUncertainError` or another ``LogError``.
        """
        base = await self._log.append(self._partition, records)
        await self._confirm(base)
        position = advance_own(self.position, base, [(record.header, record.payload) for record in records])
        if position is None:
            first = records[0].header
            raise LogBrokenError(
                f"partition {self._partition}@{base}: our own records are not the next ones "
                f"(epoch {first.epoch}, from n {first.n}; expected {self.position.epoch}, {self.position.next_n})"
            )
        self.position = position
        return base

    async def _confirm(self, base: int) -> None:
        """Is the append at ``base`` what readers accept next?"""
        if base > self.position.next_offset:
            await self.read_to(base)
        elif base < self.position.next_offset:
            raise AppendUncertainError(
                f"partition {self._partition}: the broker answered offset {base} where {self.position.next_offset} "
                "is the lowest possible"
            )

    async def read_to(self, end: int) -> None:
        """Read what others wrote. Raises :class:`FencedError` when there is a claim in it.

        The position never passes that claim: what follows it is the next owner's, and none of it is in our store.
        """
        fenced_by = newest = -1
        namesake = False
        async for batch in self._log.read(self._partition, self.position.next_offset, end):
            for event in batch:
                if isinstance(event.payload, PartitionClaimed):
                    fenced_by = event.offset
                    newest = max(newest, event.payload.generation)
                    namesake |= self._claim is not None and self._claim.of_namesake(event.payload)
                if fenced_by >= 0:
                    continue
                if is_accepted(self.position, event.header, event.payload):
                    raise AppendUncertainError(
                        f"partition {self._partition}@{event.offset}: a record of our own epoch that we did not confirm"
                    )
                self.position = advance(self.position, event.offset, event.header, event.payload)
        if fenced_by >= 0:
            newest = max(newest, self.position.newest_generation)
            raise FencedError(self._partition, self.epoch, fenced_by, newest, by_namesake=namesake)
