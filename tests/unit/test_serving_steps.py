"""How often a partition looks for work: as often as there is some."""

import asyncio
from dataclasses import replace

import pytest

from tests.one_partition import OnePartition
from turnlog_schemas import frames as fr
from turnlog_schemas.commands import GetHistory
from turnlog_workers.shard.serving import Serving


async def idle(world: OnePartition) -> None:
    """Until nothing is woken any more."""
    assert world.shard.serving is not None
    for _ in range(100):
        await asyncio.sleep(0)
    assert not world.shard.serving._wake.is_set()


async def test_a_turn_takes_a_step_for_its_request_and_one_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = Serving._step

    async def counted(serving: Serving) -> bool:
        more = await step(serving)
        steps.append(serving._decided_at_once)
        return more

    monkeypatch.setattr(Serving, "_step", counted)
    async with OnePartition() as world:
        await idle(world)
        steps.clear()
        for number in range(3):
            world.chat("s", f"s-{number}", "question")
            await world.answer(f"s-{number}", fr.TurnCompleted)
            await idle(world)
        assert steps == [1, 1] * 3


async def test_requests_that_do_not_fit_into_one_step_are_decided_in_the_next_ones() -> None:
    async with OnePartition() as world:
        world.context.limits = replace(world.context.limits, max_group_requests=2)
        for number in range(7):  # nothing comes of them that would wake it
            world.ask(GetHistory(), f"s-{number}", session_id="nobody")
        for number in range(7):
            await world.answer(f"s-{number}", fr.RequestRefused)
        await idle(world)
        assert world.acked == list(range(7))
