"""Requests of partitions that were added to the topic: sent on in order, acknowledged once stored, however it fails."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

import turnlog_workers.intake.bounded_retry
import turnlog_workers.process.surplus_partitions
from tests.waiting import eventually
from turnlog_schemas.codec import RequestCodec
from turnlog_streams.topics import Topics, partition_of
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.ports import (
    AppendUncertainError,
    LogAuthorizationError,
    LogError,
    Parked,
    RecordsRefusedError,
    RequestRecord,
    UnreadableRange,
)
from turnlog_workers.intake.request_reader import RequestReader
from turnlog_workers.process.surplus_partitions import GrowthWatch, Surplus
from turnlog_workers.shard.worker_context import WorkerContext

COUNT = 3
PARTITION = 4
TOPICS = Topics()


def request(offset: int, session_id: str, **fields: Any) -> RequestRecord:
    body = {"session_id": session_id, **fields, "command": {"type": "chat", "text": f"{offset}"}}
    return RequestRecord(
        partition=PARTITION, offset=offset, key=session_id.encode(), value=json.dumps(body).encode(), headers=()
    )


class World:
    """A requests topic, a sender, and the parts that a surplus partition sees of a worker."""

    def __init__(self) -> None:
        self.topic: dict[int, RequestRecord | UnreadableRange] = {}
        self.begin = 0
        self.committed = 0
        self.forwarded: list[tuple[int, dict[str, Any]]] = []
        self.parked: list[tuple[int, str]] = []
        self.told: list[tuple[int, str]] = []
        self.acks: list[int] = []
        self.fatal: list[str] = []
        self.failures: list[BaseException] = []  #: of the next forwards
        self.context = cast(
            WorkerContext,
            SimpleNamespace(
                partition_count=COUNT,
                topics=TOPICS,
                request_log=self,
                sender=self,
                read=self.verdict,
                ack=lambda partition, offset: self.acks.append(offset),
                fatal=self.fatal.append,
                now=lambda: asyncio.get_running_loop().time(),
                limits=SimpleNamespace(max_inbox_requests=100, max_group_requests=10, stalled_delivery_s=0.02),
            ),
        )
        self._reader = RequestReader(
            RequestCodec(),
            TOPICS,
            partition_count=COUNT,
            reply_prefix=TOPICS.replies,
            reply_topic_exists=lambda topic: True,
        )
        self.surplus = Surplus(self.context, self.committed_offset)

    async def verdict(self, record: RequestRecord, there_since: float) -> Any:
        return self._reader.read(record)

    async def committed_offset(self, partition: int) -> int:
        assert partition == PARTITION
        return self.committed

    async def bounds(self, partition: int) -> tuple[int, int]:
        return self.begin, max(self.topic, default=self.begin - 1) + 1

    async def stable_ends(self, partitions: Collection[int]) -> Mapping[int, int]:
        return dict.fromkeys(partitions, (await self.bounds(PARTITION))[1])

    async def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[RequestRecord | UnreadableRange]]:
        yield [self.topic[offset] for offset in range(start, end) if offset in self.topic]

    async def forward(self, record: RequestRecord, key: bytes, value: bytes) -> None:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        self.forwarded.append((partition_of(key, COUNT), json.loads(value)))

    def reply(self, reply: Any, *, partition: int, **_: Any) -> None:
        self.told.append((partition, reply.frame.code))

    async def dead_letters(self, parked: Sequence[Parked]) -> None:
        self.parked += [(record.offset, code) for record, code, _ in parked]

    @property
    def places(self) -> list[int]:
        """Where the forwarded requests were."""
        return [int(body["request_id"].rsplit("-", 1)[1]) for _, body in self.forwarded]

    def deliver(self, *offsets: int) -> None:
        partition = self.surplus.get(PARTITION)
        assert partition is not None
        for offset in offsets:
            record = self.topic[offset]
            assert isinstance(record, RequestRecord)
            partition.deliver(record)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(turnlog_workers.intake.bounded_retry, "_AGAIN", Backoff(0.0))
    monkeypatch.setattr(turnlog_workers.process.surplus_partitions, "_AGAIN", Backoff(0.001, 0.01))
    world = World()
    for offset in range(20):
        world.topic[offset] = request(offset, f"s-{offset % 4}")
    yield world
    await world.surplus.stop()


async def test_requests_are_sent_on_under_their_first_place_in_order_and_then_acknowledged(world: World) -> None:
    await world.surplus.assigned([PARTITION])
    world.deliver(*range(20))
    await eventually(lambda: world.acks == list(range(20)), "all are acknowledged, in order")
    assert sorted(world.places) == list(range(20))
    for session in range(4):
        mine = [(target, body) for target, body in world.forwarded if body["session_id"] == f"s-{session}"]
        assert {target for target, _ in mine} == {partition_of(f"s-{session}".encode(), COUNT)}
        assert [body["request_id"] for _, body in mine] == [
            f"{TOPICS.requests}-{PARTITION}-{n}" for n in range(session, 20, 4)
        ]


async def test_it_goes_on_behind_what_the_group_has_committed(world: World) -> None:
    world.committed = 15
    await world.surplus.assigned([PARTITION])
    world.deliver(*range(13, 20))
    await eventually(lambda: world.acks == list(range(13, 20)), "all are acknowledged, those before it at once")
    assert sorted(world.places) == [15, 16, 17, 18, 19]


async def test_what_is_not_delivered_is_read_from_the_topic(world: World) -> None:
    await world.surplus.assigned([PARTITION])
    world.deliver(5)
    await eventually(lambda: sorted(world.places) == list(range(20)), "the gap before it, and what nobody delivers")
    assert world.acks == list(range(20))


async def test_deleted_requests_are_named_and_hold_nobody_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.begin = 7
    for offset in range(7):
        del world.topic[offset]
    world.committed = 3
    await world.surplus.assigned([PARTITION])
    await eventually(lambda: sorted(world.places) == list(range(7, 20)), "what is left is sent on")
    assert "requests 3 to 6 were deleted unread" in caplog.text


async def test_what_nobody_can_take_apart_is_named_and_passed_by(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.topic[4] = UnreadableRange(first=4, last=6, reason="its checksum is wrong")
    del world.topic[5], world.topic[6]
    await world.surplus.assigned([PARTITION])
    partition = world.surplus.get(PARTITION)
    assert partition is not None
    world.deliver(0, 1, 2, 3)
    partition.skip(4, 20)
    await eventually(lambda: world.acks == list(range(20)), "all are acknowledged")
    assert sorted(world.places) == [0, 1, 2, 3, *range(7, 20)]
    assert "requests 4 to 6: its checksum is wrong" in caplog.text


async def test_one_that_fails_is_tried_until_it_is_stored_and_none_is_acknowledged_before(world: World) -> None:
    world.failures = [AppendUncertainError("away")] * 30
    await world.surplus.assigned([PARTITION])
    world.deliver(*range(20))
    await eventually(lambda: world.acks == list(range(20)), "all are acknowledged in the end")
    assert not world.failures
    assert set(world.places) == set(range(20))
    partition = world.surplus.get(PARTITION)
    assert partition is not None
    assert len(partition.inbox) == 0


async def test_any_other_failure_is_tried_again_too(world: World) -> None:
    world.failures = [LogError("x"), ValueError("a defect"), OSError("y"), asyncio.CancelledError()]
    await world.surplus.assigned([PARTITION])
    world.deliver(*range(20))
    await eventually(lambda: world.acks == list(range(20)), "all are acknowledged in the end")


async def test_a_refusal_of_our_rights_stops_the_worker(world: World) -> None:
    world.failures = [LogAuthorizationError("no right")]
    await world.surplus.assigned([PARTITION])
    world.deliver(0)
    await eventually(lambda: world.fatal == ["no right"], "the worker is stopped")
    assert world.acks == []


async def test_what_cannot_be_read_is_parked(world: World) -> None:
    world.topic = {
        0: request(0, "s-0"),
        1: RequestRecord(partition=PARTITION, offset=1, key=b"s", value=b"\xff"),
        2: RequestRecord(partition=PARTITION, offset=2, key=b"other", value=request(2, "s-0").value),
        3: RequestRecord(partition=PARTITION, offset=3, key=None, value=request(3, "s-0").value),
    }
    await world.surplus.assigned([PARTITION])
    world.deliver(0, 1, 2, 3)
    await eventually(lambda: world.acks == [0, 1, 2, 3], "all are acknowledged")
    assert world.parked == [(1, "undecodable"), (2, "key_mismatch")]
    assert world.places == [0, 3]


async def test_what_is_too_long_is_parked_and_its_sender_is_told(world: World) -> None:
    long = "x" * 2_000_000
    world.topic = {0: request(0, "s-0", metadata={"a": long}), 1: request(1, "s-1", metadata={"a": long[:900_000]})}
    world.failures = [RecordsRefusedError("too long with its id")]
    await world.surplus.assigned([PARTITION])
    world.deliver(0, 1)
    await eventually(lambda: world.acks == [0, 1], "both are acknowledged")
    assert world.parked == [(0, "too_long"), (1, "too_long")]
    assert world.told == [(partition_of(name, COUNT), "too_long") for name in (b"s-0", b"s-1")]
    assert not world.forwarded


async def test_a_partition_that_is_lost_is_left_alone(world: World) -> None:
    await world.surplus.assigned([PARTITION])
    world.deliver(0)
    await eventually(lambda: 0 in world.acks, "it is served")
    kept = world.surplus.get(PARTITION)
    await world.surplus.assigned([PARTITION])
    assert world.surplus.get(PARTITION) is kept
    await world.surplus.assigned([])
    assert world.surplus.get(PARTITION) is None


async def test_growth_is_said_once_and_a_changed_log_is_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turnlog_workers.process.surplus_partitions, "_LOOK_S", 0.001)
    caplog.set_level(logging.INFO)
    counts = {TOPICS.requests: 3, TOPICS.events: 3, TOPICS.replies: 3}
    looks = 0

    async def ask(topics: Collection[str]) -> Mapping[str, int]:
        nonlocal looks
        looks += 1
        if looks % 3 == 1:
            raise LogError("the broker is away")
        return counts if looks % 3 else dict.fromkeys(topics, 0)

    async def some_looks() -> list[tuple[int, str]]:
        caplog.clear()
        until = looks + 10
        await eventually(lambda: looks >= until, "it has looked")
        return [(record.levelno, record.getMessage()) for record in caplog.records if record.levelno > logging.INFO]

    watch = asyncio.create_task(GrowthWatch(ask, TOPICS, recorded=3, known=3).run())
    assert await some_looks() == []
    counts[TOPICS.requests] = 4
    ((level, said),) = await some_looks()
    assert (level, said.startswith("topic chat.requests has 4 partitions, chat.events has 3")) == (
        logging.WARNING,
        True,
    )
    assert "partition 3 on" in said
    assert await some_looks() == []
    counts[TOPICS.replies] = 4
    ((level, said),) = await some_looks()
    assert (level, "topic chat.replies has 4 partitions now" in said) == (logging.ERROR, True)
    watch.cancel()
