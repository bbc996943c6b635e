"""What the parts of a worker share: built once in ``process.service`` (and by the simulation)."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from turnlog_schemas.errors import UnknownFingerprintError
from turnlog_streams.policy import Policy
from turnlog_streams.topics import Topics
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import EventLog, RecordSender, RequestLog, RequestRecord
from turnlog_workers.base.shared_look import SharedLook
from turnlog_workers.base.tasks import describe, frames
from turnlog_workers.files.reader import FileReader
from turnlog_workers.intake.request_reader import Incoming, RequestReader, UnknownReplyTopicError, Unreadable
from turnlog_workers.observe.counts import Counts
from turnlog_workers.observe.turn_times import TurnMetrics
from turnlog_workers.runners.base import Runner
from turnlog_workers.sessions.turn_host import ActorLimits
from turnlog_workers.shard.idle_memory import IdleMemory
from turnlog_workers.store.port import PartitionStores, StoreBuilds
from turnlog_workers.tools.toolbox import Toolbox

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLimits:
    """Bounds of a shard."""

    max_batch_bytes: int
    max_inbox_requests: int
    max_queued_turns: int = 50_000  #: of the worker: then the intake waits
    max_group_requests: int = 200  #: decided in one go: about 15 ms of the event loop
    store_commit_interval_s: float
    store_commit_events: int
    store_batch_events: int
    session_timeout_s: float
    idle_timeout_s: float
    max_idle_sessions: int = 500  #: in memory, of one partition, once the store has them
    max_idle_bytes: int = 1 << 29  #: that such sessions hold, of the worker
    stalled_delivery_s: float
    append_linger_s: float = 0.0  #: between two appends


@dataclass(slots=True, kw_only=True)
class Membership:
    """What the consumer group told us last."""

    generation: int = -1
    rebalancing: bool = False
    assigned: asyncio.Event = field(default_factory=asyncio.Event)  #: replaced at every assignment
    assigned_at: float = -math.inf  #: monotonic seconds
    unsettled: asyncio.Event = field(default_factory=asyncio.Event)  #: set while the group rebalances
    unanswered_since: float | None = None  #: of the broker, where our topics end; absent: it answered the last time

    def begin_rebalance(self) -> None:
        """Somebody joins or leaves: until the new assignment nothing is delivered."""
        self.rebalancing = True
        self.unsettled.set()

    def take_assignment(self, generation: int, now: float) -> None:
        """The new assignment is there."""
        self.generation, self.assigned_at = generation, now
        self.rebalancing = False
        self.unsettled.clear()
        event, self.assigned = self.assigned, asyncio.Event()
        event.set()


@dataclass(slots=True, kw_only=True)
class WorkerContext:
    """One worker's parts."""

    owner: str
    process: str  #: random, one per process
    topics_id: str  #: id of the requests topic
    partition_count: int
    event_log: EventLog
    request_log: RequestLog
    sender: RecordSender
    stores: PartitionStores
    requests: RequestReader
    make_runner: Callable[[str], Runner]
    policy: Callable[[], Policy]
    schemas: SharedLook[bytes]  #: by fingerprint
    reply_topics: SharedLook[str]  #: by name
    running: asyncio.Semaphore
    actor_limits: ActorLimits
    limits: ShardLimits
    membership: Membership
    ack: Callable[[int, int], None]  #: (partition, offset)
    fatal: Callable[[str], None]  #: stop the worker with this sentence
    now: Callable[[], float]  #: monotonic seconds
    now_ms: Callable[[], int]  #: wall clock, shown only
    name_is_ours: Callable[[], Awaitable[bool]]  #: asks the group; false also if it does not answer
    random_id: Callable[[], str]
    jitter: Callable[[], float]  #: between 0 and 1
    topics: Topics = field(default_factory=Topics)
    toolbox: Toolbox | None = None  #: ``None``: no turn has tools
    files: FileReader | None = None  #: ``None``: no turn has files
    builds: StoreBuilds | None = None  #: ``None``: every store is made here
    draining: bool = False
    counts: Counts = field(default_factory=Counts)
    turn_metrics: TurnMetrics | None = None  #: ``None``: nobody asks how long turns take
    open_turns: Callable[[], int] = lambda: 0  #: of the worker: accepted, not ended
    idle_memory: IdleMemory = field(default_factory=IdleMemory)
    waiting_for_turns: set[Callable[[], None]] = field(default_factory=set)  #: to be called when there are fewer

    def may_take_requests(self, when_it_may: Callable[[], None]) -> bool:
        """Not while the worker drains, nor while it has as many turns as it may: then the caller is called later."""
        if self.draining:
            return False
        if self.open_turns() < self.limits.max_queued_turns:
            return True
        self.waiting_for_turns.add(when_it_may)
        return False

    def turns_may_have_ended(self) -> None:
        """Call those who wait for turns to end, if there are few enough."""
        if self.waiting_for_turns and self.open_turns() < self.limits.max_queued_turns:
            waiting, self.waiting_for_turns = self.waiting_for_turns, set()
            for call in waiting:
                call()

    def read_at_once(self, record: RequestRecord) -> Incoming | None:
        """The verdict on a request; ``None``: somebody has to look first (:meth:`read`)."""
        try:
            return self._read(record)
        except (UnknownFingerprintError, UnknownReplyTopicError):
            return None

    async def read(self, record: RequestRecord, there_since: float) -> Incoming:
        """The verdict on a request, after a look at new schemas and new reply topics where it names any.

        ``there_since``: when the record was in its topic for sure. Raises :class:`LogError` when nobody
        can look: that is no verdict. What a reader of ours stumbles over is one: the next owner would, too.
        """
        for _ in range(2):  # it may name both
            try:
                return self._read(record)
            except UnknownFingerprintError as error:
                await self.schemas.find(error.fingerprint, there_since)
            except UnknownReplyTopicError as error:
                await self.reply_topics.find(error.topic, there_since)
        return self._read(record, last_try=True)

    def _read(self, record: RequestRecord, *, last_try: bool = False) -> Incoming:
        try:
            return self.requests.read(record, last_try=last_try)
        except (UnknownFingerprintError, UnknownReplyTopicError):
            raise
        except Exception as error:
            place = at(topic=self.topics.requests, partition=record.partition, offset=record.offset)
            log.error("a request cannot be read: %s%s", describe(error), frames(error), extra=place)
            return Unreadable(code="undecidable", reason=f"reading it failed: {type(error).__name__}")
