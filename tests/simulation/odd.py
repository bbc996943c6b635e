"""Odd runners beside innocent turns: one worker, one partition, no other fault.

``python -m tests.simulation.odd --outputs 100000`` fuzzes what runners yield (``make fuzz-runners``).
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import turnlog_workers.sessions.turn_attempt
from tests.checker import Anomaly, LogView
from tests.odd_runners import FUZZ, PREFIX, YIELDED
from tests.simulation.ports import SimEventLog
from tests.simulation.run import Outcome, Plan, Simulation
from tests.simulation.workload import Planned
from turnlog_schemas import events as ev
from turnlog_schemas.codec import Codec
from turnlog_schemas.registry import EVENTS
from turnlog_workers.base.ports import NewRecord

MIB = 1024 * 1024
INNOCENT = "script:{}?tools=1&words=4&tool_ms=30&delta_ms=10"
TURNS_A_RUN = 100


def beside_innocents(models: Sequence[str], *, innocents: int, max_outputs: int = 20_000) -> Outcome:
    """Each model gets a turn in a session of its own; so do as many innocent ones, all in the same six seconds."""
    plan = Plan(faults=(), min_faults=0, max_faults=0, workers=1, tight=True, long_histories=False)
    seed = next(seed for seed in range(100) if Simulation(seed, plan).world.partition_count == 1)
    sim = Simulation(seed, plan)
    (worker,) = sim.workers
    worker._limits = replace(worker._limits, max_batch_bytes=4 * MIB, max_inbox_requests=1_000)
    chats = [("odd", model) for model in models] + [("web", INNOCENT.format(n)) for n in range(innocents)]
    places = Counter[str]()
    sim.workload.plan = []
    for index, (name, model) in enumerate(sorted(chats, key=lambda chat: hash_of(chat[1]))):
        session_id = f"{name}-{places[name]:08x}"
        places[name] += 1
        at_s = 1.0 + 5.0 * index / len(chats)
        sim.workload.plan.append(Planned.chat(session_id, text="What is odd?", model=model, at_s=at_s))
    with (
        patch.object(turnlog_workers.sessions.turn_attempt, "MAX_OUTPUTS", max_outputs),
        patch.object(SimEventLog, "encode", _really_encoded(SimEventLog.encode)),
    ):
        return sim.run()


def _really_encoded(encode: Callable[..., NewRecord]) -> Callable[..., NewRecord]:
    """The simulated log's, which takes anything, with what the real one raises."""

    def encoded(self: SimEventLog, header: ev.EventHeader, payload: Any, key: bytes, trace: Any = ()) -> NewRecord:
        _codec().encode(header, payload)
        return encode(self, header, payload, key, trace)

    return encoded


@cache
def _codec() -> Codec:
    return Codec(EVENTS)


def hash_of(model: str) -> int:
    """Mixes them, the same in each process."""
    return sum(ord(character) * 31**index for index, character in enumerate(model)) % 10_007


def disturbed(outcome: Outcome) -> list[str]:
    """What happened to innocent turns, or to the partition."""
    found = [str(anomaly) for anomaly in outcome.anomalies if not _own_affair(anomaly)]
    view = LogView(outcome.history)
    claims = sum(map(len, view.claims.values()))
    if claims != 1:
        found.append(f"{claims} claims")
    for turn in view.turns.values():
        if turn.session_id.startswith("web-"):
            attempts = [start.header.attempt for start in turn.starts]
            if attempts != [1] or not turn.ends or not isinstance(turn.ends[0].payload, ev.TurnCompleted):
                found.append(f"{turn.where}: attempts {attempts}, ends {[end.payload for end in turn.ends]}")
    return found


def _own_affair(anomaly: Anomaly) -> bool:
    """A turn may end with a call, as recordings do: models are shown a result that says so."""
    return anomaly.kind == "call without a result" and "session odd-" in anomaly.where


def fuzz(outputs: int, first_seed: int = 0) -> tuple[int, int, list[str]]:
    """Runs of turns with runners of chance, until so many outputs were yielded: outputs, turns, what was disturbed."""
    YIELDED[0] = 0
    turns, found = 0, []
    while YIELDED[0] < outputs:
        models = [f"{PREFIX}{FUZZ}{first_seed + turns + n}" for n in range(TURNS_A_RUN)]
        turns += len(models)
        found += disturbed(beside_innocents(models, innocents=20))
    return YIELDED[0], turns, found


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--outputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    outputs, turns, found = fuzz(options.outputs, options.seed)
    print(f"{outputs} outputs in {turns} turns, {time.monotonic() - began:.0f} s: {len(found)} disturbances")
    for line in found[:20]:
        print(f"  {line}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
