"""Confirmed events reach the store when it pays: many of them, or large ones, or after a while."""

import asyncio

import pytest

from tests.one_partition import OnePartition
from tests.waiting import eventually
from turnlog_schemas import frames as fr
from turnlog_schemas.events import EventHeader
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.shard import unsaved as module
from turnlog_workers.shard.unsaved import Unsaved
from turnlog_workers.store.memory_store import MemoryStores
from turnlog_workers.store.port import StoreError


def event(offset: int) -> LoggedEvent:
    header = EventHeader(
        stream_kind="partition", stream_id="0", stream_version=0, epoch=0, n=offset, accepted=0, replied=0
    )
    return LoggedEvent(partition=0, offset=offset, header=header, payload=object())


async def test_many_events_or_large_ones_are_worth_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY_BYTES", 1000)
    store = await MemoryStores().open(0)
    unsaved = Unsaved(store, many_events=3)
    waiting = asyncio.create_task(unsaved.until_many(3600.0))
    await asyncio.sleep(0)  # it waits from now on
    for offset in range(3):
        assert not unsaved.are_many
        unsaved.append(event(offset), 10)
    async with asyncio.timeout(60.0):
        await waiting
    await unsaved.save(lambda: LogPosition(next_offset=3))
    assert store.position.next_offset == 3
    assert not unsaved.are_many
    unsaved.append(event(3), 2500)
    assert unsaved.are_many
    assert unsaved.exceed(2)
    assert not unsaved.exceed(3)


async def test_what_could_not_be_written_still_counts() -> None:
    store = await MemoryStores().open(0)
    unsaved = Unsaved(store, many_events=1)
    unsaved.append(event(0), 10)
    await store.close()
    with pytest.raises(StoreError):
        await unsaved.save(lambda: LogPosition(next_offset=1))
    assert unsaved.are_many


async def test_a_partition_writes_its_store_before_the_interval_is_over_when_much_happens() -> None:
    async with OnePartition() as world:
        assert world.shard.serving is not None
        start = world.stores._data[0].position.next_offset
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnCompleted)
        assert world.stores._data[0].position.next_offset == start
        world.shard.serving.unsaved._many_events = 2
        world.chat("s", "s-2")
        await eventually(lambda: world.stores._data[0].position.next_offset > start, "it is written", 60)
