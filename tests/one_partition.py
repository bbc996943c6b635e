"""A partition served by the real shard: its log, its topics and its store are in memory, its models the test's."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.one_session import LIMITS, PlayedRunner, answers
from tests.waiting import eventually
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.commands import Chat, Command, RequestHeader
from turnlog_schemas.events import EventHeader
from turnlog_schemas.parts import text_content
from turnlog_streams.policy import Policy
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.reply import Reply
from turnlog_streams.topics import Topics, partition_of
from turnlog_workers.base.ports import Headers, LogError, NewRecord, Parked, RequestRecord
from turnlog_workers.base.shared_look import SharedLook, reply_topics
from turnlog_workers.intake.request_reader import RequestReader
from turnlog_workers.kafka.event_log import BATCH_OVERHEAD_BYTES
from turnlog_workers.shard.partition import Shard
from turnlog_workers.shard.worker_context import Membership, ShardLimits, WorkerContext
from turnlog_workers.store.memory_store import MemoryStores

RECORD_BYTES = 100


@dataclass(eq=False)
class Way:
    """A frame, or a request of our own, on its way as far as the test says."""

    frame: Any = None
    state: bool | None = True  #: stored; ``None``: on its way

    def on_its_way(self) -> bool:
        return self.state is None

    def stored(self) -> bool:
        return self.state is True

    def join(self, text: str) -> bool:
        return False

    def withdraw(self) -> None:
        """It left at once."""


@dataclass
class MemoryLog:
    """An event log that takes everything at once."""

    records: list[LoggedEvent] = field(default_factory=list)
    encoding: Callable[[Any], None] = lambda payload: None
    hold_from: float = math.inf  #: appends with this number (from 1) and higher wait for ``go_on``
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    appends: int = 0

    def encode(self, header: EventHeader, payload: Any, key: bytes, trace: Headers = ()) -> NewRecord:
        self.encoding(payload)
        return NewRecord(header=header, payload=payload, key=key, value=b"", size_bytes=RECORD_BYTES)

    async def append(self, partition: int, records: Sequence[NewRecord]) -> int:
        self.appends += 1
        if self.appends >= self.hold_from:
            await self.go_on.wait()
        base = len(self.records)
        for index, record in enumerate(records):
            self.records.append(
                LoggedEvent(partition=partition, offset=base + index, header=record.header, payload=record.payload)
            )
        return base

    async def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[LoggedEvent]]:
        if start < end:
            yield self.records[start:end]

    async def bounds(self, partition: int) -> tuple[int, int]:
        return 0, len(self.records)

    def of(self, kind: type) -> list[Any]:
        return [logged.payload for logged in self.records if isinstance(logged.payload, kind)]


@dataclass
class MemoryRecordSender:
    """Keeps what leaves."""

    replies: list[tuple[str, Reply, Way]] = field(default_factory=list)
    requests: list[tuple[RequestHeader, Any]] = field(default_factory=list)
    parked: list[tuple[int, str, str]] = field(default_factory=list)
    making: Callable[[Any], None] = lambda frame: None
    state: bool | None = True  #: of what is sent from now on
    broken: bool = False  #: dead letters cannot be stored
    tries: int = 0

    def reply(
        self, reply: Reply, *, stream_id: str, partition: int, epoch: int, frame_seq: int, may_wait: bool = False
    ) -> Way:
        self.making(reply.frame)
        way = Way(reply.frame, self.state)
        self.replies.append((stream_id, reply, way))
        return way

    def request(self, header: RequestHeader, command: Any) -> Way:
        self.requests.append((header, command))
        return Way()

    def known_reply_topic(self, topic: str) -> bool:
        return True

    async def look_for_reply_topics(self) -> None:
        """There are no others."""

    async def dead_letters(self, parked: Sequence[Parked]) -> None:
        self.tries += 1
        if self.broken:
            raise LogError("the dead letters' topic is not there")
        for record, code, reason in parked:
            reason.encode()
            self.parked.append((record.offset, code, reason))

    async def forward(self, record: RequestRecord, key: bytes, value: bytes) -> None:
        raise LogError("nothing is misrouted here")

    def to(self, request_id: str) -> list[Any]:
        """The frames that a request got."""
        return [reply.frame for _, reply, _ in self.replies if reply.request_id == request_id]


@dataclass
class NoRequestLog:
    """Nothing has to be read past the deliveries."""

    end: int = 0

    async def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[RequestRecord]]:
        raise LogError("nothing is missing")
        yield []

    async def bounds(self, partition: int) -> tuple[int, int]:
        return 0, self.end


@dataclass
class OnePartition:
    """Use it in ``async with``. ``play`` is what models do."""

    play: Callable[..., Any] = answers
    max_queued_turns: int = 1000
    max_batch_records: int = 100
    stores: MemoryStores = field(default_factory=MemoryStores)
    log: MemoryLog = field(default_factory=MemoryLog)
    sender: MemoryRecordSender = field(default_factory=MemoryRecordSender)
    acked: list[int] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)
    made: list[PlayedRunner] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self.requests = NoRequestLog()
        self.policy = Policy(default_model="main:", allow_models=("*",))
        self.context = self._context()
        self.shard = Shard(self.context, 0)

    def _context(self) -> WorkerContext:
        clock = asyncio.get_running_loop().time

        async def no_look() -> None:
            """There are no other schemas."""

        async def name_is_ours() -> bool:
            return True

        return WorkerContext(
            owner="w",
            process="p",
            name_is_ours=name_is_ours,
            topics_id="t",
            partition_count=1,
            event_log=self.log,
            request_log=self.requests,
            sender=self.sender,
            stores=self.stores,
            requests=RequestReader(
                RequestCodec(),
                Topics(),
                partition_count=1,
                reply_prefix="chat.replies",
                reply_topic_exists=self.sender.known_reply_topic,
            ),
            make_runner=self._make_runner,
            policy=lambda: self.policy,
            schemas=SharedLook(no_look, known=lambda name: False, now=clock),
            reply_topics=reply_topics(self.sender, clock),
            running=asyncio.Semaphore(1000),
            actor_limits=LIMITS,
            limits=ShardLimits(
                max_batch_bytes=self.max_batch_records * RECORD_BYTES + BATCH_OVERHEAD_BYTES,
                max_inbox_requests=1000,
                max_queued_turns=self.max_queued_turns,
                store_commit_interval_s=3600.0,
                store_commit_events=1000,
                store_batch_events=1000,
                session_timeout_s=3600.0,
                idle_timeout_s=3600.0,
                stalled_delivery_s=3600.0,
            ),
            membership=Membership(),
            ack=lambda partition, offset: self.acked.append(offset),
            fatal=self.fatal.append,
            now=clock,
            now_ms=lambda: 1,
            random_id=lambda: f"incarnation-{len(self.log.records)}",
            jitter=lambda: 0.0,
            open_turns=lambda: self.shard.open_turns,
        )

    def _make_runner(self, model: str) -> PlayedRunner:
        runner = PlayedRunner(model, self.play, [])
        self.made.append(runner)
        return runner

    async def __aenter__(self) -> "OnePartition":
        self.shard.start()
        await eventually(lambda: self.shard.serving is not None, "it is served")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.log.go_on.set()
        await self.shard.stop()

    async def take_over(self) -> None:
        """A new claim, by the next owner: everything in memory is gone."""
        await self.shard.stop()
        self.shard = Shard(self.context, 0)
        claims = self.claims
        self.log.go_on.set()
        self.shard.start()
        await eventually(lambda: self.claims > claims and self.shard.serving is not None, "it is served again")

    @property
    def claims(self) -> int:
        return len([logged for logged in self.log.records if type(logged.payload).__name__ == "PartitionClaimed"])

    def ask(self, command: Command, request_id: str, **ids: str) -> None:
        """Deliver a request."""
        header = RequestHeader(request_id=request_id, sent_at=1, **ids)  # type: ignore[arg-type]
        self.deliver(next(iter(ids.values())), RequestCodec().encode(header, command))

    def deliver(self, key: str, value: bytes) -> None:
        assert partition_of(key.encode(), 1) == 0
        record = RequestRecord(partition=0, offset=self.sent, key=key.encode(), value=value)
        self.sent += 1
        self.requests.end = self.sent
        self.shard.deliver(record)

    def chat(self, session_id: str, request_id: str, text: str = "Hello") -> None:
        self.ask(Chat(content=text_content(text)), request_id, session_id=session_id)

    async def answer(self, request_id: str, kind: type) -> Any:
        """The first frame of this type that a request gets."""

        def found() -> list[Any]:
            return [frame for frame in self.sender.to(request_id) if isinstance(frame, kind)]

        return (await eventually(found, f"{request_id} gets a {kind.__name__}", 60))[0]
