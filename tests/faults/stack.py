"""A whole deployment under load, and what can be done to it: kill, pause, restart, in order or at a named point."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaProducer

from tests.checker import Anomaly, History, check, check_lifecycle, late_frames
from tests.deployment import START_S, Deployment, Process, Wire
from tests.faults.broker import FaultBroker
from tests.faults.cluster import FaultCluster
from tests.faults.load import SUMMARY_MODELS, Load
from tests.faults.points import hit_of
from tests.faults.record import CommitSampler, collect, positions_in
from tests.faults.takeover import FrameAt, Takeovers
from tests.faulty_link import LinkFault
from tests.logged_defects import logged_defects
from tests.waiting import eventually
from turnlog_schemas.codec import Codec
from turnlog_schemas.events import LOG_FORMAT, PARTITION, EventHeader, HistoryCompacted, PartitionClaimed
from turnlog_schemas.registry import EVENTS
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.topics_admin import topic_id

WORKERS = 3
KEEPS_ITS_NAME = 0  #: slot: whoever comes back there has its partitions before the session timeout
#: Two of three workers cannot hold them all as their fair share: whoever comes back always gets some.
PARTITIONS = 6
DRAIN_S = 200.0
WEAK_DRAIN_S = 15.0  #: whoever lacks a defence may never come to an end
QUIET_S = 2.0
_CRASH_S = 60.0
_REPLACED_S = 120.0  #: one of another build does its imports itself, beside the load
#: How long a paused worker stays away: past the session timeout of 2 s, so that others have claimed its partitions.
PAUSE_S = 4.0
IDLE_S = 0.5  #: then a session leaves memory: while its user thinks, or its turn waits for an owner
STRIKE_WITHIN_S = 4.0  #: how long a worker that is killed anywhere has lived
_ROUND_S = 1.0
_RESET_EVERY_S = 0.7
_LOOK_S = 0.01
_POLL_S = 0.1
#: A command of the packages in the folder that is its first argument, and of no others.
_OF_ANOTHER_BUILD = """
import sys
folder, *arguments = sys.argv[1:]
sys.path.insert(0, folder)
import turnlog_workers
from turnlog.cli import main
assert turnlog_workers.__file__.startswith(folder), turnlog_workers.__file__
sys.argv[:] = ["turnlog", *arguments]
main()
"""


@dataclass(slots=True)
class Outcome:
    """What a run counted."""

    kills: int = 0
    zombies: int = 0
    broker_restarts: int = 0
    materializer_kills: int = 0
    foreign_claims: int = 0
    link_faults: dict[str, int] = field(default_factory=dict)  #: by what was wrong
    guests: int = 0  #: workers that joined and left
    points: dict[str, int] = field(default_factory=dict)  #: kills by the point where they happened
    missed: list[str] = field(default_factory=list)  #: points that were not reached
    turns: int = 0
    history_compactions: int = 0
    events: int = 0
    frames: int = 0
    requests: int = 0
    commits: int = 0
    late_frames: int = 0  #: behind the end of their own attempt
    late_copies: int = 0  #: of these: they were there in time, too
    takeovers_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    anomalies: list[Anomaly] = field(default_factory=list)

    @property
    def bad(self) -> list[str]:
        """Everything that must not be."""
        return [*self.problems, *map(str, self.anomalies)]


class Stack:
    """Three workers, the materializer, load, and somebody who watches. Use :func:`running`."""

    def __init__(
        self, broker: FaultBroker | FaultCluster, deployment: Deployment, seed: str, weaken: str | None = None
    ) -> None:
        self.broker = broker
        self.deployment = deployment
        self.outcome = Outcome()
        self.chance = random.Random(f"{seed}/faults")
        self.load = Load(deployment, seed, bootstrap_server=broker.way_of("load"))
        self.takeovers = Takeovers()
        self.journal = deployment.folder / "journal.jsonl"
        self._workers: list[Process] = []
        self._incarnations = [0] * WORKERS
        self._materializer: Process | None = None
        self._broker_failed = False
        self._drained = True
        self._requests_topic_id = ""
        self.weaken = weaken  #: the weakness that its workers have (see ``weakened_worker``), if any
        self.older: Path | None = None  #: the folder of another build, which processes are started of; ``None``: ours
        self._only_ours = True  #: no process was of another build
        self._drain_s = WEAK_DRAIN_S if weaken else DRAIN_S
        self._began = time.monotonic()

    def tell(self, what: str) -> None:
        """A line of the story, for whoever has to find out what happened."""
        with (self.deployment.folder / "story.log").open("a") as story:
            story.write(f"{time.monotonic() - self._began:7.2f} {what}\n")

    # ---- processes

    def start_worker(self, slot: int, crash_at: str = "") -> Process:
        """A new process in a slot. In slot 0 it comes back by its name, elsewhere each has one of its own."""
        self._incarnations[slot] += 1
        name = f"w{slot}" if slot == KEEPS_ITS_NAME else f"w{slot}.{self._incarnations[slot]}"
        weak = self.weaken is not None
        worker = self.deployment.run(
            name,
            [sys.executable, "-m", "tests.faults.weakened_worker"] if weak else self.command("worker"),
            worker_name=name,
            bootstrap_server=self.broker.way_of(f"w{slot}"),
            crash_at=crash_at,
            script_journal=str(self.journal),
            max_takeovers="1000",
            idle_timeout_s=str(IDLE_S),
            fast_model=SUMMARY_MODELS[slot],
            weaken=self.weaken or "",
        )
        self._workers[slot : slot + 1] = [worker]
        self.tell(f"{name} (process {worker.pid}) starts {crash_at}")
        return worker

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``turnlog ARGUMENTS`` of the build that is started now."""
        if self.older is None:
            return [sys.executable, "-m", "turnlog", *arguments]
        self._only_ours = False
        return [sys.executable, "-c", _OF_ANOTHER_BUILD, str(self.older), *arguments]

    async def replace(self, slot: int) -> None:
        """What a rolling restart does to a worker: SIGTERM, its end, and another one that serves."""
        await self.restart(self._workers[slot], lambda: self.start_worker(slot))

    async def replace_materializer(self) -> None:
        """The same for the materializer."""
        assert self._materializer is not None
        await self.restart(self._materializer, self.start_materializer)

    async def restart(self, process: Process, start: Callable[[], Process]) -> None:
        """SIGTERM, its end, and another one that is ready."""
        process.signal(signal.SIGTERM)
        await self._ended(process)
        another = start()
        await eventually(lambda: another.ready, f"{another.name} is ready", _REPLACED_S)

    def start_materializer(self, crash_at: str = "") -> Process:
        way = self.broker.way_of("materializer")
        self._materializer = self.deployment.run(
            "materializer", self.command("materialize"), crash_at=crash_at, bootstrap_server=way
        )
        return self._materializer

    async def start(self) -> None:
        """All processes; returns when the workers have partitions."""
        topic = self.deployment.topics.requests
        self._requests_topic_id = await asyncio.to_thread(topic_id, self.deployment.settings, topic) or ""
        for slot in range(WORKERS):
            self.start_worker(slot)
        self.start_materializer()
        for worker in self._workers:
            await self.ready(worker)

    async def ready(self, process: Process) -> None:
        await eventually(lambda: process.ready, f"{process.name} is ready", START_S)

    # ---- faults

    async def crash(self, slot: int, points: Iterable[str]) -> None:
        """Kill a slot's worker; then let one after the other die at a point; in the end start one that lives."""
        self.kill(slot)
        for point in points:
            worker = self.start_worker(slot, f"{point}:{hit_of(point, self.chance)}")
            if await self._death(worker, point):
                self._killed(worker, point)
            else:
                self.kill(slot)
        self.start_worker(slot)

    async def strike(self, slot: int, count: int) -> None:
        """Kill a slot's worker so often, each time at no particular place, and start another one."""
        for _ in range(count):
            await self.ready(self._workers[slot])
            await asyncio.sleep(self.chance.uniform(0, STRIKE_WITHIN_S))
            self.kill(slot)
            self.start_worker(slot)

    async def _death(self, process: Process, point: str) -> bool:
        deadline = time.monotonic() + _CRASH_S
        while process.running:
            if time.monotonic() > deadline:
                self.tell(f"{process.name} does not come to {point}")
                self.outcome.missed.append(point)
                return False
            await asyncio.sleep(_LOOK_S)
        if process.exit_code != -signal.SIGKILL:
            self.outcome.problems.append(f"{process.name} ended with {process.exit_code}: {process.log[-1500:]}")
            return False
        return True

    def kill(self, slot: int) -> None:
        """kill -9, wherever it is."""
        worker = self._workers[slot]
        if worker.running:
            worker.kill()
            self._killed(worker, "anywhere")

    def _killed(self, worker: Process, point: str) -> None:
        self.tell(f"{worker.name} was killed at {point}")
        if worker.name != f"w{KEEPS_ITS_NAME}":
            self.takeovers.lost(worker.name)
        self.outcome.kills += 1
        self.outcome.points[point] = self.outcome.points.get(point, 0) + 1

    async def zombie(self, slot: int, pause_s: float = PAUSE_S) -> None:
        """Stop a worker until others have taken over, then let it wake up."""
        worker = self._workers[slot]
        await self.ready(worker)
        worker.signal(signal.SIGSTOP)
        self.tell(f"{worker.name} is paused")
        pause = self.takeovers.lost(worker.name)
        try:
            await asyncio.sleep(pause_s)
        finally:
            worker.signal(signal.SIGCONT)
            pause.back_at = time.monotonic()
            self.tell(f"{worker.name} goes on")
        self.outcome.zombies += 1
        await asyncio.sleep(_ROUND_S)  # it must have the time to do wrong
        if not worker.running:
            self.outcome.problems.append(
                f"{worker.name}, a zombie, ended with {worker.exit_code}: {worker.log[-1500:]}"
            )
            self.start_worker(slot)

    async def claim_all_partitions(self, generation: int = 0) -> None:
        """What a zombie (of an older generation) would do: claim under an owner's feet, and never write again."""
        codec = Codec(EVENTS)
        settings = self.deployment.settings
        producer = AIOKafkaProducer(**client_options(settings, "fault-intruder"), acks="all")
        await producer.start()
        try:
            for partition in range(settings.partitions):
                header = EventHeader(
                    stream_kind=PARTITION,
                    stream_id=str(partition),
                    stream_version=0,
                    epoch=-1,
                    n=-1,
                    accepted=-1,
                    replied=-1,
                    recorded_at=time.time_ns() // 1_000_000,
                )
                claim = PartitionClaimed(
                    log_format=LOG_FORMAT,
                    owner="intruder",
                    incarnation=f"{self.chance.randrange(16**8):08x}",
                    generation=generation,
                    partition_count=settings.partitions,
                    requests_topic_id=self._requests_topic_id,
                )
                value = codec.encode(header, claim)
                await producer.send_and_wait(self.deployment.topics.events, value, partition=partition)
        finally:
            await producer.stop()
        self.outcome.foreign_claims += settings.partitions
        self.tell("somebody else has claimed every partition")

    async def turns_end(self, count: int) -> None:
        """Wait until so many more turns of the load have ended."""
        wanted = sum(self.load.ended.values()) + count
        try:
            await eventually(lambda: sum(self.load.ended.values()) >= wanted, f"{count} turns end", self._drain_s)
        except AssertionError as error:
            self.outcome.problems.append(str(error))

    async def kill_materializer(self, hit: int) -> None:
        """Let it die in the middle of a commit, and start it again on what it left."""
        assert self._materializer is not None
        self._materializer.kill()
        process = self.start_materializer(f"materializer.mid_commit:{hit}")
        if await self._death(process, "materializer.mid_commit"):
            self.tell("the materializer was killed")
            self.outcome.materializer_kills += 1
        self.start_materializer()

    async def break_link(self, name: str, fault: LinkFault, lasts_s: float = PAUSE_S) -> None:
        """Let something be wrong between one process and the broker for longer than a session's timeout."""
        assert isinstance(self.broker, FaultBroker)
        process = self._materializer if name == "materializer" else None
        if name.startswith("w"):
            process = self._workers[int(name.removeprefix("w"))]
        if process is not None:
            await self.ready(process)
        link, ends = self.broker.links[name], time.monotonic() + lasts_s
        self.broker_fails()
        self.tell(f"the link of {name} from now on: {fault}")
        try:
            while (left_s := ends - time.monotonic()) > 0:
                link.begin(fault)
                await asyncio.sleep(min(left_s, _RESET_EVERY_S) if fault is LinkFault.RESET else left_s)
        finally:
            link.heal()
            self.tell(f"the link of {name} is whole again")
        self.outcome.link_faults[fault] = self.outcome.link_faults.get(fault, 0) + 1
        await asyncio.sleep(_ROUND_S)
        if process is not None and not process.running:
            self.outcome.problems.append(
                f"{process.name}, whose link had a fault ({fault}), ended with {process.exit_code}: "
                f"{process.log[-1500:]}"
            )

    async def storm(self, count: int) -> None:
        """Workers that join and leave for good, one after the other, as quickly as they can."""
        for number in range(count):
            name = f"guest.{number}"
            guest = self.deployment.worker(
                name, script_journal=str(self.journal), max_takeovers="1000", fast_model=SUMMARY_MODELS[0]
            )
            await self.ready(guest)
            self.tell(f"{name} has joined, and leaves")
            guest.signal(signal.SIGTERM)
            await self._ended(guest)
            self.outcome.guests += 1

    def broker_fails(self) -> None:
        """From now on: what was not acknowledged may be lost, or come late and twice."""
        self._broker_failed = True

    async def restart_broker(self) -> None:
        """kill -9 of the broker and a start on its data."""
        assert isinstance(self.broker, FaultBroker)
        self.broker_fails()
        await self.broker.kill()
        await self.broker.start()
        self.outcome.broker_restarts += 1
        self.tell("the broker was killed and is back")

    # ---- the end

    async def drain(self, wire: Wire, running: "asyncio.Task[None]") -> None:
        """Let every turn end, then stop everything in order. What does not end or stop is a problem."""
        self.load.stop()
        self.tell(f"no new turns after {self.load.turns}")
        done, _ = await asyncio.wait([running], timeout=self._drain_s)
        if not done:
            self.outcome.problems.append(f"the load did not end within {self._drain_s:g} s")
            self._drained = False
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        self.outcome.problems += self.load.problems
        await self._settled(wire)
        self.tell("everybody has the answers")
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        for process in [*self._workers, self._materializer]:
            if process is None:
                continue
            if process is self._materializer:
                await self._published(wire, process)
                process.signal(signal.SIGTERM)
            await self._ended(process)
            self.tell(f"{process.name} has ended")
        wire.check()

    async def _published(self, wire: Wire, materializer: Process) -> None:
        """Give the materializer its time to read what the workers wrote; how far it came is judged with all else."""
        deadline, ends = time.monotonic() + self._drain_s, await wire.log_ends()
        while time.monotonic() < deadline:
            if not materializer.running or positions_in(self.deployment.settings.snapshot) == ends:
                return
            await asyncio.sleep(_POLL_S)

    async def _ended(self, process: Process) -> None:
        try:
            code = await asyncio.to_thread(process.wait)
        except AssertionError as error:
            self.outcome.problems.append(str(error))
            process.kill()
            return
        if code != 0:
            self.outcome.problems.append(f"{process.name} ended with {code}: {process.log[-1500:]}")

    async def _settled(self, wire: Wire) -> None:
        """Everybody has the answers, the noise too: nothing was appended for a moment."""
        before, since = {}, time.monotonic()
        deadline = since + self._drain_s
        while time.monotonic() < since + QUIET_S:
            if time.monotonic() > deadline:
                self.outcome.problems.append("the log goes on growing")
                self._drained = False
                return
            await asyncio.sleep(_POLL_S)
            ends = await wire.log_ends()
            if ends != before:
                before, since = ends, time.monotonic()

    async def examine(self, wire: Wire, sampler: CommitSampler) -> History:
        """Collect what is left and check it."""
        history = await collect(
            self.deployment,
            wire,
            journal=self.journal,
            commits=sampler.commits,
            broker_failed=self._broker_failed,
            drained=self._drained,
        )
        self.tell("all is read that is left")
        outcome = self.outcome
        stored = {(request.partition, request.offset) for request in history.requests}
        outcome.problems += [
            f"acknowledged request at {place} is gone" for place in self.load.sent if place not in stored
        ]
        outcome.anomalies += [*check(history), *check_lifecycle(history.log)]
        outcome.problems += self._stores(history)
        outcome.problems += self._logged_defects() if self._only_ours else []
        outcome.turns = self.load.turns
        outcome.history_compactions = sum(
            isinstance(event.payload, HistoryCompacted) for log in history.log.values() for event in log
        )
        outcome.events = sum(map(len, history.log.values()))
        outcome.frames, outcome.requests = len(history.frames), len(history.requests)
        outcome.commits = len(history.commits)
        for late in late_frames(history.frames):
            self.tell(f"late: {late}")
            outcome.late_frames += 1
            outcome.late_copies += late.again
        seen = [FrameAt(frame.record.partition, frame.header.epoch, frame.seen_at) for frame in wire.frames]
        outcome.takeovers_s = self.takeovers.seconds(history.log, seen)
        self.tell("all is judged")
        return history

    def _logged_defects(self) -> list[str]:
        """No fault of a process or of its link brings these about."""
        logs = sorted(self.deployment.folder.glob("*.log"))
        return [f"{log.name}: {line}" for log in logs for line in logged_defects(log.read_text(errors="replace"))]

    def _stores(self, history: History) -> list[str]:
        """The analysts' file and each partition's newest store have read to the end of the log."""
        ends = {partition: len(log) for partition, log in history.log.items()}
        read: dict[int, int] = {}
        problems = []
        for store in history.stores:
            positions = {row["partition"]: row["next_offset"] for row in store.tables["partitions"]}
            if store.name == "analytics.duckdb" and positions != ends:
                problems.append(f"{store.name} has read {positions}, the log ends at {ends}")
            for partition, end in positions.items():
                if store.name != "analytics.duckdb":
                    read[partition] = max(read.get(partition, 0), end)
        if read != ends:
            problems.append(f"the workers' stores have read {read}, the log ends at {ends}")
        return problems


Scenario = Callable[[Stack], Awaitable[None]]


async def run_stack(
    broker: FaultBroker | FaultCluster,
    folder: Path,
    seed: str,
    scenario: Scenario,
    *,
    weaken: str | None = None,
    **settings: str,
) -> tuple[Outcome, History]:
    """Start a deployment, load it, do the scenario to it, drain, and check what is left."""
    with Deployment(broker.bootstrap_server, folder, partitions=PARTITIONS, **settings) as deployment:
        await asyncio.to_thread(deployment.make_topics)
        stack = Stack(broker, deployment, seed, weaken)
        await stack.start()
        async with Wire(deployment, watch_log=True) as wire:
            with CommitSampler(deployment) as sampler:
                running = asyncio.create_task(stack.load.run())
                try:
                    await eventually(lambda: len(wire.frames) > 50, "the load is running", START_S)
                    await scenario(stack)
                    await stack.drain(wire, running)
                finally:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
            history = await stack.examine(wire, sampler)
        return stack.outcome, history
