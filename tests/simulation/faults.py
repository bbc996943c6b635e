"""What can happen to a run, each at a time and with the rest by chance."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.odd_runners import ODD, PREFIX
from tests.simulation.group import SESSION_S
from tests.simulation.workload import Planned, session_ids
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import RequestRecord

if TYPE_CHECKING:
    from tests.simulation.run import Simulation
    from tests.simulation.worker import SimWorker

Fault = Callable[["Simulation", float], None]
MAX_FUSE = 120  #: callbacks of a worker between the time of a fault and the fault


def _anybody(sim: "Simulation") -> "SimWorker":
    return sim.rng.choice(sim.workers)


def crash(sim: "Simulation", at_s: float) -> None:
    """kill -9 between two callbacks; the group hears of it when the session times out or the process comes back."""
    worker, rng = _anybody(sim), sim.rng
    back_after_s = rng.choice((0.1, 1.0, 4.0, 100.0))
    loses_disk = rng.random() < 0.2

    def kill() -> None:
        if sim.calm or not worker.alive:
            return
        worker.crash()
        if loses_disk:
            for partition in range(sim.world.partition_count):
                worker.disk.forget(partition)
        boots = worker.boots
        sim.at(SESSION_S, lambda: None if worker.alive and worker.boots > boots else sim.group.left(worker))
        sim.at(back_after_s, lambda: None if worker.alive else worker.boot())

    sim.at(at_s, lambda: worker.light_fuse(rng.randint(0, MAX_FUSE), kill))


def pause(sim: "Simulation", at_s: float) -> None:
    """SIGSTOP between two callbacks, then SIGCONT; the group may have gone on without it."""
    worker, rng = _anybody(sim), sim.rng
    length_s = rng.choice((0.3, 2.0, 3.5, 6.0))
    expelled = rng.random() < 0.7
    expelled_after_s = rng.choice((0.01, 0.1, 1.0, 3.0))

    def stop() -> None:
        if sim.calm or not worker.alive or worker.lane.paused:
            return
        worker.pause()
        boots = worker.boots
        if expelled and expelled_after_s < length_s:
            sim.at(expelled_after_s, sim.group.left, worker)
        sim.at(length_s, lambda: worker.resume() if worker.alive and worker.boots == boots else None)

    sim.at(at_s, lambda: worker.light_fuse(rng.randint(0, MAX_FUSE), stop))


def rebalance(sim: "Simulation", at_s: float) -> None:
    """One or some new generations, with whatever assignment."""
    for _ in range(sim.rng.randint(1, 3)):
        sim.at(at_s, sim.group.rebalance)
        at_s += sim.rng.choice((0.01, 0.3, 1.5))


def leave_and_come_back(sim: "Simulation", at_s: float) -> None:
    """SIGTERM, and a new start; the group hears of the end at once, or keeps the place as of one that was killed."""
    worker, remains = _anybody(sim), sim.rng.random() < 0.5
    sim.at(at_s, worker.leave, remains)
    sim.at(at_s + sim.rng.choice((1.0, 4.0)), lambda: None if worker.alive else worker.boot())


def generations_start_over(sim: "Simulation", at_s: float) -> None:
    """The group is deleted and made again."""
    sim.at(at_s, sim.group.start_over)


def namesake(sim: "Simulation", at_s: float) -> None:
    """Another process takes a worker's name, which may be paused, and goes on later."""
    worker, rng = _anybody(sim), sim.rng
    length_s = rng.choice((0.0, 0.3, 1.0, 2.0, 3.5))

    def begin() -> None:
        if sim.calm or not worker.alive or worker.lane.paused or not sim.group.is_member(worker):
            return
        other = sim.add_namesake(worker)
        other.takes_names = True
        if length_s:
            worker.pause()
            boots = worker.boots
            sim.at(length_s, lambda: worker.resume() if worker.alive and worker.boots == boots else None)
        other.boot()

    sim.at(at_s, lambda: worker.light_fuse(rng.randint(0, MAX_FUSE), begin))


def joins_drag(sim: "Simulation", at_s: float) -> None:
    """A rebalance waits for members that are dead, and nothing is delivered meanwhile."""
    length_s = sim.rng.choice((0.5, 2.0, 4.0))
    sim.at(at_s, setattr, sim.world.chaos, "join_takes_s", length_s)
    sim.at(at_s + 0.01, sim.group.rebalance)
    sim.at(at_s + length_s + 1.0, setattr, sim.world.chaos, "join_takes_s", 0.0)


def _window(sim: "Simulation", at_s: float, name: str, probability: float) -> None:
    length_s = sim.rng.choice((0.2, 1.0, 4.0))
    sim.at(at_s, setattr, sim.world.chaos, name, probability)
    sim.at(at_s + length_s, setattr, sim.world.chaos, name, 0.0)


def answers_are_lost(sim: "Simulation", at_s: float) -> None:
    """Appends land and nobody says so."""
    _window(sim, at_s, "append_lost_answer", sim.rng.choice((0.2, 0.6)))


def batches_are_late(sim: "Simulation", at_s: float) -> None:
    """Batches of a producer that is given up land after their deadline."""
    _window(sim, at_s, "append_late", sim.rng.choice((0.2, 0.6)))


def batches_are_rejected(sim: "Simulation", at_s: float) -> None:
    """Appends fail."""
    _window(sim, at_s, "append_rejected", sim.rng.choice((0.2, 0.6)))


def batches_are_refused(sim: "Simulation", at_s: float) -> None:
    """The topic takes none that are long."""
    _window(sim, at_s, "append_refused", sim.rng.choice((0.5, 1.0)))


def offsets_are_not_told(sim: "Simulation", at_s: float) -> None:
    """Appends are answered with -1."""
    _window(sim, at_s, "append_no_offset", sim.rng.choice((0.2, 0.6)))


def batches_land_twice(sim: "Simulation", at_s: float) -> None:
    """As without an idempotent producer."""
    _window(sim, at_s, "append_twice", sim.rng.choice((0.2, 0.6)))


def reads_fail(sim: "Simulation", at_s: float) -> None:
    """Topics cannot be read now and then."""
    _window(sim, at_s, "read_fails", sim.rng.choice((0.1, 0.4)))


def disks_are_full(sim: "Simulation", at_s: float) -> None:
    """Stores fail now and then."""
    _window(sim, at_s, "store_fails", sim.rng.choice((0.1, 0.5)))


def parking_fails(sim: "Simulation", at_s: float) -> None:
    """Dead letters and forwards are not answered."""
    _window(sim, at_s, "parking_fails", 0.5)


def frames_are_lost(sim: "Simulation", at_s: float) -> None:
    """The broker takes no frames for a while."""
    _window(sim, at_s, "frames_lost", 0.5)


def deliveries_come_twice(sim: "Simulation", at_s: float) -> None:
    """Requests are delivered again."""
    _window(sim, at_s, "delivery_twice", 0.5)


def deliveries_are_skipped(sim: "Simulation", at_s: float) -> None:
    """Fetched requests are thrown away."""
    _window(sim, at_s, "delivery_skips", 0.4)


def deliveries_cannot_be_read(sim: "Simulation", at_s: float) -> None:
    """A batch that the client library cannot parse."""
    _window(sim, at_s, "delivery_unreadable", 0.4)


def requests_are_damaged(sim: "Simulation", at_s: float) -> None:
    """Batches that nobody can take apart."""
    for _ in range(sim.rng.randint(1, 3)):
        sim.at(at_s, sim.world.damaged_requests, sim.rng.randrange(sim.world.partition_count), sim.rng.randint(1, 5))
        at_s += sim.rng.uniform(0.0, 1.0)


def requests_in_transactions(sim: "Simulation", at_s: float) -> None:
    """Producers that commit late, and what waits behind them."""
    _window(sim, at_s, "in_transaction", sim.rng.choice((0.3, 1.0)))


def transactions_are_aborted(sim: "Simulation", at_s: float) -> None:
    """Chats that nobody may answer."""
    world, rng = sim.world, sim.rng

    def begin() -> None:
        session_id = f"ghost-{world.new_id()}"
        partition = partition_of(session_id.encode(), world.partition_count)
        command = {"type": "chat", "text": "never", "model": "script:1"}
        body = {"session_id": session_id, "request_id": f"{session_id}-r", "command": command}
        value = json.dumps(body).encode()

        def record(partition: int, offset: int) -> RequestRecord:
            return RequestRecord(partition=partition, offset=offset, key=session_id.encode(), value=value)

        world.abort_request(record, partition)

    for _ in range(rng.randint(1, 3)):
        sim.at(at_s, begin)
        at_s += rng.uniform(0.0, 2.0)


def wrong_start(sim: "Simulation", at_s: float) -> None:
    """The group's offset is somewhere: expired, reset, or set by hand."""
    sim.at(at_s, setattr, sim.world.chaos, "wrong_start", 0.8)
    sim.at(at_s + 0.1, sim.group.rebalance)
    sim.at(at_s + 4.0, setattr, sim.world.chaos, "wrong_start", 0.0)


def everything_is_slow(sim: "Simulation", at_s: float) -> None:
    """Latencies of seconds."""
    sim.at(at_s, setattr, sim.world.chaos, "slowness", sim.rng.choice((10.0, 60.0)))
    sim.at(at_s + sim.rng.choice((1.0, 4.0)), setattr, sim.world.chaos, "slowness", 1.0)


def news_is_slow(sim: "Simulation", at_s: float) -> None:
    """Members hear late of a new generation: two believe that they own a partition."""
    sim.at(at_s, setattr, sim.world.chaos, "news_slowness", sim.rng.choice((4.0, 10.0)))
    sim.at(at_s + 0.01, sim.group.rebalance)
    sim.at(at_s + 5.0, setattr, sim.world.chaos, "news_slowness", 1.0)


def rebalance_storm(sim: "Simulation", at_s: float) -> None:
    """One generation after the other, heard of at once, while all else is slow."""
    chaos, slowness = sim.world.chaos, sim.rng.choice((5.0, 30.0))
    sim.at(at_s, setattr, chaos, "news_slowness", 0.1 / slowness)
    sim.at(at_s, setattr, chaos, "slowness", slowness)
    for _ in range(sim.rng.randint(3, 8)):
        at_s += sim.rng.uniform(0.05, 0.5)
        sim.at(at_s, sim.group.rebalance)
    sim.at(at_s + 1.0, setattr, chaos, "news_slowness", 1.0)
    sim.at(at_s + 1.0, setattr, chaos, "slowness", 1.0)


def requests_are_deleted(sim: "Simulation", at_s: float) -> None:
    """Retention overtakes the workers."""
    partition = sim.rng.randrange(sim.world.partition_count)
    share = sim.rng.random()

    def delete() -> None:
        topic = sim.world.requests[partition]
        topic.start = max(topic.start, int(share * len(topic.records)))
        sim.deleted_below[partition] = topic.start
        sim.world.trace(f"requests[{partition}] below {topic.start} are deleted")

    sim.at(at_s, delete)


def odd_runners(sim: "Simulation", at_s: float) -> None:
    """Some turns get runners as nobody should write them."""
    rng, world = sim.rng, sim.world
    names = [name for name, odd in ODD.items() if not odd.slow]
    for _ in range(rng.randint(1, 5)):
        partition = rng.randrange(world.partition_count)
        session_id = rng.choice(session_ids(partition, world.partition_count))
        model = PREFIX + rng.choice(names)
        planned = Planned.chat(session_id, text="What is odd?", model=model, at_s=at_s, partition=partition)
        world.trace(f"{session_id} gets {model}")
        sim.send_later(planned)
        at_s += rng.choice((0.0, 0.1, 1.0))


#: The heavier ones more often.
FAULTS: tuple[Fault, ...] = (
    *[crash] * 3,
    *[pause] * 3,
    *[rebalance] * 2,
    answers_are_lost,
    batches_are_late,
    batches_are_late,
    batches_are_rejected,
    batches_are_refused,
    offsets_are_not_told,
    batches_land_twice,
    reads_fail,
    disks_are_full,
    parking_fails,
    frames_are_lost,
    deliveries_come_twice,
    deliveries_are_skipped,
    deliveries_cannot_be_read,
    requests_are_damaged,
    requests_in_transactions,
    transactions_are_aborted,
    wrong_start,
    everything_is_slow,
    news_is_slow,
    namesake,
    joins_drag,
    rebalance_storm,
    requests_are_deleted,
    leave_and_come_back,
    generations_start_over,
    *[odd_runners] * 2,
)
#: What disturbs neither workers nor the broker: in a run with these alone, nobody has a reason to claim twice.
QUIET = {"odd_runners", "frames_are_lost"}
