"""A worker's inside: its parts, its shards, and what it does when the group assigns or revokes partitions."""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.registry import packaged
from turnlog_streams.policy import ErasurePolicy, Policy
from turnlog_streams.runtime_settings import forbidden, runner_factories, with_run_settings
from turnlog_workers.base.config import Settings
from turnlog_workers.base.counted import counted
from turnlog_workers.base.errors import BrokerUnreachableError, NotFoundError
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import LogError, RequestRecord
from turnlog_workers.base.readiness_file import mark_ready
from turnlog_workers.base.settings_check import check_models, unknown_variables
from turnlog_workers.base.shared_look import SharedLook, reply_topics
from turnlog_workers.base.tasks import all_within, describe, end, frames, kept_running, watched
from turnlog_workers.files.reader import FileReader
from turnlog_workers.intake.request_reader import RequestReader
from turnlog_workers.kafka import schema_topic
from turnlog_workers.kafka.connecting import unless_it_breaks
from turnlog_workers.kafka.event_log import KafkaEventLog, LogProducer
from turnlog_workers.kafka.open_transactions import TransactionWatch
from turnlog_workers.kafka.record_sender import KafkaRecordSender
from turnlog_workers.kafka.reply_sender import ReplySender
from turnlog_workers.kafka.request_log import KafkaRequestLog
from turnlog_workers.kafka.session_keys import SessionKeys
from turnlog_workers.kafka.settings_topic import RunSettings
from turnlog_workers.kafka.topic_reader import TopicReader
from turnlog_workers.kafka.topics_admin import TopicsState, check_topics
from turnlog_workers.observe.turn_times import TurnMetrics
from turnlog_workers.process.erasure_watch import watched_keys
from turnlog_workers.process.limits import actor_limits, shard_limits
from turnlog_workers.process.store_builds import ProcessBuilds
from turnlog_workers.process.surplus_partitions import GrowthWatch, Surplus, SurplusPartition, committed_in_group
from turnlog_workers.process.tail_watch import TailWatch
from turnlog_workers.runners.registry import RunnerRegistry
from turnlog_workers.shard.partition import Shard, ShardStuckError
from turnlog_workers.shard.worker_context import Membership, WorkerContext
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.tools.from_settings import toolbox_of

log = logging.getLogger(__name__)
_RELEASE_LIMIT_S = 10.0  #: of all partitions, at the end
_STEP_LIMIT_S = 5.0
_READ_PAST_REQUESTS = 5_000  #: what is behind them Faust tries again


class WorkerService:
    """Everything of a worker but Faust, which tells it of assignments and deliveries."""

    def __init__(
        self,
        settings: Settings,
        *,
        owner: str,
        ack: Callable[[int, int], None],
        stop: Callable[[str], None],
        name_is_ours: Callable[[], Awaitable[bool]],
        turn_metrics: TurnMetrics | None = None,
    ) -> None:
        self._settings = settings
        self._owner = owner  #: what claims call this worker
        self._ack = ack
        self._name_is_ours = name_is_ours
        self._stop = stop
        self._turn_metrics = turn_metrics
        self._shards: dict[int, Shard] = {}
        self._membership = Membership()
        self._context: WorkerContext | None = None
        self._reader = TopicReader(settings)
        self._producer = LogProducer(settings)
        self._replies = ReplySender(settings, source=owner, now_ms=_wall_ms)
        self._stores: StoreDirectory | None = None
        self._watch: asyncio.Task[None] | None = None
        self._runners, self._toolbox = RunnerRegistry(policy=settings.policy()), toolbox_of(settings)
        self._files = FileReader.of(settings, self._media_types_of)
        self._erasure: ErasurePolicy | None = None  #: absent: texts are not sealed, and there are no keys
        self._keys: SessionKeys | None = None
        self._erasures: asyncio.Task[None] | None = None
        self._policy_now = self._own_policy()
        self._run_settings = RunSettings(settings, self._reader, self._take_settings)
        self._follow: asyncio.Task[None] | None = None
        self._growth: asyncio.Task[None] | None = None
        self._surplus: Surplus | None = None
        self._transactions: asyncio.Task[None] | None = None
        self._releasing: dict[int, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()

    # ---- start and stop

    async def start(self) -> None:
        """Check the topics, publish our schemas, connect. Raises with a sentence when something is not right."""
        settings, limit_s = self._settings, self._settings.startup_timeout_s
        warnings = [*unknown_variables(settings), *check_models(settings)]
        log.info("connecting to Kafka at %s, for %g s at most", settings.bootstrap_server, limit_s)
        topics = await unless_it_breaks(partial(asyncio.to_thread, check_topics, settings), limit_s)
        self._erasure, self._policy_now = topics.erasure, replace(self._policy_now, erasure=topics.erasure)
        for problem in (*warnings, *topics.problems):
            log.warning("%s", problem)
        await asyncio.gather(
            unless_it_breaks(partial(asyncio.to_thread, schema_topic.publish_schemas, settings), limit_s),
            unless_it_breaks(self._replies.start, limit_s),
            unless_it_breaks(self._run_settings.catch_up, limit_s),
        )
        self._stores = StoreDirectory(
            settings.data_dir / "stores",
            # The topic's id tells a re-created log from the one that the files were made of.
            deployment=f"{settings.prefix} {topics.events_topic_id}",
            memory_limit_mb=settings.store_memory_mb,
        )
        if topics.erasure is not None:
            of = settings.topics.keys, topics.partition_count, self._stores
            self._keys, self._erasures = watched_keys(*of, self._reader, self._producer.send, gave_up=self._fatal)
        self._context = self._build_context(topics)
        self._keep_watching()
        self._watch_transactions()
        self._follow = kept_running(self._run_settings.follow, "following the run-time settings", gave_up=self._fatal)
        self._surplus = Surplus(self._context, committed_in_group(settings))
        ask, known = self._producer.partition_counts, topics.requests_partitions
        growth = GrowthWatch(ask, settings.topics, recorded=topics.partition_count, known=known)
        self._growth = kept_running(growth.run, "looking at the number of partitions", gave_up=self._fatal)

    def _build_context(self, topics: TopicsState) -> WorkerContext:
        settings, owner = self._settings, self._owner
        assert self._stores is not None
        log_on = settings, self._producer, self._reader
        schemas: SharedLook[bytes] = SharedLook(
            self._read_schemas, known=lambda name: packaged().find(name) is not None, now=time.monotonic
        )
        sender = KafkaRecordSender(
            *(settings, self._producer, self._replies),
            partition_count=topics.partition_count,
            source=owner,
            now_ms=_wall_ms,
        )
        return WorkerContext(
            owner=owner,
            process=secrets.token_hex(4),
            topics=settings.topics,
            topics_id=topics.requests_topic_id,
            partition_count=topics.partition_count,
            event_log=KafkaEventLog(*log_on, source=owner, schemas=schemas, keys=self._keys),
            request_log=KafkaRequestLog(settings, self._reader),
            sender=sender,
            stores=self._stores,
            builds=ProcessBuilds(settings, self._stores, sealed=None if self._keys is None else topics.partition_count),
            requests=RequestReader(
                RequestCodec(),
                settings.topics,
                partition_count=topics.partition_count,
                reply_prefix=settings.reply_prefix,
                reply_topic_exists=sender.known_reply_topic,
                max_request_bytes=settings.max_request_bytes,
            ),
            make_runner=lambda model: self._runners.make(model, runner_factories(self._run_settings.values)),
            policy=self._policy,
            schemas=schemas,
            reply_topics=reply_topics(sender),
            running=asyncio.Semaphore(settings.max_running_turns),
            actor_limits=actor_limits(settings),
            toolbox=self._toolbox,
            files=self._files,
            limits=shard_limits(settings),
            membership=self._membership,
            turn_metrics=self._turn_metrics,
            ack=self._ack,
            fatal=self._fatal,
            now=time.monotonic,
            now_ms=_wall_ms,
            name_is_ours=self._name_is_ours,
            random_id=lambda: secrets.token_hex(8),
            jitter=random.random,
            open_turns=lambda: sum(shard.open_turns for shard in self._shards.values()),
        )

    def _media_types_of(self, model: str) -> tuple[str, ...]:
        return self._runners.media_types(model, runner_factories(self._run_settings.values))

    def _own_policy(self) -> Policy:
        return replace(self._settings.policy(), media_types_of=self._media_types_of, erasure=self._erasure)

    def _policy(self) -> Policy:
        return self._policy_now

    def _take_settings(self, values: Mapping[str, str]) -> None:
        """Turns that start from now on use them; live runners keep theirs until their session is reset."""
        draining = not self._policy_now.start_turns
        own = self._own_policy()
        policy = with_run_settings(own, values)
        self._policy_now = replace(policy, start_turns=not draining)
        log.info("run-time settings: %s", ", ".join(sorted(values)) or "none")
        for name, model in sorted(forbidden(own, values).items()):
            log.warning("%s is ignored: TURNLOG_ALLOW_MODELS does not allow %.200s here", name, model)

    def _fatal(self, reason: str) -> None:
        log.critical("stopping: %s", reason)
        self._stop(reason)

    async def drain(self) -> None:
        """No new turns; the running ones get their time. What is left is resumed by the next owner."""
        if self._context is None:
            return
        self._context.draining = True
        self._policy_now = replace(self._policy_now, start_turns=False)
        loop = asyncio.get_running_loop()
        limit_s = self._settings.drain_timeout_s
        deadline = loop.time() + limit_s
        log.info("stopping: %s may end, %g s at most; no new one begins", counted(self.running_turns, "turn"), limit_s)
        while self.running_turns and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        if self.running_turns:
            log.info("the next owner begins %s again", counted(self.running_turns, "turn"))

    async def stop(self) -> None:
        """Release every partition (before the group is left), then disconnect."""
        with contextlib.suppress(TimeoutError):  # an assignment that hangs must not hold up the end
            async with asyncio.timeout(_STEP_LIMIT_S):
                await self._changing.acquire()
        shards = list(self._shards.items())
        self._shards.clear()
        releases = [(f"partition {partition} is not released in order", shard.stop()) for partition, shard in shards]
        releases += [(f"partition {p} is not released in order", _ended(task)) for p, task in self._releasing.items()]
        if self._surplus is not None:
            releases.append(("the added partitions are not left in order", self._surplus.stop()))
        await all_within(releases, _RELEASE_LIMIT_S)
        await end(self._watch)
        await end(self._follow)
        await end(self._growth)
        await end(self._erasures)
        await end(self._transactions)
        clients = (
            ("the replies' producer does not stop", self._replies.stop()),
            ("the log's producer does not stop", self._producer.close()),
            ("the log's readers do not stop", self._reader.close()),
            ("the tools do not stop", self._toolbox.aclose()),
        )
        await all_within(clients, _STEP_LIMIT_S)
        if self._stores is not None:
            await all_within([("the stores are not closed", self._stores.close())], _STEP_LIMIT_S)

    @property
    def running_turns(self) -> int:
        """Turns that have a runner at work."""
        return sum(shard.running_turns for shard in self._shards.values())

    @property
    def shards(self) -> Mapping[int, Shard]:
        """Of every partition that is assigned, by its number."""
        return self._shards

    @property
    def context(self) -> WorkerContext | None:
        """What its shards share; ``None``: it has not started."""
        return self._context

    @property
    def owner(self) -> str:
        """What claims call this worker."""
        return self._owner

    @property
    def replies(self) -> ReplySender:
        """Who sends its frames."""
        return self._replies

    # ---- what Faust tells

    def revoked(self) -> None:
        """The group rebalances: no new claims; what we hold goes on, the log fences it if need be."""
        log.info("the group rebalances: what is served here goes on, with requests read from the topic")
        self._membership.begin_rebalance()

    async def assigned(self, partitions: Collection[int], generation: int) -> None:
        """The full new assignment. Kept partitions go on, if nobody else can have owned them meanwhile."""
        membership = self._membership
        async with self._changing:
            if self._context is None or self._context.draining:
                return
            surplus = {p for p in partitions if p >= self._context.partition_count}
            partitions = set(partitions) - surplus
            if self._surplus is not None:
                await self._surplus.assigned(surplus)
            kept_trust = generation == membership.generation + 1
            membership.take_assignment(generation, self._context.now())
            lost = [p for p in self._shards if p not in partitions]
            kept = [p for p in self._shards if p in partitions]
            gained = [p for p in partitions if p not in self._shards]
            log.info(
                "generation %d: %d partitions kept, %d gained, %d lost", generation, len(kept), len(gained), len(lost)
            )
            for partition in lost:
                self._release(partition)
            if not kept_trust:
                await self._doubt(kept)
            for partition in sorted(gained):
                shard = self._shards[partition] = Shard(self._context, partition)
                shard.start(after=self._releasing.get(partition))
        mark_ready()  # also without a partition: a spare worker serves as well as it can

    async def _doubt(self, partitions: Sequence[int]) -> None:
        results = await asyncio.gather(*(self._shards[p].doubt() for p in partitions), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):  # nobody may claim a partition beside a shard that is still there
                self._fatal(str(error) if isinstance(error, ShardStuckError) else describe(error))

    def _release(self, partition: int) -> None:
        """Stop a lost partition's shard; neither the group nor what we gain waits for its turns and its disk."""

        async def stop(shard: Shard, before: asyncio.Task[None] | None) -> None:
            try:
                await shard.stop()
            except Exception as error:
                why = str(error) if isinstance(error, ShardStuckError) else describe(error) + frames(error)
                log.error("released, not in order: %s", why, extra=at(partition=partition))
            if before is not None:
                await asyncio.wait([before])
            if self._releasing.get(partition) is asyncio.current_task():
                del self._releasing[partition]

        stopping = stop(self._shards.pop(partition), self._releasing.get(partition))
        self._releasing[partition] = watched(stopping, f"the release of partition {partition}")

    def deliver(self, record: RequestRecord) -> bool:
        """A request from Faust. False: its shard has enough, hold the partition back."""
        taker = self._taker(record.partition)
        if taker is None:
            return True
        taker.deliver(record)
        return not taker.inbox.full

    async def read_past(self, partition: int, position: int) -> int | None:
        """Faust cannot read on from ``position``: the shard reads from there on, so many requests as there are now.

        Where Faust goes on; ``None``: the partition is not ours now. Raises :class:`LogError`.
        """
        taker = self._taker(partition)
        if self._context is None or taker is None:
            return None
        end = (await self._context.request_log.stable_ends([partition]))[partition]
        end = min(end, position + _READ_PAST_REQUESTS)
        if self._taker(partition) is not taker:
            return None
        taker.skip(position, end)
        return end

    def has_room(self, partition: int) -> bool:
        """May a partition that was held back be fetched again?"""
        taker = self._taker(partition)
        return taker is None or len(taker.inbox) <= self._settings.max_inbox_requests // 2

    def _taker(self, partition: int) -> Shard | SurplusPartition | None:
        """Who takes the requests of a partition."""
        if partition in self._shards or self._surplus is None:
            return self._shards.get(partition)
        return self._surplus.get(partition)

    # ---- upkeep

    def _keep_watching(self) -> None:
        settings, context = self._settings, self._context
        assert context is not None
        watch = TailWatch(
            *(self._reader, settings.topics, self._shards),
            membership=self._membership,
            interval_s=settings.tail_check_interval_s,
            stalled_delivery_s=settings.stalled_delivery_s,
            now=context.now,
            requests_id=context.topics_id,
            broken=self._fatal,
        )
        self._watch = kept_running(watch.run, "the watch over the topics' ends", gave_up=self._fatal)

    def _watch_transactions(self) -> None:
        watch = TransactionWatch(self._settings, self._reader, lambda: list(self._shards))
        self._transactions = kept_running(watch.run, "the watch over open transactions", gave_up=self._fatal)

    async def _read_schemas(self) -> None:
        try:
            await asyncio.to_thread(
                schema_topic.read_schemas, self._settings, packaged(), timeout_s=self._settings.append_timeout_s
            )
        except (BrokerUnreachableError, NotFoundError) as error:
            raise LogError(f"the schemas topic cannot be read: {error}") from error


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
