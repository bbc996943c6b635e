"""The consumer under Faust: what one partition's bytes raise stays that partition's. The fetches are aiokafka's own."""

import asyncio
from collections import OrderedDict
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchError, FetchResult, PartitionRecords
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP

from tests import raw_batches
from tests.raw_batches import Raw
from tests.waiting import eventually
from turnlog_workers.base.ports import LogError
from turnlog_workers.intake import faust_consumer
from turnlog_workers.intake.faust_consumer import IntakeConsumer, IntakeThread
from turnlog_workers.kafka import raw_fetch

GOOD = [Raw(key=b"k", value=b"%d" % n) for n in range(4)]
BAD = Raw(key=b"k", value=b"v", headers=[(b"\xff", b"")])
A, B, C = (TopicPartition("requests", partition) for partition in range(3))


class Consumer:
    """An aiokafka consumer with what was fetched for it."""

    def __init__(self, **fetched: bytes | Exception) -> None:
        self.states = {tp: SimpleNamespace(position=0, paused=False, has_valid_position=True) for tp in (A, B, C)}
        for state in self.states.values():
            state.consumed_to = lambda offset, state=state: setattr(state, "position", offset)
        self.assignment = SimpleNamespace(active=True, state_value=self.states.__getitem__)
        self.paused: list[TopicPartition] = []
        self._subscription = SimpleNamespace(_assigned_state=self.states.__getitem__)
        records: OrderedDict[TopicPartition, Any] = OrderedDict()
        for name, data in fetched.items():
            tp = {"a": A, "b": B, "c": C}[name]
            records[tp] = FetchError(error=data, backoff=0) if isinstance(data, Exception) else self._result(tp, data)
        self._fetcher = SimpleNamespace(
            _records=records,
            _subscriptions=SimpleNamespace(is_assigned=lambda tp: tp in self.states),
            _notify=lambda future: None,
            _wait_consume_future=None,
        )

    def _result(self, tp: TopicPartition, data: bytes) -> FetchResult:
        unpacked = PartitionRecords(tp, MemoryRecords(data), [], 0, None, None, True, 1)
        return FetchResult(tp, assignment=self.assignment, partition_records=unpacked, backoff=0)

    def pause(self, tp: TopicPartition) -> None:
        self.paused.append(tp)


def drain(
    consumer: Consumer, wanted: set[TopicPartition] | None = None, max_records: int | None = 500
) -> tuple[dict[TopicPartition, list[int]], list[tuple[Any, ...]]]:
    """Offsets by partition, and what the main thread is told."""
    told: list[tuple[Any, ...]] = []
    loop = SimpleNamespace(call_soon_threadsafe=lambda function, *arguments: told.append(arguments))
    thread: Any = IntakeThread.__new__(IntakeThread)
    thread.parent_loop = loop
    thread.consumer = SimpleNamespace(set_aside=None)
    set_aside = partial(thread._set_aside, cast(Any, consumer))
    found, bad = raw_fetch.drain(cast(Any, consumer._fetcher), set_aside, wanted, max_records)
    assert bad == bool(told)
    return {tp: [record.offset for record in records] for tp, records in found.items()}, told


def batches(*groups: list[Raw]) -> bytes:
    data, base = b"", 0
    for records in groups:
        data += raw_batches.batch(records, base=base)
        base += len(records)
    return data


@pytest.mark.parametrize("order", ["abc", "bac", "acb"])
def test_the_others_are_delivered_whoever_comes_first(order: str) -> None:
    data = {"a": batches(GOOD), "b": batches(GOOD, [GOOD[0], BAD], GOOD), "c": batches(GOOD[:2])}
    consumer = Consumer(**{name: data[name] for name in order})
    found, told = drain(consumer, {A, B, C})
    assert found == {A: [0, 1, 2, 3], C: [0, 1]}
    assert told == [(TP("requests", 1), 0, "the key of a header is not UTF-8")]
    assert consumer.paused == [B], "else it is fetched again and again"
    assert not consumer._fetcher._records
    assert [consumer.states[tp].position for tp in (A, B, C)] == [4, 0, 2]


def test_a_checksum_and_a_codec_that_are_wrong() -> None:
    damaged = bytearray(batches(GOOD))
    damaged[-1] ^= 1
    unknown = raw_batches.batch(GOOD, attributes=7)
    consumer = Consumer(a=bytes(damaged), b=unknown, c=batches(GOOD))
    found, told = drain(consumer)
    assert found == {C: [0, 1, 2, 3]}
    assert [(tp.partition, position) for tp, position, _ in told] == [(0, 0), (1, 0)]
    assert consumer.paused == [A, B]


def test_what_is_not_wanted_now_stays_and_the_bound_holds() -> None:
    consumer = Consumer(a=batches(GOOD), b=batches(GOOD), c=batches([BAD]))
    assert drain(consumer, {A}, max_records=3) == ({A: [0, 1, 2]}, [])
    assert drain(consumer, {A, B}, max_records=3) == ({B: [0, 1, 2]}, [])
    assert drain(consumer, {A, B}, max_records=3) == ({A: [3], B: [3]}, [])
    assert list(consumer._fetcher._records) == [C]


def test_what_is_no_matter_of_bytes_is_raised_after_what_is_there() -> None:
    consumer = Consumer(a=batches(GOOD), b=TopicAuthorizationFailedError("requests"))
    assert drain(consumer) == ({A: [0, 1, 2, 3]}, [])
    with pytest.raises(TopicAuthorizationFailedError):
        drain(consumer)
    assert drain(consumer) == ({}, [])


def test_it_compares_to_aiokafka_own_reading() -> None:
    """Nothing but the errors differs, and who comes first next time."""
    from aiokafka.consumer.fetcher import Fetcher

    async def theirs(consumer: Consumer) -> dict[TopicPartition, list[int]]:
        consumer._fetcher._subscriptions.reassignment_in_progress = False
        found = await Fetcher.fetched_records(cast(Any, consumer._fetcher), {A, B}, 0, 6)
        return {tp: [record.offset for record in records] for tp, records in found.items()}

    one, other = (Consumer(a=batches(GOOD), b=batches(GOOD), c=batches(GOOD)) for _ in range(2))
    assert drain(one, {A, B}, max_records=6)[0] == asyncio.run(theirs(other)) == {A: [0, 1, 2, 3], B: [0, 1]}
    assert list(other._fetcher._records) == [B, C]
    assert list(one._fetcher._records) == [C, B]


def test_a_partition_with_much_to_deliver_does_not_keep_the_others_waiting() -> None:
    consumer = Consumer(a=batches(GOOD * 5), b=batches(GOOD), c=batches(GOOD))
    turns = [drain(consumer, max_records=4)[0] for _ in range(5)]
    assert [list(found) for found in turns] == [[A], [B], [C], [A], [A]]
    assert turns[3] == {A: [4, 5, 6, 7]}


async def test_a_partition_set_aside_goes_on_whatever_fails_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faust_consumer, "_RETRY_S", 0.0)
    failures = [LogError("not yet"), ValueError("a defect"), asyncio.CancelledError(), None]
    went_on: list[tuple[TP, int]] = []

    async def read_past(partition: int, position: int) -> int | None:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return position + 7

    async def call_thread(function: Any, tp: TP, offset: int) -> None:
        if not went_on:
            went_on.append((tp, -1))
            failures.append(None)
            raise RuntimeError("the thread is not there yet")
        went_on.append((tp, offset))

    consumer = SimpleNamespace(
        app=SimpleNamespace(consumer_generation_id=1),
        should_stop=False,
        read_past=read_past,
        _read_offset={},
        _thread=SimpleNamespace(call_thread=call_thread, go_on=None),
    )
    await IntakeConsumer._pass_by(cast(IntakeConsumer, consumer), TP("requests", 1), 5)
    assert (went_on[-1], consumer._read_offset) == ((TP("requests", 1), 12), {TP("requests", 1): 12})
    assert failures == []


class Waiting:
    """Work and a reason to stop it, as Faust hands both to ``wait_first`` for each message."""

    def __init__(self) -> None:
        self.consumer = object.__new__(IntakeConsumer)
        fields = {"_stopped": asyncio.Event(), "_crashed": asyncio.Event(), "_loop": asyncio.get_running_loop()}
        vars(self.consumer).update(fields)
        self.room, self.suspended = asyncio.Event(), asyncio.Event()
        self.ended: list[str] = []

    async def hand_over(self, *, full: bool, fails: bool = False) -> str:
        try:
            if full:
                await self.room.wait()
            if fails:
                raise ValueError("no agent")
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("handed over")
        return "done"

    async def first(self, **how: bool) -> list[Any]:
        found = await self.consumer.wait_first(self.hand_over(**how), self.suspended.wait())
        return found.results


async def test_a_message_is_handed_over_without_a_task_where_there_is_room() -> None:
    waiting, tasks = Waiting(), []
    asyncio.get_running_loop().set_task_factory(lambda loop, work: tasks.append(work))  # type: ignore[arg-type, func-returns-value]
    try:
        assert await waiting.first(full=False) == ["done"]
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert not tasks


@pytest.mark.parametrize("full", [False, True])
async def test_a_message_that_cannot_be_handed_over_says_why(full: bool) -> None:
    waiting = Waiting()
    waiting.room.set()
    with pytest.raises(ValueError, match="no agent"):
        await waiting.first(full=full, fails=True)


async def test_where_there_is_no_room_it_waits_for_it_or_for_a_reason_to_stop() -> None:
    waiting = Waiting()
    first = asyncio.create_task(waiting.first(full=True))
    await asyncio.sleep(0)
    waiting.room.set()
    assert await first == ["done"]
    waiting = Waiting()
    first = asyncio.create_task(waiting.first(full=True))
    await asyncio.sleep(0)
    waiting.suspended.set()
    assert await first == [True]
    await eventually(lambda: waiting.ended == ["cancelled"], "what waited is cancelled")


async def test_its_caller_can_be_cancelled_while_there_is_no_room() -> None:
    waiting = Waiting()
    first = asyncio.create_task(waiting.first(full=True))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await eventually(lambda: waiting.ended == ["cancelled"], "what waited is cancelled")
