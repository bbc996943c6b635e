"""A partition that is released while it is being lost anyway: nothing of it goes on without an owner."""

import asyncio

import pytest

from tests.one_partition import OnePartition
from tests.waiting import eventually
from turnlog_workers.base.ports import LogError
from turnlog_workers.shard.saver import Saver
from turnlog_workers.shard.serving import Serving


async def test_a_release_while_the_saver_comes_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, ending, closed = asyncio.Event(), asyncio.Event(), list[Serving]()
    save, close = Saver.run, Serving.close

    async def is_lost(self: Serving) -> None:
        await lost.wait()
        raise LogError("another one claims")

    async def ends_slowly(self: Saver) -> None:
        try:
            await save(self)
        finally:
            ending.set()
            await asyncio.Event().wait()  # it closes a runner that takes its time

    async def closes(self: Serving) -> None:
        await close(self)
        closed.append(self)

    monkeypatch.setattr(Serving, "run", is_lost)
    monkeypatch.setattr(Saver, "run", ends_slowly)
    monkeypatch.setattr(Serving, "close", closes)
    async with OnePartition() as world:
        serving = world.shard.serving
        assert serving is not None
        await asyncio.sleep(0)  # its saver begins
        lost.set()
        await eventually(ending.is_set, "the claim is given up")
        await world.shard.stop()
    assert closed == [serving]
