"""Consumers lent in turn: no use starves another one, and nobody waits for ever."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaConnectionError, TopicAuthorizationFailedError

from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogAuthorizationError, LogError
from turnlog_workers.kafka import reader_pool
from turnlog_workers.kafka.reader_pool import ReaderPool
from turnlog_workers.kafka.topic_reader import BatchUnreadableError, TopicReader


class FakeConsumer:
    """A topic of numbered records that are there at once."""

    made: list["FakeConsumer"] = []  # noqa: RUF012
    end = 10_000
    bad_at: int | None = None

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.stopped = self.paused = False
        self._tp = TopicPartition("", 0)
        self._next = 0
        FakeConsumer.made.append(self)

    async def start(self) -> None:
        await asyncio.sleep(0)

    async def stop(self) -> None:
        self.stopped = True

    def assign(self, partitions: list[TopicPartition]) -> None:
        (self._tp,) = partitions
        self.paused = False

    def assignment(self) -> set[TopicPartition]:
        return {self._tp}

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused = True

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._next = offset

    async def position(self, tp: TopicPartition) -> int:
        return self._next

    def last_stable_offset(self, tp: TopicPartition) -> int:
        return FakeConsumer.end

    async def getmany(self, tp: TopicPartition, **_: Any) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0)
        if self._next == FakeConsumer.bad_at:
            raise CorruptRecordException("invalid")
        until = min(self._next + 100, FakeConsumer.end, FakeConsumer.bad_at or FakeConsumer.end)
        records = [type("Record", (), {"offset": offset})() for offset in range(self._next, until)]
        self._next = max(until, self._next)
        return {tp: records} if records else {}

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        await asyncio.sleep(0)
        return dict.fromkeys(partitions, FakeConsumer.end)


@pytest.fixture(autouse=True)
def consumers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeConsumer]]:
    monkeypatch.setattr(reader_pool, "AIOKafkaConsumer", FakeConsumer)
    monkeypatch.setattr(FakeConsumer, "end", 10_000)
    monkeypatch.setattr(FakeConsumer, "bad_at", None)
    FakeConsumer.made.clear()
    yield FakeConsumer.made
    FakeConsumer.made.clear()


async def collect(
    reader: TopicReader, offsets: list[int], topic: str, start: int, end: int, *, committed: bool = False
) -> None:
    async for records in reader.read(topic, 0, start, end, committed=committed):
        offsets += [record.offset for record in records]


#: Limits that no operator may set: a test should not wait for a second.
SETTINGS = Settings().model_copy(update={"startup_timeout_s": 0.2, "append_timeout_s": 0.2})


async def test_a_consumer_is_used_again_and_rests_meanwhile(consumers: list[FakeConsumer]) -> None:
    pool = ReaderPool(SETTINGS, "tests", size=2)
    for _ in range(3):
        async with pool.consumer() as consumer:
            consumer.assign([TopicPartition("t", 0)])
            assert not consumer.paused
        assert consumer.paused, "it would fetch on and on while nobody reads"
    assert len(consumers) == 1
    await pool.close()
    assert consumers[0].stopped


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (KafkaConnectionError("away"), LogError),
        (TimeoutError(), LogError),
        (TopicAuthorizationFailedError("t"), LogAuthorizationError),
        (ValueError("ours"), ValueError),
    ],
)
async def test_one_that_fails_is_replaced(
    consumers: list[FakeConsumer], error: Exception, seen: type[Exception]
) -> None:
    pool = ReaderPool(SETTINGS, "tests", size=1)

    async def use() -> None:
        async with pool.consumer():
            raise error

    with pytest.raises(seen):
        await use()
    assert consumers[0].stopped
    async with pool.consumer() as consumer:
        assert consumer is consumers[1]


async def test_a_wait_has_an_end_and_a_sentence() -> None:
    pool = ReaderPool(SETTINGS, "tests", size=1)
    async with pool.consumer():
        with pytest.raises(LogError, match=r"no reader for tests was free within 0\.2 s: 1 are in use, 0 others wait"):
            await pool.consumer().__aenter__()
    async with pool.consumer():
        pass  # nobody's turn was lost by it


async def test_long_reads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve partitions that catch up on three consumers: each gets on, none waits for another one's end."""
    monkeypatch.setattr("turnlog_workers.kafka.topic_reader._TURN_S", 0.0)
    reader = TopicReader(Settings())
    begun: list[int] = []
    ended: list[int] = []

    async def catch_up(partition: int) -> None:
        offsets: list[int] = []
        async for records in reader.read("events", partition, 0, 10_000):
            if not offsets:
                begun.append(partition)
                assert not ended, "all of them begin before one has ended"
            offsets += [record.offset for record in records]
        ended.append(partition)
        assert offsets == list(range(10_000))

    await asyncio.gather(*(catch_up(partition) for partition in range(12)))
    assert sorted(begun) == list(range(12))


async def test_a_slow_catch_up_holds_up_no_other_use() -> None:
    reader = TopicReader(Settings())
    go_on = asyncio.Event()

    async def slow(partition: int) -> None:
        async for _ in reader.read("events", partition, 0, 10_000):
            await go_on.wait()

    slow_ones = [asyncio.create_task(slow(partition)) for partition in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        assert await reader.ends("events", [0]) == {0: 10_000}
        assert await reader.ends("requests", [0], committed=True) == {0: 10_000}
        assert [r.offset async for records in reader.read("events", 0, 5, 7) for r in records] == [5, 6]
        assert [r.offset async for records in reader.read("requests", 0, 5, 7, committed=True) for r in records] == [
            5,
            6,
        ]
    go_on.set()
    await asyncio.gather(*slow_ones)


async def test_requests_are_read_committed_and_events_are_not(consumers: list[FakeConsumer]) -> None:
    reader = TopicReader(SETTINGS)
    async for _ in reader.read("events", 0, 0, 5):
        pass
    async for _ in reader.read("requests", 0, 0, 5, committed=True):
        pass
    await reader.ends("requests", [0])
    await reader.ends("requests", [0], committed=True)
    levels = [consumer.options["isolation_level"] for consumer in consumers]
    assert levels == ["read_uncommitted", "read_committed", "read_uncommitted", "read_committed"]


async def test_a_reader_behind_an_open_transaction_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeConsumer, "end", 5)
    reader = TopicReader(SETTINGS)
    offsets: list[int] = []
    with pytest.raises(LogError, match=r"requests\[0\]@5: a transaction is open; up to 9 nothing can be read"):
        await collect(reader, offsets, "requests", 3, 9, committed=True)
    assert offsets == [3, 4]
    with pytest.raises(LogError, match=r"events\[0\]@5: nothing came within 0\.2 s, although the log ends at 9"):
        await collect(reader, offsets, "events", 3, 9)


async def test_what_cannot_be_parsed_costs_no_consumer(
    monkeypatch: pytest.MonkeyPatch, consumers: list[FakeConsumer]
) -> None:
    monkeypatch.setattr(FakeConsumer, "bad_at", 150)
    reader = TopicReader(SETTINGS)
    offsets: list[int] = []
    with pytest.raises(BatchUnreadableError, match=r"requests\[0\]@150 or a record shortly behind it") as caught:
        await collect(reader, offsets, "requests", 0, 400, committed=True)
    assert caught.value.offset == 150
    assert offsets == list(range(150))
    assert [consumer.stopped for consumer in consumers] == [False]
