"""The long form's rounds: each a deployment of its own, its faults a function of the seed and the round's number."""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deployment import QUICK
from tests.faults.broker import FaultBroker
from tests.faults.points import WORKER_POINTS
from tests.faults.stack import Outcome, Stack, run_stack
from tests.faulty_link import LinkFault

KILLS_AT_POINTS = 14  #: in a round, by two slots, each after one kill anywhere
KILLS_ANYWHERE = 4  #: in the third slot meanwhile
GUESTS = 4


@dataclass(slots=True)
class Round:
    """What came out of a round; the lines of the file that a run is resumed from."""

    number: int
    seed: str
    seconds: float
    kills: int
    zombies: int
    broker_restarts: int
    materializer_kills: int
    foreign_claims: int
    turns: int
    requests: int
    events: int
    frames: int
    points: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    takeovers_s: list[float] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    link_faults: dict[str, int] = field(default_factory=dict)
    guests: int = 0
    late_frames: int | None = None  #: ``None``: they were not counted yet
    late_copies: int = 0


async def run_round(broker: FaultBroker, folder: Path, seed: str, number: int) -> Round:
    """One round on this broker. Never raises for what the worker does: that is told in ``bad``."""
    seed_here = f"{seed}/{number}"
    began = time.monotonic()
    outcome = Outcome()
    try:
        outcome, _ = await run_stack(broker, folder, seed_here, lambda stack: a_round(stack, number))
        bad = outcome.bad
    except AssertionError as error:
        bad = [f"the round ended early: {error}"]
    return Round(
        number=number,
        seed=seed_here,
        seconds=round(time.monotonic() - began, 1),
        kills=outcome.kills,
        zombies=outcome.zombies,
        broker_restarts=outcome.broker_restarts,
        materializer_kills=outcome.materializer_kills,
        foreign_claims=outcome.foreign_claims,
        turns=outcome.turns,
        requests=outcome.requests,
        events=outcome.events,
        frames=outcome.frames,
        points=outcome.points,
        missed=outcome.missed,
        takeovers_s=[round(seconds, 2) for seconds in outcome.takeovers_s],
        bad=bad[:50],
        link_faults=dict(outcome.link_faults),
        guests=outcome.guests,
        late_frames=outcome.late_frames,
        late_copies=outcome.late_copies,
    )


async def a_round(stack: Stack, number: int) -> None:
    """Kills at points (which ones goes round and round), every fault of a link, deaths of materializer and broker."""
    points = list(WORKER_POINTS)
    random.Random(f"points/{number * KILLS_AT_POINTS // len(points)}").shuffle(points)
    first = number * KILLS_AT_POINTS
    mine = iter([points[(first + index) % len(points)] for index in range(KILLS_AT_POINTS)])
    await asyncio.gather(
        stack.crash(0, mine),
        stack.crash(1, mine),
        _struck_and_cut_off(stack),
        _beside_the_workers(stack),
    )
    await stack.claim_all_partitions()
    await stack.storm(GUESTS)
    await asyncio.gather(stack.zombie(2), stack.break_link("w1", stack.chance.choice(list(LinkFault))))
    for _ in range(2 if number % 3 == 0 else 1):
        await stack.restart_broker()
    await stack.zombie(stack.chance.randrange(2))


async def _struck_and_cut_off(stack: Stack) -> None:
    await stack.strike(2, KILLS_ANYWHERE)
    faults = list(LinkFault)
    stack.chance.shuffle(faults)
    for fault in faults:
        await stack.break_link("w2", fault)


async def _beside_the_workers(stack: Stack) -> None:
    await stack.kill_materializer(stack.chance.randint(1, 5))
    for name in ("materializer", "load"):
        await stack.break_link(name, stack.chance.choice(list(LinkFault)))


def summary(rounds: list[Round]) -> dict[str, Any]:
    """The figures of all rounds together."""
    takeovers = sorted(seconds for each in rounds for seconds in each.takeovers_s)
    points: dict[str, int] = {}
    for each in rounds:
        for point, count in each.points.items():
            points[point] = points.get(point, 0) + count
    link_faults = {str(fault): sum(each.link_faults.get(fault, 0) for each in rounds) for fault in LinkFault}
    bad = [f"round {each.number}: {text}" for each in rounds for text in each.bad]
    return {
        "rounds": len(rounds),
        "kills": sum(each.kills for each in rounds),
        "zombies": sum(each.zombies for each in rounds),
        "broker_restarts": sum(each.broker_restarts for each in rounds),
        "materializer_kills": sum(each.materializer_kills for each in rounds),
        "link_faults": link_faults,
        "guests": sum(each.guests for each in rounds),
        "foreign_claims": sum(each.foreign_claims for each in rounds),
        "turns": sum(each.turns for each in rounds),
        "requests": sum(each.requests for each in rounds),
        "events": sum(each.events for each in rounds),
        "frames": sum(each.frames for each in rounds),
        "late_frames": {
            "rounds": sum(each.late_frames is not None for each in rounds),
            "frames": sum(each.late_frames or 0 for each in rounds),
            "copies": sum(each.late_copies for each in rounds),
        },
        "seconds": round(sum(each.seconds for each in rounds), 1),
        "points": dict(sorted(points.items())),
        "missed": [point for each in rounds for point in each.missed],
        "takeover_s": quantiles(takeovers),
        "session_timeout_s": float(QUICK["session_timeout_s"]),
        "anomalies": len(bad),
        "bad": bad[:100],
    }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """How many there were, the median, p95 and the largest."""
    if len(seconds) < 2:
        return {"count": len(seconds)}
    cuts = statistics.quantiles(seconds, n=20)
    return {
        "count": len(seconds),
        "p50": round(statistics.median(seconds), 2),
        "p95": round(cuts[18], 2),
        "max": round(seconds[-1], 2),
    }
