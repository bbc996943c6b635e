"""What a worker says of itself: red where a new process would help, not ready where it cannot serve."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tests.one_partition import MemoryLog, OnePartition
from tests.waiting import eventually
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.base.ports import LogError
from turnlog_workers.process.observation import not_ready, progress, worker_now
from turnlog_workers.shard.partition import Shard
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.memory_store import MemoryStores
from turnlog_workers.store.port import NoRoomError


@dataclass
class Service:
    """A worker of one partition, as the observation sees it."""

    context: WorkerContext
    shards: dict[int, Shard]


def service_of(one: OnePartition) -> Any:
    one.context.membership.generation = 1
    return Service(one.context, {0: one.shard})


@dataclass
class Log(MemoryLog):
    """One whose broker can be away, and that is read event by event where somebody says so."""

    away: bool = False
    one_by_one: asyncio.Semaphore | None = None
    more: list[LoggedEvent] = field(default_factory=list)

    async def bounds(self, partition: int) -> tuple[int, int]:
        if self.away:
            raise LogError("the broker is away")
        return await super().bounds(partition)

    async def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[LoggedEvent]]:
        for event in self.records[start:end]:
            if self.one_by_one is not None:
                await self.one_by_one.acquire()
            yield [event]


async def test_a_worker_that_serves_is_ready_and_gets_on() -> None:
    async with OnePartition() as one:
        service = service_of(one)
        assert not_ready(service) == ""
        one.chat("s", "r")
        await eventually(lambda: progress(service) == {0: (0, 0)}, "the request is decided")


async def test_one_without_partitions_is_ready() -> None:
    one = OnePartition()
    service = service_of(one)
    service.shards = {}
    assert not_ready(service) == ""
    assert progress(service) == {}


async def test_a_broker_that_is_away_is_no_reason_for_a_new_process() -> None:
    one = OnePartition(log=Log(away=True))
    service = service_of(one)
    one.shard.start()
    try:
        one.chat("s", "r")
        await eventually(lambda: one.shard.held_up, "it has heard so")
        assert progress(service) == {}
        assert not_ready(service) == "partitions 0 are not served yet: the broker is away"
        one.log.away = False  # type: ignore[attr-defined]
        await eventually(lambda: one.shard.serving is not None, "it is served")
        assert not_ready(service) == ""
        await eventually(lambda: progress(service) == {0: (0, 0)}, "the request is decided")
    finally:
        await one.shard.stop()


async def test_an_idle_worker_notices_that_the_broker_is_silent() -> None:
    """It has nothing to append, so nothing of it fails."""
    async with OnePartition() as one:
        service, membership = service_of(one), one.context.membership
        service.replies = SimpleNamespace(sent=0, joined=0, dropped=0, given_up=0)
        membership.unanswered_since = one.context.now() - 5.0
        assert not_ready(service) == ""
        assert worker_now(service).partitions[0].serving
        one.chat("s", "r")
        await eventually(lambda: progress(service) == {0: (0, 0)}, "the request is decided")
        membership.unanswered_since = one.context.now() - one.context.limits.session_timeout_s - 1.0
        assert not_ready(service).startswith("the broker has not answered for ")
        assert progress(service) == {}, "a new process would wait as well"
        assert not worker_now(service).partitions[0].serving
        membership.unanswered_since = None
        assert not_ready(service) == ""


async def test_neither_is_a_full_disk() -> None:
    class FullDisk(MemoryStores):
        async def open(self, partition: int) -> Any:
            raise NoRoomError("no room for worker-0.duckdb")

    one = OnePartition(stores=FullDisk())
    service = service_of(one)
    one.shard.start()
    try:
        one.chat("s", "r")
        await eventually(lambda: one.shard.held_up, "it has heard so")
        assert progress(service) == {}
        assert "no room for worker-0.duckdb" in not_ready(service)
    finally:
        await one.shard.stop()


async def test_a_dead_letter_that_is_not_taken_is_waited_for() -> None:
    async with OnePartition() as one:
        service = service_of(one)
        one.sender.broken = True
        one.deliver("s", b"no request")
        await eventually(lambda: one.sender.tries, "it was tried")
        assert progress(service) == {}
        one.sender.broken = False
        await eventually(lambda: progress(service) == {0: (0, 0)}, "it is parked", 60)


async def test_a_long_catch_up_gets_on() -> None:
    one = OnePartition(log=Log())
    async with one:
        one.chat("s", "r")
        await eventually(lambda: progress(service_of(one)) == {0: (0, 0)}, "the request is decided")
    one.stores = MemoryStores()
    one.context = one._context()
    one.shard = Shard(one.context, 0)
    service = service_of(one)
    one.log.one_by_one = turn = asyncio.Semaphore(0)  # type: ignore[attr-defined]
    one.shard.start()
    try:
        one.chat("s", "r2")
        seen = {progress(service)[0][1]}
        for read in range(1, 4):
            turn.release()
            await eventually(lambda: progress(service)[0][1] not in seen, "an event was read")
            seen.add(progress(service)[0][1])
            assert len(seen) == read + 1
        assert not_ready(service) == "partitions 0 are not served yet"
    finally:
        await one.shard.stop()
