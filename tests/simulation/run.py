"""One seed: a workload, some workers, some faults, the end of the faults, and what the checker says."""

import contextlib
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import turnlog_streams.channel.state
import turnlog_streams.session.state
from tests.checker import Anomaly, History, StoreContent, accepted_events, check, check_lifecycle
from tests.checker.history import SentRequest
from tests.checker.log_view import ACCEPTED, RUN_ENDS
from tests.logged_defects import PLACE
from tests.simulation.expected import check_history_compactions, check_turns
from tests.simulation.faults import FAULTS, QUIET, Fault
from tests.simulation.group import Group
from tests.simulation.loop import SimLoop, StuckError
from tests.simulation.ports import Disk
from tests.simulation.seals import check_seals
from tests.simulation.worker import Bounds, SimWorker
from tests.simulation.workload import Planned, Workload
from tests.simulation.world import World
from turnlog_schemas import events as ev
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.shard.worker_context import ShardLimits

FAULTS_END_S = 9.0
SETTLE_LIMIT_S = 60.0
MAX_STALE_CLAIMS = 4
MAX_NAMESAKE_CLAIMS = 6
_TERMINAL = (ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled)
_FAILING_DISK = re.compile(r" (StoreError|NoRoomError|UnreadableStoreError|DamagedStoreError) at ports\.py:\d+")
_BEGINS = (*ACCEPTED, ev.HistoryCompactionRequested, ev.CommandForwarded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a seed may choose from."""

    faults: Sequence[Fault] = FAULTS
    max_faults: int = 3
    max_requests: int = 14
    min_faults: int = 1
    workers: int | None = None  #: absent: 1 to 3
    tight: bool | None = None  #: bounds that turns reach; absent: now and then
    long_histories: bool | None = None  #: histories that pass small limits; absent: in every second seed
    clients: int = 0  #: so many chats more bring tools that their senders run
    erasures: int = 0  #: texts are sealed, and up to so many sessions are erased


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a seed."""

    seed: int
    anomalies: list[Anomaly]
    history: History
    virtual_s: float
    callbacks: int
    faults: list[str] = field(default_factory=list)


class Defects(logging.Handler):
    """Catches what a worker calls a defect: one that goes on after it may hide it from the checker.

    That is an error that says where in the code it was raised, and whatever wakes an operator. A failing disk is none.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.CRITICAL or (PLACE.search(message) and not _FAILING_DISK.search(message)):
            self.found.append(message)


def limits_of(rng: random.Random) -> ShardLimits:
    """Bounds that are reached: small batches, small inboxes, short idle times."""
    return ShardLimits(
        max_batch_bytes=rng.choice((3_000, 3_000, 100_000)),
        max_inbox_requests=rng.choice((2, 5, 1_000)),
        max_group_requests=rng.choice((1, 3, 200)),
        store_commit_interval_s=rng.choice((0.3, 1.5, 1.5, 4.0)),
        store_commit_events=rng.choice((3, 30, 2_000)),
        store_batch_events=rng.choice((3, 50, 5_000)),
        session_timeout_s=3.0,
        idle_timeout_s=rng.choice((0.5, 3.0, 600.0)),
        stalled_delivery_s=3.0,
    )


def bounds_of(rng: random.Random, *, tight: bool, long_histories: bool) -> Bounds:
    """Limits of a few hundred tokens where histories shall pass them."""
    if not long_histories:
        return Bounds(tight=tight)
    max_tokens = rng.choice((200, 260, 340, 500, -1, 0))
    return Bounds(
        tight=tight,
        history=HistoryCompactionPolicy(max_tokens=max_tokens, keep_tail=rng.choice((0, 2, 3, 4))),
        summary_window_tokens=rng.choice((1_024, 32_768)),
    )


class Simulation:
    """The cast of one seed."""

    def __init__(self, seed: int, plan: Plan, *, verbose: bool = False) -> None:
        self.seed = seed
        self.plan = plan
        self.rng = rng = random.Random(seed)
        self.loop = SimLoop(rng)
        self.world = World(rng, self.loop, partitions=rng.choice((1, 1, 2)), verbose=verbose)
        self.group = Group(self.world)
        self.group.static = rng.random() < 0.7
        limits = replace(limits_of(rng), max_idle_sessions=(500, 500, 1, 0)[seed % 4])
        variant, count = rng.choice((0, 0, 1)), rng.randint(1, 3)
        if plan.tight is not None:
            variant = int(plan.tight)
        long_histories = rng.random() < 0.5 if plan.long_histories is None else plan.long_histories
        self.bounds = bounds_of(rng, tight=bool(variant), long_histories=long_histories)
        self.workers = [
            SimWorker(self.world, self.group, f"w{number}", Disk(), limits, self.bounds)
            for number in range(plan.workers or count)
        ]
        self.group.tell = self._tell_all
        for worker in self.workers:
            worker.on_left = self._somebody_left
        self._make_worker = lambda name, label: SimWorker(
            self.world, self.group, name, Disk(), limits, self.bounds, label=label
        )
        self.world.on_request = self._on_request
        self.deleted_below: dict[int, int] = {}
        self.faults: list[str] = []
        self.calm = False
        self.sent: list[SentRequest] = []
        count = rng.randint(4, plan.max_requests)
        self.workload = Workload(
            rng, self.world.partition_count, count, last_at_s=FAULTS_END_S, long_histories=long_histories
        )
        self.workload.add_clients(plan.clients, last_at_s=FAULTS_END_S)
        self.world.sealed = plan.erasures > 0
        self.workload.add_erasures(plan.erasures, last_at_s=FAULTS_END_S)

    def add_namesake(self, worker: SimWorker) -> SimWorker:
        """Another process of a worker's name, on another host."""
        namesake = self._make_worker(worker.name, f"{worker.name}'{len(self.workers)}")
        namesake.on_left = self._somebody_left
        self.workers.append(namesake)
        return namesake

    def only_request(self, planned: Planned) -> None:
        """Send this one instead of what the seed chose."""
        self.workload.plan = [planned]

    def send_later(self, planned: Planned) -> None:
        """Send this one, too."""
        self.workload.send_later(self.world, planned, self.sent)

    def _tell_all(self) -> None:
        for worker in self.workers:
            worker.hear_of_rebalance()

    def _on_request(self, partition: int) -> None:
        for worker in self.workers:
            worker.fetch_soon(partition)

    def _somebody_left(self) -> None:
        """Once the faults are over, somebody has to be there."""
        if self.calm and not any(worker.alive for worker in self.workers):
            self.rng.choice(self.workers).boot()

    # ---- a run

    def run(self) -> Outcome:
        """From the first boot to the verdict."""
        logger, defects = logging.getLogger("turnlog_workers"), Defects()
        before = logger.propagate, logger.level
        logger.addHandler(defects)
        logger.propagate = False
        logger.setLevel(logging.ERROR)
        try:
            problems = self._play()
            history, late = self._history(), self._group_offsets()
            self.world.closed = True
            unheard = [
                f"a task died: {type(task.exception()).__name__}: {task.exception()}" for task in self.loop.unheard()
            ]
            defects_found = [*defects.found, *self.loop.errors, *unheard]
            self.loop.close_down()
        finally:
            logger.removeHandler(defects)
            logger.propagate, logger.level = before
        anomalies = [Anomaly(kind="defect", where="worker", text=text) for text in defects_found]
        anomalies += [Anomaly(kind="stopped", where="worker", text=text) for text in problems]
        anomalies += check(history)
        anomalies += self.world.findings
        anomalies += [*claims_go_on(history), *check_turns(history)]
        anomalies += check_history_compactions(history, self.bounds.history)
        if self.world.sealed:
            anomalies += check_seals(self.world)
        if history.drained:
            anomalies += [*late, *check_lifecycle(history.log)]
        return Outcome(
            seed=self.seed,
            anomalies=anomalies,
            history=history,
            virtual_s=self.loop.now,
            callbacks=self.loop.callbacks,
            faults=self.faults,
        )

    def _play(self) -> list[str]:
        rng, plan = self.rng, self.plan
        self.sent = self.workload.start(self.world)
        for worker in self.workers:
            self.loop.in_world(rng.choice((0.0, 0.0, rng.uniform(0.0, 5.0))), self._first_boot, worker)
        for _ in range(rng.randint(plan.min_faults, plan.max_faults)):
            fault = rng.choice(plan.faults)
            self.faults.append(fault.__name__)
            fault(self, rng.uniform(0.0, FAULTS_END_S * 0.9))
        self.loop.in_world(FAULTS_END_S, self._heal)
        try:
            self.loop.run_until(self._settled)
        except StuckError as stuck:
            return [str(stuck)]
        return [problem for worker in self.workers for problem in worker.problems]

    def _first_boot(self, worker: SimWorker) -> None:
        if not worker.alive:
            worker.boot()

    def at(self, when_s: float, action: Callable[..., Any], *args: Any) -> None:
        """Do something at a time, unless the faults are over by then."""

        def unless_calm() -> None:
            if not self.calm:
                action(*args)

        self.loop.in_world(when_s, unless_calm)

    def _heal(self) -> None:
        """The faults end: whatever stands still goes on, and deliveries begin where the group stands."""
        self.calm = True
        self.world.chaos.calm()
        self.world.trace("the faults end")
        for worker in self.workers:
            if worker.alive:
                worker.lane.fuse = -1
                worker.resume()
        crashed = [worker for worker in self.workers if not worker.alive]
        for worker in crashed:
            if len(crashed) == len(self.workers) or self.rng.random() < 0.7:
                worker.boot()
        for worker in self.workers:
            if not worker.alive:
                self.group.left(worker)
        self.loop.in_world(3.0, self.group.rebalance)
        self._last_look = self.loop.now + 3.0
        self._log_ends: list[int] = []

    def _settled(self) -> bool:
        """All is quiet: nothing was appended for a while and the group's offset has arrived; or it is too late."""
        if not self.calm or self.loop.now < self._last_look + 2.5:
            return False
        self._last_look = self.loop.now
        ends, self._log_ends = self._log_ends, [len(log) for log in self.world.events]
        if self.loop.now > FAULTS_END_S + SETTLE_LIMIT_S:
            return True
        if ends != self._log_ends or any(worker.alive and worker.waits for worker in self.workers):
            return False
        return not self._group_offsets() and not self._open_work()

    def _group_offsets(self) -> list[Anomaly]:
        late = []
        for partition, topic in enumerate(self.world.requests):
            last = max((offset for offset, record in enumerate(topic.records) if record is not None), default=-1)
            if self.group.committed[partition] <= last and last >= topic.start:
                where = f"requests[{partition}]"
                text = f"the group stands at {self.group.committed[partition]}, the last request is {last}"
                late.append(Anomaly(kind="group offset never arrives", where=where, text=text))
        return late

    def _open_work(self) -> bool:
        balance = 0
        for log in self.world.events:
            for event in accepted_events(log):
                balance += isinstance(event.payload, _BEGINS)
                balance -= isinstance(event.payload, _TERMINAL)
                balance -= isinstance(event.payload, ev.ForwardDelivered)  # one that was lost is repeated after a while
                balance -= isinstance(event.payload, RUN_ENDS) and event.payload.request_id is not None
        return balance != 0

    # ---- what is left behind

    def _history(self) -> History:
        world = self.world
        return History(
            requests=list(self.sent),
            log={partition: list(log) for partition, log in enumerate(world.events)},
            frames=list(world.frames),
            tool_runs=list(world.tool_runs),
            commits=list(world.commits),
            stores=[
                content
                for worker in self.workers
                for content in store_contents(worker)
                if not (world.sealed and _before_an_erasure(world, content))
            ],
            parked=list(world.parked),
            deleted_below=dict(self.deleted_below),
            unreadable=[(p, offset) for p, topic in enumerate(world.requests) for offset in topic.unreadable],
            quiet=QUIET.issuperset(self.faults),
            frames_may_be_lost=any(name == "frames_are_lost" for name in self.faults),
        )


def stale_claims(log: Sequence[LoggedEvent]) -> Counter[tuple[str, int]]:
    """How often an owner (in a generation) answered the claim of a newer generation with one of its own."""
    last, stale = None, Counter[tuple[str, int]]()
    for event in log:
        if isinstance(event.payload, ev.PartitionClaimed):
            claim = event.payload
            rival = last is not None and last.owner != claim.owner and last.generation > claim.generation
            stale[claim.owner, claim.generation] += rival
            last = claim
    return stale


def namesake_claims(log: Sequence[LoggedEvent]) -> Counter[tuple[str, int]]:
    """How often two processes of one name answered each other's claims within a generation."""
    last, answers = None, Counter[tuple[str, int]]()
    for event in log:
        if isinstance(event.payload, ev.PartitionClaimed):
            claim = event.payload
            if last is not None and (last.owner, last.generation) == (claim.owner, claim.generation):
                answers[claim.owner, claim.generation] += _process(last) != _process(claim)
            last = claim
    return answers


def _process(claim: ev.PartitionClaimed) -> str:
    return claim.incarnation.partition(".")[0]


def claims_go_on(history: History) -> list[Anomaly]:
    """Once or twice may be: it could not know, or had waited for long. Again and again may not."""
    anomalies = []
    for partition, log in history.log.items():
        for (owner, generation), count in stale_claims(log).items():
            if count > MAX_STALE_CLAIMS:
                text = f"{owner} answered newer claims {count} times in generation {generation}"
                anomalies.append(Anomaly(kind="claims go on", where=f"events[{partition}]", text=text))
        for (owner, generation), count in namesake_claims(log).items():
            if count > MAX_NAMESAKE_CLAIMS:
                text = f"processes of the name {owner} answered each other {count} times in generation {generation}"
                anomalies.append(Anomaly(kind="claims go on", where=f"events[{partition}]", text=text))
    return anomalies


def _before_an_erasure(world: World, content: StoreContent) -> bool:
    """May its rows be blank, although its log is not to those who have read it before?"""
    return any(
        isinstance(event.payload, ev.SessionErased | ev.ChannelSessionErased) and event.offset >= row["next_offset"]
        for row in content.tables["partitions"]
        for event in world.events[row["partition"]]
    )


def store_contents(worker: SimWorker) -> list[StoreContent]:
    """The tables of each partition on a worker's disk."""
    return [
        StoreContent(name=f"{worker.label}.{partition}", tables=tables)
        for partition, tables in worker.disk.tables().items()
    ]


def simulate(seed: int, plan: Plan | None = None, *, verbose: bool = False) -> Outcome:
    """Run one seed. Few answers and marks stay in states, so that rows are looked up."""
    kept = random.Random(f"kept {seed}").choice((1, 2, 5, 32))
    if plan is not None and plan.erasures:
        kept = 32  # of an erased session, only answers of its state are repeated
    with contextlib.ExitStack() as stack:
        for module in (turnlog_streams.session.state, turnlog_streams.channel.state):
            for name in ("KEPT_ANSWERS", "KEPT_MARKS"):
                stack.enter_context(patch.object(module, name, kept))
        return Simulation(seed, plan or Plan(), verbose=verbose).run()
