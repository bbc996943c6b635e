"""Static members and long joins, in scenes that are written down: who notices what, and who is served meanwhile."""

from collections.abc import Callable
from typing import Any

from tests.simulation.run import Plan, Simulation
from tests.simulation.workload import Planned, session_ids
from turnlog_schemas.events import PartitionClaimed
from turnlog_schemas.frames import TERMINAL_FRAMES

CALM = Plan(faults=(), max_faults=0, min_faults=0, workers=2, tight=False, long_histories=False)
MODEL = "script:1"


def scene(seed: int, *steps: tuple[float, Callable[[Simulation], Any]], workers: int = 2) -> Simulation:
    """A run with these steps; nothing else goes wrong, and nothing may be wrong at the end."""
    sim = Simulation(seed, Plan(**{name: getattr(CALM, name) for name in CALM.__slots__} | {"workers": workers}))
    sim.group.static = True
    for at_s, step in steps:
        sim.at(at_s, step, sim)
    outcome = sim.run()
    assert outcome.anomalies == []
    return sim


def claims_of(sim: Simulation, name: str) -> int:
    return sum(
        isinstance(event.payload, PartitionClaimed) and event.payload.owner == name
        for log in sim.world.events
        for event in log
    )


def first_owner(sim: Simulation) -> Any:
    owner = sim.group.owner(0)
    return next(worker for worker in sim.workers if worker.name == owner)


def test_a_killed_worker_that_comes_back_has_its_place_and_nobody_else_notices() -> None:
    seen: dict[str, Any] = {}

    def kill(sim: Simulation) -> None:
        worker = seen["worker"] = first_owner(sim)
        other = seen["other"] = next(w for w in sim.workers if w is not worker)
        seen["before"] = sim.group.state, sim.group.assigned_to(worker.name), claims_of(sim, other.name)
        seen["known"] = other.known
        worker.crash()

    def back(sim: Simulation) -> None:
        seen["worker"].boot()

    def look(sim: Simulation) -> None:
        worker, other = seen["worker"], seen["other"]
        assert worker.known == sim.group.state
        assert (sim.group.state, sim.group.assigned_to(worker.name), claims_of(sim, other.name)) == seen["before"]
        assert other.known == seen["known"]
        assert all(worker.service._shards[p].serving is not None for p in sim.group.assigned_to(worker.name))
        seen["looked"] = True

    for seed in range(8):
        seen.clear()
        scene(seed, (6.0, kill), (6.4, back), (8.0, look))
        assert seen.get("looked")


def test_what_a_worker_owns_is_served_while_a_join_waits_for_the_dead() -> None:
    """The group delivers nothing from 6.0 to 8.5; the chat of 6.5 is answered all the same."""
    answered: dict[str, float] = {}

    def drag(sim: Simulation) -> None:
        sim.world.chaos.join_takes_s = 2.5
        sim.group.rebalance()

    def look(sim: Simulation) -> None:
        worker = sim.workers[0]
        assert worker.service._membership.rebalancing
        answered.update(
            {f.header.request_id: sim.loop.now for f in sim.world.frames if isinstance(f.frame, TERMINAL_FRAMES)}
        )

    for seed in range(8):
        answered.clear()
        sim = Simulation(seed, Plan(**{n: getattr(CALM, n) for n in CALM.__slots__} | {"workers": 1}))
        session_id = session_ids(0, sim.world.partition_count)[0]
        sim.only_request(Planned.chat(session_id, text="go", model=MODEL, at_s=6.5))
        sim.at(6.0, drag, sim)
        sim.at(8.3, look, sim)
        assert sim.run().anomalies == []
        assert answered, f"seed {seed}: not answered while the group rebalanced"


def test_a_worker_whose_name_is_taken_ends_and_its_partitions_are_served_by_the_other() -> None:
    seen: dict[str, Any] = {}

    def take(sim: Simulation) -> None:
        worker = seen["worker"] = first_owner(sim)
        other = seen["other"] = sim.add_namesake(worker)
        other.takes_names = True
        other.boot()

    def look(sim: Simulation) -> None:
        assert not seen["worker"].alive
        assert seen["other"].alive
        assert all(seen["other"].service._shards[p].serving for p in sim.group.assigned_to(seen["other"].name))
        seen["worker"].boot()

    def end(sim: Simulation) -> None:
        assert not seen["worker"].alive, "it looks who has the name before it joins"
        assert sim.group.is_member(seen["other"])
        seen["looked"] = True

    for seed in range(8):
        seen.clear()
        scene(seed, (4.0, take), (8.0, look), (8.8, end))
        assert seen.get("looked")
