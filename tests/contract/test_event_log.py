"""What every event log must do: Kafka's, and the simulation's, on which its seeds rest."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from tests.deployment import Deployment
from tests.simulation.loop import SimLoop
from tests.simulation.ports import SimEventLog
from tests.simulation.world import World
from tests.waiting import POLL_INTERVAL_S
from turnlog_schemas.events import LOG_FORMAT, PARTITION, SESSION, EventHeader, MessageStored, PartitionClaimed
from turnlog_schemas.parts import text_content
from turnlog_streams.reader_rule import NOT_READ, LoggedEvent, LogPosition, read_on
from turnlog_workers.base.ports import (
    AppendUncertainError,
    EventLog,
    LogBrokenError,
    LogError,
    NewRecord,
    RecordsRefusedError,
)
from turnlog_workers.base.shared_look import SharedLook
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.event_log import BATCH_OVERHEAD_BYTES, KafkaEventLog, LogProducer
from turnlog_workers.kafka.topic_reader import TopicReader

T = TypeVar("T")
#: Runs what a test does with two logs: two workers' views of one topic.
Run = Callable[[Callable[[EventLog, EventLog], Coroutine[Any, Any, T]]], T]
MAX_BATCH_BYTES = 1024 * 1024


def in_simulation(body: Callable[[EventLog, EventLog], Coroutine[Any, Any, T]]) -> T:
    """Two simulated workers in a world without faults."""
    loop = SimLoop(random.Random(1))
    world = World(random.Random(2), loop, partitions=3)
    world.max_append_bytes = MAX_BATCH_BYTES
    logs = [SimEventLog(world, name, append_timeout_s=2.0) for name in ("w1", "w2")]
    task = loop.create_task(body(*logs))
    try:
        loop.run_until(task.done)
        return task.result()
    finally:
        loop.close_down()


def no_schemas() -> SharedLook[bytes]:
    """No schema is unknown here."""

    async def look() -> None:
        raise AssertionError("nothing is to be looked for")

    return SharedLook(look, known=lambda name: False, now=time.monotonic)


def on_kafka(deployment: Deployment) -> Run[Any]:
    """Two real logs on the deployment's topics, each with its own producer and reader."""

    async def with_logs(body: Callable[[EventLog, EventLog], Coroutine[Any, Any, T]]) -> T:
        settings = deployment.settings
        parts = [(LogProducer(settings), TopicReader(settings)) for _ in range(2)]
        try:
            logs = [KafkaEventLog(settings, *part, source="w", schemas=no_schemas()) for part in parts]
            return await body(*logs)
        finally:
            for producer, reader in parts:
                await producer.close()
                await reader.close()

    return lambda body: asyncio.run(with_logs(body))


@pytest.fixture(params=["simulation", pytest.param("kafka", marks=pytest.mark.broker)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run[Any]]:
    if request.param == "simulation":
        yield in_simulation
        return
    broker: DevBroker = request.getfixturevalue("broker")
    quick = {"append_timeout_s": "5", "startup_timeout_s": "3", "max_batch_bytes": str(MAX_BATCH_BYTES)}
    quick |= dict.fromkeys(("max_request_bytes", "max_text_bytes", "max_tool_result_bytes"), str(MAX_BATCH_BYTES // 5))
    with Deployment(broker.bootstrap_server, tmp_path, partitions=3, **quick) as deployment:
        deployment.make_topics()
        yield on_kafka(deployment)


def message(log: EventLog, n: int, *, epoch: int = 0, text: str = "Hi", session: str = "s-1") -> NewRecord:
    header = EventHeader(
        stream_kind=SESSION,
        stream_id=session,
        stream_version=n + 1,
        epoch=epoch,
        n=n,
        accepted=n,
        replied=-1,
        turn_id="t-1",
        attempt=1,
        recorded_at=1_700_000_000_000 + n,
    )
    payload = MessageStored(message_seq=n + 1, role="assistant", content=text_content(text))
    return log.encode(header, payload, session.encode())


def claim(log: EventLog, incarnation: str) -> NewRecord:
    header = EventHeader(
        stream_kind=PARTITION,
        stream_id="1",
        stream_version=0,
        epoch=-1,
        n=-1,
        accepted=-1,
        replied=-1,
        recorded_at=1,
    )
    payload = PartitionClaimed(
        log_format=LOG_FORMAT,
        owner="w",
        incarnation=incarnation,
        generation=1,
        partition_count=3,
        requests_topic_id="topic-1",
    )
    return log.encode(header, payload, b"1")


async def read(log: EventLog, partition: int, start: int, end: int) -> list[LoggedEvent]:
    """Without the times: they are the broker's to tell, where there is one."""
    return [replace(event, logged_at=-1) async for batch in log.read(partition, start, end) for event in batch]


def as_read(partition: int, base: int, records: list[NewRecord]) -> list[LoggedEvent]:
    return [
        LoggedEvent(partition=partition, offset=base + index, header=record.header, payload=record.payload)
        for index, record in enumerate(records)
    ]


def test_what_is_appended_is_read_back_at_dense_offsets(run: Run[None]) -> None:
    async def body(log: EventLog, _: EventLog) -> None:
        assert await log.bounds(1) == (0, 0)
        first = [claim(log, "a"), message(log, 0), message(log, 1, text="zwei, δύο, 二")]
        second = [message(log, 2, text="")]
        assert await log.append(1, first) == 0
        assert await log.append(1, second) == 3
        assert await log.bounds(1) == (0, 4)
        assert await log.bounds(2) == (0, 0)
        assert await read(log, 1, 0, 4) == as_read(1, 0, [*first, *second])

    run(body)


def test_a_range_is_read_exactly(run: Run[None]) -> None:
    async def body(log: EventLog, _: EventLog) -> None:
        records = [message(log, n) for n in range(40)]
        for start in range(0, 40, 8):
            await log.append(0, records[start : start + 8])  # batches of the broker, cut anywhere by a reader
        everything = as_read(0, 0, records)
        for start, end in ((0, 40), (0, 1), (39, 40), (5, 12), (7, 9), (12, 12), (40, 40)):
            assert await read(log, 0, start, end) == everything[start:end]

    run(body)


@dataclass(slots=True)
class _Part:
    """One session's events."""

    key: bytes
    bytes_taken: int = 0

    def has(self, key: bytes) -> bool:
        return key == self.key

    def takes(self, size_bytes: int) -> None:
        self.bytes_taken += size_bytes


@pytest.mark.broker
def test_who_reads_a_part_knows_of_all_else_what_counts(broker: DevBroker, tmp_path: Path) -> None:
    async def body(log: KafkaEventLog, _: object) -> None:
        written = [message(log, n, session=f"s-{n % 2}") for n in range(1, 30)]
        records = [claim(log, "a"), *written[:14], claim(log, "b"), *written[14:]]
        await log.append(1, records)
        part = _Part(b"s-1")
        found = [event async for batch in log.read_part(1, len(records), part) for event in batch]
        assert part.bytes_taken == sum(len(record.value) for record in records)
        for event, record in zip(found, records, strict=True):
            ours = record.key == b"s-1" or isinstance(record.payload, PartitionClaimed)
            assert event.payload == record.payload if ours else event.payload is NOT_READ
            asked = [(of.epoch, of.n, of.accepted, of.replied) for of in (event.header, record.header)]
            assert asked[0] == asked[1]
        whole = [event async for batch in log.read(1, 0, len(records)) for event in batch]
        behind = read_on(LogPosition(), whole)[1]
        assert read_on(LogPosition(), found)[1] == behind
        assert behind.last_event_id, "of the last record more is read"

        await log.append(2, [replace(written[1], key=b"s-1")])
        with pytest.raises(LogBrokenError, match=r"events\[2\]@0: its key is not the id of its stream"):
            [batch async for batch in log.read_part(2, 1, part)]

    with Deployment(broker.bootstrap_server, tmp_path, partitions=3) as deployment:
        deployment.make_topics()
        on_kafka(deployment)(body)


def test_two_writers_share_one_order(run: Run[None]) -> None:
    async def body(log: EventLog, other: EventLog) -> None:
        bases: list[tuple[int, list[NewRecord]]] = []

        async def write(through: EventLog, epoch: int) -> None:
            for n in range(5):
                records = [message(through, n, epoch=epoch), message(through, n, epoch=epoch, text="again")]
                bases.append((await through.append(0, records), records))

        await asyncio.gather(write(log, 1), write(other, 2))
        assert sorted(base for base, _ in bases) == list(range(0, 20, 2))
        expected = [
            event for base, records in sorted(bases, key=lambda one: one[0]) for event in as_read(0, base, records)
        ]
        assert await read(log, 0, 0, 20) == await read(other, 0, 0, 20) == expected

    run(body)


def test_appends_to_several_partitions_at_once(run: Run[None]) -> None:
    async def body(log: EventLog, _: EventLog) -> None:
        answers = await asyncio.gather(*(log.append(p, [message(log, 0, session=f"s-{p}")]) for p in range(3)))
        assert answers == [0, 0, 0]
        assert [(await read(log, p, 0, 1))[0].header.stream_id for p in range(3)] == ["s-0", "s-1", "s-2"]

    run(body)


def test_a_batch_as_large_as_decisions_may_make_it_fits(run: Run[None]) -> None:
    """``size_bytes`` is never below what a record takes: what a group counts is what the broker gets."""

    async def body(log: EventLog, _: EventLog) -> None:
        records: list[NewRecord] = []
        size = BATCH_OVERHEAD_BYTES
        while size + (record := message(log, len(records), text="x" * 50_000)).size_bytes <= MAX_BATCH_BYTES:
            records.append(record)
            size += record.size_bytes
        small = message(log, len(records), text="")
        while size + small.size_bytes <= MAX_BATCH_BYTES:
            records.append(small)
            size += small.size_bytes
        assert await log.append(0, records) == 0
        assert await log.bounds(0) == (0, len(records))

    run(body)


def test_what_does_not_fit_is_refused_and_nothing_of_it_is_stored(run: Run[None]) -> None:
    """Not uncertain: whoever wrote it may say something shorter. Appends beside it and behind it are stored."""

    async def body(log: EventLog, other: EventLog) -> None:
        assert await log.append(0, [message(log, 0)]) == 0
        too_much = [message(log, 1), message(log, 2, text="x" * (2 * MAX_BATCH_BYTES))]
        answers = await asyncio.gather(
            log.append(0, too_much), log.append(2, [message(log, 0)]), other.append(1, too_much), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [RecordsRefusedError, int, RecordsRefusedError]
        assert await log.bounds(0) == (0, 1)
        assert await log.bounds(1) == (0, 0)
        assert await log.append(0, [message(log, 1, text="short")]) == 1
        assert await other.append(1, [message(other, 0)]) == 0

    run(body)


def test_a_range_that_is_not_there_is_an_error(run: Run[None]) -> None:
    async def body(log: EventLog, _: EventLog) -> None:
        await log.append(0, [message(log, 0)])
        with pytest.raises(LogError):
            await read(log, 0, 0, 3)
        assert await log.append(0, [message(log, 1)]) == 1  # and what follows works

    run(body)


def test_an_append_that_nobody_answers_is_uncertain_within_its_deadline() -> None:
    """In the simulation by a lost answer; on Kafka below."""
    loop = SimLoop(random.Random(1))
    world = World(random.Random(2), loop, partitions=1)
    world.chaos.append_lost_answer = 1.0
    log = SimEventLog(world, "w1", append_timeout_s=2.0)
    task = loop.create_task(log.append(0, [message(log, 0)]))
    loop.run_until(task.done)
    assert isinstance(task.exception(), AppendUncertainError)
    assert loop.now == pytest.approx(2.0, abs=0.1)
    loop.close_down()


async def test_no_broker_is_an_uncertain_append_within_its_deadline(tmp_path: Path) -> None:
    with Deployment("127.0.0.1:1", tmp_path, append_timeout_s="2") as deployment:
        producer, reader = LogProducer(deployment.settings), TopicReader(deployment.settings)
        log = KafkaEventLog(deployment.settings, producer, reader, source="w", schemas=no_schemas())
        try:
            async with asyncio.timeout(60):
                with pytest.raises(AppendUncertainError, match="may or may not be stored"):
                    await log.append(0, [message(log, 0)])
        finally:
            await producer.close()
            await reader.close()


async def test_a_hole_in_the_log_is_no_event_log(broker: DevBroker, tmp_path: Path) -> None:
    """On Kafka only: markers of transactions take offsets, and compaction would."""
    with Deployment(broker.bootstrap_server, tmp_path, partitions=3) as deployment:
        deployment.make_topics()
        settings = deployment.settings
        producer, reader = LogProducer(settings), TopicReader(settings)
        log = KafkaEventLog(settings, producer, reader, source="w", schemas=no_schemas())
        foreign = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_server, transactional_id=settings.prefix)
        await foreign.start()
        try:
            record = message(log, 0)
            async with foreign.transaction():
                await foreign.send_and_wait(settings.topics.events, record.value, key=record.key, partition=0)
            async with asyncio.timeout(60):
                while (await log.bounds(0))[1] < 2:  # noqa: ASYNC110 (the broker writes the marker after it answers)
                    await asyncio.sleep(POLL_INTERVAL_S)
            assert await log.append(0, [message(log, 1)]) == 2
            with pytest.raises(LogBrokenError, match=r"\[0\]: offsets 1 to 1 are missing"):
                await read(log, 0, 0, 3)
        finally:
            await foreign.stop()
            await producer.close()
            await reader.close()


async def test_a_clock_that_is_ahead_is_said_and_nothing_is_given_up(
    broker: DevBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka refuses what is more than an hour ahead of it: no fault of the records, so no decision is refused."""
    ahead_ms = 0
    append = BatchBuilder.append

    def appended(self: BatchBuilder, *, timestamp: int | None, **record: Any) -> Any:
        now_ms = time.time_ns() // 1_000_000 + ahead_ms
        return append(self, timestamp=now_ms if timestamp is None else timestamp, **record)

    monkeypatch.setattr(BatchBuilder, "append", appended)
    with Deployment(broker.bootstrap_server, tmp_path, partitions=1) as deployment:
        deployment.make_topics()
        producer, reader = LogProducer(deployment.settings), TopicReader(deployment.settings)
        log = KafkaEventLog(deployment.settings, producer, reader, source="w", schemas=no_schemas())
        try:
            for hours, offset in ((-6, 0), (6, None), (0, 1)):
                ahead_ms = hours * 3_600_000
                if offset is not None:
                    assert await log.append(0, [message(log, 0)]) == offset
                    continue
                with pytest.raises(AppendUncertainError, match="set the clock right"):
                    await log.append(0, [message(log, 0)])
        finally:
            await producer.close()
            await reader.close()
