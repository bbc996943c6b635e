"""The short form: every crash point, zombies, the materializer and the broker under load, and nothing amiss."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.broker import fault_broker
from tests.faults.planted import not_found
from tests.faults.points import OTHER_POINTS, WORKER_POINTS, points_in_the_code
from tests.faults.stack import PAUSE_S, Outcome, Stack, run_stack
from tests.faulty_link import LinkFault

SEED = os.environ.get("FAULTS_SEED", "short")  #: of the load and of the faults
SHORT_S = 2.0


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
    """Workers die again and again, and meanwhile the links of all others are broken, one fault after the other."""
    points = list(WORKER_POINTS)
    stack.chance.shuffle(points)
    left = iter(points)  # each slot takes the next one when it is done with its last
    await asyncio.gather(
        stack.crash(0, left),
        stack.crash(1, left),
        third_worker(stack, left),
        beside_the_workers(stack),
    )
    await stack.claim_all_partitions()
    await stack.restart_broker()
    await asyncio.gather(stack.zombie(0), stack.zombie(2))


async def third_worker(stack: Stack, left: Iterator[str]) -> None:
    """Killed anywhere, cut off in every way, and then at the points that nobody took meanwhile."""
    await stack.strike(2, 1)
    for fault in LinkFault:
        goes_on = fault in (LinkFault.LATENCY, LinkFault.RESET)  # nobody is given up
        await stack.break_link("w2", fault, SHORT_S if goes_on else PAUSE_S)
    await stack.crash(2, left)


async def beside_the_workers(stack: Stack) -> None:
    """The materializer's death, and the links of whoever is no worker."""
    await stack.kill_materializer(stack.chance.randint(1, 3))
    await asyncio.gather(
        stack.break_link("materializer", LinkFault.ONLY_FROM_SERVER),
        stack.break_link("load", LinkFault.ONLY_TO_SERVER),
    )
    await stack.break_link("load", LinkFault.RESET)
    await stack.break_link("materializer", LinkFault.RESET)


def assert_enough(outcome: Outcome) -> None:
    """The run was one: kills at every point, every fault of a link, and work that went on meanwhile."""
    assert set(outcome.points) >= set(WORKER_POINTS)
    assert outcome.points["anywhere"] >= 4
    assert set(outcome.link_faults) == set(LinkFault)
    assert outcome.zombies == 2
    assert outcome.broker_restarts == 1
    assert outcome.materializer_kills == 1
    assert outcome.turns > 100
    assert outcome.history_compactions >= 3
    assert outcome.takeovers_s
