"""A simulated worker: the real :class:`WorkerService`, and a stand-in for Faust."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import turnlog_workers.process.service
from tests.odd_runners import PREFIX as ODD_PREFIX
from tests.odd_runners import factory as odd_runner
from tests.simulation.group import SESSION_S, Group
from tests.simulation.inputs import WatchedRunner
from tests.simulation.ports import (
    Disk,
    SimBuilds,
    SimEventLog,
    SimJournal,
    SimRecordSender,
    SimRequestLog,
    SimStores,
)
from tests.simulation.summaries import SUMMARY_MODEL, SUMMARY_TIMEOUT_S, SummaryRunner
from tests.simulation.world import World
from turnlog_schemas.codec import RequestCodec
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.policy import ErasurePolicy
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError, RequestRecord
from turnlog_workers.base.shared_look import SharedLook, reply_topics
from turnlog_workers.intake.request_reader import RequestReader
from turnlog_workers.process.service import WorkerService
from turnlog_workers.runners.base import Runner
from turnlog_workers.runners.options import after_provider, read_options
from turnlog_workers.runners.script import ScriptOptions, ScriptRunner
from turnlog_workers.sessions.turn_host import ActorLimits
from turnlog_workers.shard.worker_context import ShardLimits, WorkerContext

_BEGAN_MS = 1_700_000_000_000
_CLOCK_IS_SET = 0.03  #: how likely, each time it is looked at
_CLOCK_OFF_S = 6 * 3600.0
NOTICE_S = 0.5  #: how late a member hears of a rebalance, typically


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What differs from seed to seed in all workers' settings."""

    tight: bool = False  #: bounds that turns reach
    history: HistoryCompactionPolicy = field(default_factory=HistoryCompactionPolicy)
    summary_window_tokens: int = 32_768


@cache
def sim_settings(bounds: Bounds = Bounds()) -> Settings:
    """Short times, and every few seeds bounds that are reached."""
    tight = bounds.tight
    return _settings().model_copy(
        update={
            "turn_timeout_s": 1.2 if tight else 60.0,
            "max_takeovers": 2 if tight else 20,
            "max_queued_turns_per_session": 1 if tight else 100,
            "delta_interval_ms": 0 if tight else 25,
            "history_max_tokens": bounds.history.max_tokens,
            "history_keep_tail": bounds.history.keep_tail,
            "summary_window_tokens": bounds.summary_window_tokens,
        }
    )


@cache
def _settings() -> Settings:
    return Settings(
        data_dir=Path("unused"),
        allow_models=("script:*", "summary:*", f"{ODD_PREFIX}*"),
        default_model="script:1",
        fast_model=SUMMARY_MODEL,
        session_timeout_s=3.0,
        append_timeout_s=2.0,
        tail_check_interval_s=2.0,
        stalled_delivery_s=3.0,
        drain_timeout_s=2.0,
        retry_delay_s=0.5,
        store_commit_interval_s=1.5,
        summary_timeout_s=SUMMARY_TIMEOUT_S,
    )


@cache
def _codec() -> RequestCodec:
    return RequestCodec()


@cache
def script_of(model: str) -> tuple[str, ScriptOptions]:
    """Seed and options of a model name."""
    seed, _, query = after_provider(model).partition("?")
    return seed, read_options(model, query, ScriptOptions)


class SimReader:
    """What the service's watch asks for the ends of topics."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def ends(self, topic: str, partitions: Sequence[int], *, committed: bool = False) -> Mapping[int, int]:
        world = self._world
        await asyncio.sleep(world.latency())
        if world.happens(world.chaos.read_fails):
            raise LogError("simulated: cannot read")
        if topic == sim_settings().topics.events:
            return {p: len(world.events[p]) for p in partitions}
        return {p: world.requests[p].stable_end if committed else len(world.requests[p].records) for p in partitions}

    async def topic_id(self, topic: str) -> str | None:
        return self._world.requests_topic_id

    async def close(self) -> None:
        """Nothing is open."""


class JumpingClock:
    """A worker's wall clock: now and then somebody sets it, by hours, forwards or back. Nothing may depend on it."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._rng = random.Random(f"the clock of {name}")  # of its own: the seeds' other chances stay as they are
        self._off_s = 0.0

    def now_ms(self) -> int:
        """Milliseconds since 1970, as this worker believes."""
        if self._rng.random() < _CLOCK_IS_SET:
            self._off_s = self._rng.uniform(-_CLOCK_OFF_S, _CLOCK_OFF_S)
        return _BEGAN_MS + int((self._world.loop.now + self._off_s) * 1000)


class NoReplySender:
    """Frames go out by :class:`SimRecordSender`."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    async def stop(self) -> None:
        """Nothing was started."""


class SimService(WorkerService):
    """The real service on simulated ports."""

    def __init__(
        self, world: World, name: str, disk: Disk, limits: ShardLimits, bounds: Bounds, **callbacks: Any
    ) -> None:
        with patch.object(
            turnlog_workers.process.service, "ReplySender", NoReplySender
        ):  # a codec each would take most of the time
            super().__init__(sim_settings(bounds), owner=name, **callbacks)
        self._world = world
        self._name = name
        self._sim_stores, self._disk = SimStores(world, disk), disk
        self._limits = limits
        self._reader = SimReader(world)  # type: ignore[assignment]
        self._journal = SimJournal(world)

    async def start(self) -> None:
        """Put the parts together."""
        if self._world.sealed:
            self._erasure = ErasurePolicy(requests_kept_ms=1)
            self._policy_now = self._own_policy()
        self._context = self._sim_context()
        self._keep_watching()

    def _sim_context(self) -> WorkerContext:
        world, settings = self._world, self._settings
        sender = SimRecordSender(world, self._name)
        event_log = SimEventLog(world, self._name, append_timeout_s=settings.append_timeout_s)
        return WorkerContext(
            owner=self._name,
            process=world.new_id(),
            topics_id=world.requests_topic_id,
            partition_count=world.partition_count,
            event_log=event_log,
            request_log=SimRequestLog(world),
            sender=sender,
            stores=self._sim_stores,
            builds=SimBuilds(world, self._name, self._sim_stores, self._disk, event_log),
            requests=RequestReader(
                _codec(),
                settings.topics,
                partition_count=world.partition_count,
                reply_prefix=settings.reply_prefix,
                reply_topic_exists=sender.known_reply_topic,
            ),
            make_runner=self._make_runner,
            policy=self._policy,
            schemas=SharedLook(self._no_schemas, known=lambda name: False, now=world.loop.time),
            reply_topics=reply_topics(sender, world.loop.time),
            running=asyncio.Semaphore(settings.max_running_turns),
            actor_limits=ActorLimits(
                turn_timeout_s=settings.turn_timeout_s,
                retry_delay_s=settings.retry_delay_s,
                delta_interval_s=settings.delta_interval_ms / 1000,
                max_text_bytes=settings.max_text_bytes,
                max_tool_result_bytes=settings.max_tool_result_bytes,
                summary_timeout_s=settings.summary_timeout_s,
            ),
            limits=self._limits,
            membership=self._membership,
            ack=self._ack,
            fatal=self._fatal,
            now=world.loop.time,
            now_ms=JumpingClock(world, self._name).now_ms,
            name_is_ours=self._name_is_ours,
            random_id=world.new_id,
            jitter=world.rng.random,
        )

    def _make_runner(self, model: str) -> Runner:
        if model == SUMMARY_MODEL:
            return SummaryRunner(self._world)
        if model.startswith(ODD_PREFIX):
            runner: Runner = odd_runner(model)
            return runner
        seed, options = script_of(model)
        return WatchedRunner(ScriptRunner(seed, options, self._journal), self._world)  # type: ignore[arg-type]

    async def _no_schemas(self) -> None:
        await asyncio.sleep(self._world.latency())

    async def stop(self) -> None:
        """As the real one; its stores are ours."""
        await super().stop()
        await self._sim_stores.close()


class SimWorker:
    """A process: boots, joins the group, is fed, crashes, is paused, leaves."""

    def __init__(
        self,
        world: World,
        group: Group,
        name: str,
        disk: Disk,
        limits: ShardLimits,
        bounds: Bounds,
        *,
        label: str | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.label = label or name  #: tells it from another process of its name
        self.disk = disk
        self.alive = False
        self.known = (0, -1)  #: the group as this member knows it
        self.problems: list[str] = []
        self.on_left: Callable[[], None] = lambda: None
        self._group = group
        self._limits = limits
        self._bounds = bounds
        self.boots = 0
        self._positions: dict[int, int] = {}
        self._acked: dict[int, int] = {}
        self._committed: dict[int, int] = {}  #: of this assignment: what is acknowledged again moves nothing back
        self._rejoining = False
        self._ends = False
        self.takes_names = False  #: it joins without looking who has its name
        self._set_aside: set[int] = set()

    def boot(self) -> None:
        """Start the process, for the first time or again."""
        self.boots += 1
        self.alive = True
        self.known = (0, -1)  #: the group as this member knows it
        self._positions, self._acked, self._committed = {}, {}, {}
        self._rejoining = self._ends = False
        self._set_aside = set()
        self.disk.after_crash()
        self.lane = self.world.loop.new_lane(f"{self.label}.{self.boots}")
        self.lane.context.copy().run(self._start)
        self.world.trace(self.name, "boots")

    def _start(self) -> None:
        self.service = SimService(
            *(self.world, self.name, self.disk, self._limits, self._bounds),
            ack=self._ack,
            stop=self._fatal_stop,
            name_is_ours=self._name_is_ours,
        )
        self._main = self.world.loop.create_task(self._join())

    async def _join(self) -> None:
        await self.service.start()
        holder = self._group.holder(self.name)
        if isinstance(holder, SimWorker) and holder is not self and holder.alive and not self.takes_names:
            self.world.trace(self.label, "ends: its name is another's")
            self.crash()
            return
        self._group.enter(self)

    def crash(self) -> None:
        """kill -9. What is under way to the brokers may still arrive."""
        if self.alive:
            self.alive = False
            self.lane.kill()
            self.world.trace(self.name, "crashes")

    @property
    def waits(self) -> bool:
        """Does it stand still, or a partition of it: for room on the disk, say?"""
        return self.lane.paused or any(shard.serving is None for shard in self.service.shards.values())

    def light_fuse(self, callbacks: int, then: Callable[[], None]) -> None:
        """Do something to the process after so many of its callbacks, if it is there."""
        if self.alive:
            self.lane.light(callbacks, then)

    def pause(self) -> None:
        """SIGSTOP."""
        self.lane.paused = True
        self.world.trace(self.name, "is paused")

    def resume(self) -> None:
        """SIGCONT."""
        if self.lane.paused:
            self.lane.paused = False
            self.world.trace(self.name, "goes on")

    def leave(self, remains: bool) -> None:
        """SIGTERM: drain, release, leave the group or keep the place there, exit."""
        if self.alive:
            self.soon(lambda: self.world.loop.create_task(self._leave(remains)))

    async def _leave(self, remains: bool) -> None:
        self.world.trace(self.name, "ends and remains in the group" if remains else "leaves")
        await self.service.drain()
        await self.service.stop()
        await asyncio.sleep(self.world.rng.uniform(0.0, 0.5))
        if remains:
            boots = self.boots
            self.world.loop.in_world(SESSION_S, lambda: None if self.boots > boots else self._group.left(self))
        else:
            self._group.left(self)
        self.crash()
        self.on_left()

    # ---- another process of its name

    def hear_of_replacement(self) -> None:
        """The next heartbeat will tell."""
        self.soon(self._end_if_replaced, self.world.latency(NOTICE_S * self.world.chaos.news_slowness))

    def _end_if_replaced(self) -> None:
        if not self._ends and self._group.holder(self.name) not in (None, self):
            self._ends = True
            self.world.loop.create_task(self._end())

    async def _end(self) -> None:
        self.world.trace(self.label, "ends: its name was taken")
        await self.service.drain()
        await self.service.stop()
        self.crash()
        self.on_left()

    async def _name_is_ours(self) -> bool:
        await asyncio.sleep(self.world.latency())
        if self.world.happens(self.world.chaos.read_fails):
            return False
        self._end_if_replaced()
        return self._group.is_member(self)

    def _fatal_stop(self, reason: str) -> None:
        self.problems.append(f"{self.name} stops: {reason}")

    def soon(self, action: Any, delay_s: float = 0.0) -> None:
        """Do something inside the process, if it is there."""
        if self.alive:
            self.world.loop.call_later(delay_s, action, context=self.lane.context.copy())

    # ---- what Faust does

    def hear_of_place(self) -> None:
        """The answer to its join."""
        self.soon(self._notice, self.world.latency())

    def hear_of_rebalance(self) -> None:
        """The next heartbeat will tell."""
        self.soon(self._notice, self.world.latency(NOTICE_S * self.world.chaos.news_slowness))

    def _notice(self) -> None:
        if not self._rejoining and not self._ends and self.known != self._group.state:
            self._rejoining = True
            self.world.loop.create_task(self._rejoin())

    async def _rejoin(self) -> None:
        try:
            while self.known != self._group.state and not self._ends:
                self.service.revoked()
                self._positions, self._acked, self._committed = {}, {}, {}
                self._set_aside = set()
                await asyncio.sleep(self.world.latency(0.05) + self.world.chaos.join_takes_s)
                if self._group.holder(self.name) is None:
                    self._group.enter(self)
                if not self._group.is_member(self):
                    self._end_if_replaced()
                    return
                self.known = self._group.state
                assigned = self._group.assigned_to(self.name)
                self.world.trace(self.name, f"generation {self.known[1]}: {sorted(assigned)}")
                await self.service.assigned(assigned, self.known[1])
                if self.known == self._group.state:
                    self._positions = {p: self._start_position(p) for p in assigned}
                    self._committed = {p: self._group.committed[p] for p in assigned}
        finally:
            self._rejoining = False
        for partition in self._positions:
            self.fetch_soon(partition)

    def _start_position(self, partition: int) -> int:
        world = self.world
        committed = self._group.committed[partition]
        if world.happens(world.chaos.wrong_start):
            end = world.requests[partition].stable_end
            committed = world.rng.randint(0, end)
            world.trace(self.name, f"requests[{partition}] from {committed}, a wrong start")
        return max(committed, world.requests[partition].start)

    def fetch_soon(self, partition: int) -> None:
        """There is something new."""
        if partition in self._positions:
            self.soon(lambda: self._fetch(partition), self.world.latency(0.02))

    def _fetch(self, partition: int) -> None:
        world, chaos = self.world, self.world.chaos
        position = self._positions.get(partition)
        if position is None or partition in self._set_aside:
            return
        if world.happens(chaos.delivery_unreadable):
            self._set_aside.add(partition)
            world.loop.create_task(self._pass_by(partition, position, self.known))
            return
        topic = world.requests[partition]
        # What is deleted is never delivered: the client hears that its offset is out of range, and goes on from there.
        position = max(position, topic.start)
        if world.happens(chaos.delivery_twice):
            position = max(topic.start, position - world.rng.randint(1, 4))
        if world.happens(chaos.delivery_skips):
            skipped = world.rng.randint(1, 4)
            world.trace(self.name, f"requests[{partition}]: {skipped} from {position} on are not delivered")
            position += skipped
        end = topic.stable_end
        while position < end:
            record: RequestRecord | None = topic.records[position]
            if position in topic.unreadable:
                self._set_aside.add(partition)
                world.loop.create_task(self._pass_by(partition, position, self.known))
                break
            position += 1
            if record is not None and not self.service.deliver(record):
                self.soon(lambda: self._fetch(partition), 0.2)
                break
        self._positions[partition] = min(max(position, self._positions[partition]), topic.stable_end)

    async def _pass_by(self, partition: int, position: int, known: tuple[int, int]) -> None:
        """As :class:`IntakeConsumer`."""
        self.world.trace(self.name, f"requests[{partition}]@{position} cannot be read")
        while self.known == known:
            try:
                end = await self.service.read_past(partition, position)
            except LogError:
                end = None
            if end is not None and self.known == known and partition in self._positions:
                self._positions[partition] = end
                self._set_aside.discard(partition)
                self.fetch_soon(partition)
                return
            await asyncio.sleep(self.world.latency(0.3))

    def _ack(self, partition: int, offset: int) -> None:
        """Acknowledgements come in order, so the highest one says it all: the boldest way to commit."""
        if partition not in self._positions:
            return  # Faust commits what is assigned to it
        if partition not in self._acked:
            self.soon(lambda: self._commit(partition), self.world.rng.uniform(0.0, 0.3))
        self._acked[partition] = max(self._acked.get(partition, -1), offset)

    def _commit(self, partition: int) -> None:
        if partition not in self._acked:
            return  # revoked meanwhile
        offset = max(self._acked.pop(partition) + 1, self._committed.get(partition, 0))
        self._committed[partition] = offset
        process = f"{self.label}.{self.boots}"
        self.world.loop.in_world(self.world.latency(), self._group.commit, self, process, self.known, partition, offset)
