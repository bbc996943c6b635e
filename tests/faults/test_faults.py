"""The short form: every crash point, zombies, the materializer and the broker under load, and nothing amiss."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.faults.broker import fault_broker
from tests.faults.planted import not_found
from tests.faults.points import OTHER_POINTS, WORKER_POINTS, points_in_the_code
from tests.faults.stack import Outcome, Stack, run_stack

SEED = os.environ.get("FAULTS_SEED", "short")  #: of the load and of the faults


def test_every_crash_point_has_its_scenario() -> None:
    assert points_in_the_code() == set(WORKER_POINTS) | OTHER_POINTS


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_killed_at_every_point_paused_and_cut_off(tmp_path: Path) -> None:
    async with fault_broker(tmp_path) as broker:
        outcome, history = await run_stack(broker, tmp_path / "run", SEED, short_form)
    assert not outcome.bad, "\n".join([f"FAULTS_SEED={SEED}", *outcome.bad[:40]])
    assert not outcome.missed, f"never reached: {outcome.missed}"
    assert_enough(outcome)
    assert not not_found(history), "planted into this very record, and not found"


async def short_form(stack: Stack) -> None:
    """All workers at a time, so that there are partitions whose owner dies while it takes another one's over."""
    points = list(WORKER_POINTS)
    stack.chance.shuffle(points)
    half = len(points) // 2
    await asyncio.gather(
        stack.crash(0, points[:half]),
        stack.crash(1, points[half:]),
        stack.strike(2, 4),
        stack.kill_materializer(stack.chance.randint(1, 3)),
    )
    await stack.claim_all_partitions()
    await stack.zombie(2)
    await stack.restart_broker()
    await stack.zombie(0)


def assert_enough(outcome: Outcome) -> None:
    """The run was one: kills at every point, and work that went on meanwhile."""
    assert set(outcome.points) >= set(WORKER_POINTS)
    assert outcome.points["anywhere"] >= 6
    assert outcome.zombies == 2
    assert outcome.broker_restarts == 1
    assert outcome.materializer_kills == 1
    assert outcome.turns > 100
    assert outcome.history_compactions > 10
    assert outcome.takeovers_s
