"""An owner that was stopped for longer than its session finds out before it starts a tool, not after."""

from collections.abc import Callable, Sequence

import pytest

from tests.checker import ToolRun, check
from tests.simulation.run import Plan, Simulation
from tests.simulation.workload import Planned, session_ids
from turnlog_schemas.events import MessageStored
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.shard.serving import Serving

PAUSE_S = 6.0
MODEL = "script:5?tools=3&words=1&tool_ms=120&calls_per_message=3"


def _first_call(event: LoggedEvent) -> bool:
    return isinstance(event.payload, MessageStored) and bool(event.payload.tool_calls)


def _first_result(event: LoggedEvent) -> bool:
    return isinstance(event.payload, MessageStored) and event.payload.role == "tool"


def _paused_at(moment: Callable[[LoggedEvent], bool]) -> tuple[Sequence[ToolRun], int, float]:
    """One turn with three calls; its first owner sleeps from ``moment`` (an event lands) on, another one takes over.

    The tools that were started, the epoch of the sleeper, and when it woke up.
    """
    sim = Simulation(1, Plan(faults=(), max_faults=0, min_faults=0, workers=2, tight=False))
    session_id = session_ids(0, sim.world.partition_count)[0]
    asleep: list[int] = []

    def land(worker: str, events: Sequence[LoggedEvent]) -> None:
        hits = [event for event in events if moment(event)]
        if hits and not asleep:
            asleep.append(hits[0].header.epoch)
            owner = next(w for w in sim.workers if w.name == worker)
            owner.pause()
            sim.loop.in_world(0.5, sim.group.left, owner)
            sim.loop.in_world(PAUSE_S, owner.resume)

    sim.world.on_land = land
    sim.only_request(Planned.chat(session_id, text="go", model=MODEL, at_s=2.0))
    outcome = sim.run()
    assert outcome.anomalies == check(outcome.history) == []
    assert asleep
    return outcome.history.tool_runs, asleep[0], PAUSE_S


@pytest.mark.parametrize(("moment", "started"), [(_first_call, 0), (_first_result, 1)])
def test_a_sleeper_looks_at_the_log_before_it_starts_a_tool(
    moment: Callable[[LoggedEvent], bool], started: int
) -> None:
    runs, sleeper, _ = _paused_at(moment)
    assert sum(run.what == "start" and run.fencing_token == sleeper for run in runs) == started


def test_without_that_look_it_would_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_look(self: Serving) -> None:
        """Trust what was confirmed before the sleep."""

    monkeypatch.setattr(Serving, "confirm_ownership", no_look)
    runs, sleeper, _ = _paused_at(_first_call)
    assert sum(run.what == "start" and run.fencing_token == sleeper for run in runs) > 0
