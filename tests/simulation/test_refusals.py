"""A deployment that does not fit the log is refused, each time that somebody tries, and leaves no trace in the log."""

from collections.abc import Callable

import pytest

from tests.simulation.run import Plan, Simulation
from tests.simulation.world import Topic, World
from turnlog_schemas.events import PartitionClaimed


def other_topic(world: World) -> None:
    """The requests topic was deleted and made again, and has grown beyond the old one."""
    world.requests_topic_id = "topic-2"


def shorter_topic(world: World) -> None:
    """It was made again by something that kept its id (a restored broker)."""
    world.requests[0] = Topic()


def events_expire(world: World) -> None:
    """Somebody gave the log a retention."""
    world.events_start = 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_topic, "the requests topic was re-created"),
        (shorter_topic, "the requests topic was re-created"),
        (events_expire, "the event log lost its first records"),
    ],
)
def test_a_deployment_that_does_not_fit_is_refused_every_time(change: Callable[[World], None], sentence: str) -> None:
    sim = Simulation(3, Plan(faults=(), min_faults=0, max_faults=0))
    sim.calm = True  # nothing is healed here
    sim.sent = sim.workload.start(sim.world)
    worker = sim.workers[0]
    sim.loop.in_world(0.0, worker.boot)
    sim.loop.run_until(lambda: sim.loop.now > 8.0)
    claims = sum(isinstance(event.payload, PartitionClaimed) for event in sim.world.events[0])
    assert claims == 1
    change(sim.world)
    for attempt in (1, 2):
        worker.crash()
        worker.boot()
        sim.loop.run_until(lambda wanted=attempt: len(worker.problems) >= wanted)  # type: ignore[misc]
        assert sentence in worker.problems[-1]
    assert sum(isinstance(event.payload, PartitionClaimed) for event in sim.world.events[0]) == 1
    sim.world.closed = True
    sim.loop.close_down()
