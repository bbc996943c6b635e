"""Partitions that were added to the requests topic: said aloud, and what is in them is sent on to where it belongs.

How many partitions a deployment has is recorded in its event log, for ever: sessions live where the count at that time
puts them. A partition of the requests topic above that count has no event log, so nothing in it is claimed or decided.
Whoever the group gives it to produces each of its requests again, to the partition of its key. That is done at least
once: the request keeps its first place as its identity (or the one that its producer gave it), so a second copy is a
retry of the first.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from kafka import KafkaAdminClient, TopicPartition

from turnlog_streams.topics import Topics, partition_of
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import (
    LogAuthorizationError,
    LogError,
    RecordsRefusedError,
    RequestRecord,
    UnreadableRange,
)
from turnlog_workers.base.tasks import describe, end, frames, was_cancelled, watched
from turnlog_workers.intake.bounded_retry import patiently
from turnlog_workers.intake.inbox import Inbox
from turnlog_workers.intake.request_reader import ForStream, Incoming, Misrouted, Unreadable
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.topics_admin import grown
from turnlog_workers.shard.served_requests import tell
from turnlog_workers.shard.worker_context import WorkerContext

log = logging.getLogger(__name__)
_LOOK_S = 3.0  #: how late growth is noticed
_NO_EPOCH = 0  #: of frames: nothing here is claimed
_AGAIN = Backoff(0.5, 30.0)

#: From a partition to the offset behind the last request that was acknowledged; 0: none was.
Committed = Callable[[int], Awaitable[int]]


class SurplusPartition:
    """One such partition that the group has assigned to this worker, until :meth:`stop`."""

    def __init__(self, context: WorkerContext, partition: int, committed: Committed) -> None:
        self.inbox = Inbox(limit=context.limits.max_inbox_requests, ack=partial(context.ack, partition))
        self._context = context
        self._partition = partition
        self._committed = committed
        self._next = -1
        self._wake = asyncio.Event()
        self._task = watched(self._run(), f"sending on what is in requests[{partition}]")

    async def stop(self) -> None:
        """Send nothing more. What is not acknowledged is sent on again by the next one."""
        await end(self._task)

    def deliver(self, record: RequestRecord) -> None:
        """A request from Faust."""
        self.inbox.deliver(record)
        self._wake.set()

    def skip(self, start: int, end: int) -> None:
        """Faust cannot read what is there, and goes on at ``end``: it is read from the topic."""
        self.inbox.skip(start, end)
        self._wake.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            before = self.inbox.covered
            try:
                await self._send_on()
            except LogAuthorizationError as error:
                self._context.fatal(str(error))
                return
            except (LogError, BrokerUnreachableError) as error:
                log.warning("requests are not sent on: %s", error, extra=self._place())
            except (Exception, asyncio.CancelledError) as error:
                if was_cancelled(error):
                    raise
                log.error("requests are not sent on: %s%s", describe(error), frames(error), extra=self._place())
            failures = 1 if self.inbox.covered > before else failures + 1
            await asyncio.sleep(_AGAIN.next_delay(failures))

    async def _send_on(self) -> None:
        """Everything that comes, in order. Raises :class:`LogError` or :class:`BrokerUnreachableError`."""
        if self._next < 0:
            begin = await self._committed(self._partition)
            first, _ = await self._context.request_log.bounds(self._partition)
            self._next = begin
            self.inbox.cover(begin - 1)
            self.inbox.known_end = max(self.inbox.known_end, begin, first)
            log.warning(
                "there is no event log for requests[%d], which was added to the topic: requests from %d on are sent to "
                "the partition of their key among %d",
                self._partition,
                self._next,
                self._context.partition_count,
                extra=self._place(),
            )
        while True:
            records = await self._take()
            if records:
                await self._store(records)
            if not records and self._next == self.inbox.covered + 1:
                await self._wait()
            else:
                self.inbox.cover(self._next - 1)

    async def _take(self) -> list[RequestRecord]:
        """The next requests, a bounded number; what Faust did not deliver is read from the topic."""
        inbox = self.inbox
        position = inbox.covered + 1
        while (missing_to := inbox.missing_from(position)) > position:
            first = await inbox.fill(self._context.request_log, self._partition, position, missing_to)
            if first > position:
                log.error("requests %d to %d were deleted unread", position, first - 1, extra=self._place())
                position = first
        records: list[RequestRecord] = []
        while inbox.has(position) and len(records) < self._context.limits.max_group_requests:
            found = inbox.get(position)
            if isinstance(found, UnreadableRange):
                log.error("requests %d to %d: %s", found.first, found.last, found.reason, extra=self._place())
                position = found.last
            elif found is not None:
                records.append(found)
            position += 1
        self._next = position
        return records

    async def _wait(self) -> None:
        """Until something is delivered; now and then look whether something is there that nobody delivers."""
        limit_s = self._context.limits.stalled_delivery_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wake.wait()
        self._wake.clear()
        if not self.inbox.has(self._next):
            end = (await self._context.request_log.stable_ends([self._partition]))[self._partition]
            if self.inbox.silent_for(self._next, end, self._context.now()) >= limit_s:
                self.inbox.known_end = max(self.inbox.known_end, end)

    async def _store(self, records: Sequence[RequestRecord]) -> None:
        """Each where it belongs; those for one partition in their order, all on return."""
        chains: dict[int, list[tuple[RequestRecord, Incoming]]] = defaultdict(list)
        there_since = self._context.now()
        for record in records:
            item = await self._context.read(record, there_since)
            # Dead letters wait for nobody.
            target = partition_of(item.key, self._context.partition_count) if isinstance(item, Misrouted) else -1
            chains[target].append((record, item))
        stored = await asyncio.gather(*map(self._store_in_order, chains.values()), return_exceptions=True)
        for error in stored:
            if error is not None:
                raise error

    async def _store_in_order(self, chain: Sequence[tuple[RequestRecord, Incoming]]) -> None:
        for record, item in chain:
            if isinstance(item, Misrouted):
                try:
                    await patiently(partial(self._context.sender.forward, record, item.key, item.value))
                except RecordsRefusedError as error:
                    await self._park(record, "too_long", f"it cannot be sent on to its partition: {error}", item.told)
            else:
                # No partition above the recorded count is a stream's own.
                assert isinstance(item, Unreadable)
                await self._park(record, item.code, item.reason, item.told)

    async def _park(self, record: RequestRecord, code: str, reason: str, told: ForStream | None) -> None:
        log.warning("dead letter (%s): %s", code, reason, extra=self._place(record.offset))
        await patiently(partial(self._context.sender.dead_letters, [(record, code, reason)]))
        if told is not None:
            tell(self._context, told, _NO_EPOCH)

    def _place(self, offset: int | None = None) -> dict[str, Any]:
        return at(topic=self._context.topics.requests, partition=self._partition, offset=offset)


class Surplus:
    """The surplus partitions of this worker."""

    def __init__(self, context: WorkerContext, committed: Committed) -> None:
        self._context = context
        self._committed = committed
        self._partitions: dict[int, SurplusPartition] = {}

    async def assigned(self, partitions: Collection[int]) -> None:
        """The surplus partitions of the new assignment, all of them. Kept ones go on."""
        lost = [p for p in self._partitions if p not in partitions]
        await asyncio.gather(*(self._partitions.pop(p).stop() for p in lost))
        for partition in sorted(partitions):
            if partition not in self._partitions:
                self._partitions[partition] = SurplusPartition(self._context, partition, self._committed)

    async def stop(self) -> None:
        """Send nothing more."""
        await self.assigned(())

    def get(self, partition: int) -> SurplusPartition | None:
        """A surplus partition that is assigned to us."""
        return self._partitions.get(partition)


def committed_in_group(settings: Settings) -> Committed:
    """What the workers' group has committed. Raises :class:`BrokerUnreachableError`."""

    def ask(partition: int) -> int:
        wanted = TopicPartition(settings.topics.requests, partition)
        with connected(KafkaAdminClient, settings, "turnlog-surplus", settings.startup_timeout_s) as admin:
            found = admin.list_group_offsets({settings.group_id: [wanted]})[settings.group_id].get(wanted)
        return max(0, found.offset) if found is not None else 0

    return lambda partition: asyncio.to_thread(ask, partition)


class GrowthWatch:
    """Says when partitions are added while the worker runs; each new count once.

    ``known``: the counts that the worker started with, by topic; ``recorded``: that of the event log.
    """

    def __init__(
        self,
        ask: Callable[[Collection[str]], Awaitable[Mapping[str, int]]],
        topics: Topics,
        *,
        recorded: int,
        known: int,
    ) -> None:
        self._ask = ask
        self._topics = topics
        self._recorded = recorded
        self._known = {topics.requests: known, topics.events: recorded, topics.replies: recorded}

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                self._compare(await self._ask(self._known))
            except LogError as error:
                log.debug("cannot look at the number of partitions: %s", error)  # others say that the broker is away

    def _compare(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            if count in (0, self._known[name]):  # 0: not known at the moment
                continue
            self._known[name] = count
            if name == self._topics.requests and count > self._recorded:
                log.warning("%s", grown(self._topics, count, self._recorded), extra=at(topic=name))
            else:
                log.error(
                    "topic %s has %d partitions now, the event log was made with %d: no worker can start on it any "
                    "more; choose a new TURNLOG_PREFIX and run: turnlog topics init",
                    name,
                    count,
                    self._recorded,
                    extra=at(topic=name),
                )
