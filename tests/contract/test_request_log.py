"""What every log of requests must do: Kafka's, and the simulation's, on which its seeds rest."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from tests import raw_batches
from tests.deployment import Deployment, eventually_async
from tests.raw_batches import Raw
from tests.simulation.loop import SimLoop
from tests.simulation.ports import SimRequestLog
from tests.simulation.world import World
from turnlog_workers.base.ports import LogError, RequestLog, RequestRecord
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.request_log import KafkaRequestLog
from turnlog_workers.kafka.topic_reader import TopicReader

PARTITIONS = 3
BAD_NAME = b"caf\xe9"  #: of a header: not UTF-8


class Topic(Protocol):
    """Partition 1 of the requests, as producers and operators change it."""

    async def put(self, *records: Raw, codec: str | None = None) -> None:
        """Records in one batch."""
        ...

    async def begin(self, record: Raw) -> None:
        """A record in a transaction that stays open."""
        ...

    async def end(self, *, commit: bool) -> None:
        """The transaction's end: its marker takes an offset. Returns once readers can see it."""
        ...

    async def delete_before(self, offset: int) -> None:
        """As retention does."""
        ...


Body = Callable[[RequestLog, Topic], Coroutine[Any, Any, None]]
Run = Callable[[Body], None]


class SimTopic:
    """:class:`Topic` in the simulated world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open = -1

    async def put(self, *records: Raw, codec: str | None = None) -> None:
        for record in records:
            self._append(record)

    def _append(self, raw: Raw) -> int:
        bad = any(name == BAD_NAME for name, _ in raw.headers)
        headers = tuple((name.decode(errors="backslashreplace"), value or b"") for name, value in raw.headers)
        problem = "the key of a header is not UTF-8" if bad else None

        def made(partition: int, offset: int) -> RequestRecord:
            return RequestRecord(
                partition=partition, offset=offset, key=raw.key, value=raw.value, headers=headers, problem=problem
            )

        return self._world.produce_request(made, 1)

    async def begin(self, record: Raw) -> None:
        self._open = self._append(record)
        self._world.begin_transaction(1, self._open)

    async def end(self, *, commit: bool) -> None:
        self._world.end_transaction(1, self._open, aborted=not commit)

    async def delete_before(self, offset: int) -> None:
        self._world.requests[1].start = offset


class KafkaTopic:
    """:class:`Topic` on Kafka."""

    def __init__(self, deployment: Deployment, log: RequestLog) -> None:
        self._settings = deployment.settings
        self._topic = deployment.topics.requests
        self._log = log
        self._transactional: AIOKafkaProducer | None = None

    def _producer(self, **options: Any) -> AIOKafkaProducer:
        return AIOKafkaProducer(**client_options(self._settings, "test-contract"), **options)

    async def put(self, *records: Raw, codec: str | None = None) -> None:
        before = (await self._log.bounds(1))[1]
        async with self._producer(compression_type=codec, linger_ms=20, max_batch_size=1 << 20) as producer:
            if any(name == BAD_NAME for record in records for name, _ in record.headers):
                await raw_batches.produce(producer, self._topic, 1, raw_batches.batch(records))
            else:
                await asyncio.gather(*[await self._send(producer, record) for record in records])
        assert (await self._log.bounds(1))[1] == before + len(records)

    async def _send(self, producer: AIOKafkaProducer, raw: Raw) -> Any:
        headers = [(name.decode(), value) for name, value in raw.headers]
        return await producer.send(self._topic, key=raw.key, value=raw.value, headers=headers, partition=1)

    async def begin(self, record: Raw) -> None:
        if self._transactional is None:
            self._transactional = self._producer(transactional_id=self._settings.prefix)
            await self._transactional.start()
        await self._transactional.begin_transaction()
        await (await self._send(self._transactional, record))

    async def end(self, *, commit: bool) -> None:
        assert self._transactional is not None
        before = (await self._log.bounds(1))[1]
        end = self._transactional.commit_transaction if commit else self._transactional.abort_transaction
        await end()

        async def marked() -> bool:
            end_offset = (await self._log.bounds(1))[1]
            return end_offset == before + 1 == (await self._log.stable_ends([1]))[1]

        await eventually_async(marked, "the broker has written the marker", interval_s=0.02)

    async def delete_before(self, offset: int) -> None:
        admin = AIOKafkaAdminClient(**client_options(self._settings, "test-contract"))
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(self._topic, 1): RecordsToDelete(before_offset=offset)})
        finally:
            await admin.close()

    async def close(self) -> None:
        if self._transactional is not None:
            await self._transactional.stop()


def in_simulation(body: Body) -> None:
    loop = SimLoop(random.Random(1))
    world = World(random.Random(2), loop, partitions=PARTITIONS)
    task = loop.create_task(body(SimRequestLog(world), SimTopic(world)))
    try:
        loop.run_until(task.done)
        task.result()
    finally:
        loop.close_down()


def on_kafka(deployment: Deployment) -> Run:
    async def with_log(body: Body) -> None:
        reader = TopicReader(deployment.settings)
        log = KafkaRequestLog(deployment.settings, reader)
        topic = KafkaTopic(deployment, log)
        try:
            await body(log, topic)
        finally:
            await topic.close()
            await reader.close()

    return lambda body: asyncio.run(with_log(body))


@pytest.fixture(params=["simulation", pytest.param("kafka", marks=pytest.mark.broker)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    if request.param == "simulation":
        yield in_simulation
        return
    broker: DevBroker = request.getfixturevalue("broker")
    quick = {"append_timeout_s": "3", "startup_timeout_s": "3"}
    with Deployment(broker.bootstrap_server, tmp_path, partitions=PARTITIONS, **quick) as deployment:
        deployment.make_topics()
        yield on_kafka(deployment)


def chat(number: int, **fields: Any) -> Raw:
    return replace(Raw(key=f"s-{number}".encode(), value=b"text " * 20 + str(number).encode()), **fields)


def as_read(offset: int, raw: Raw) -> RequestRecord:
    headers = tuple((name.decode(), value or b"") for name, value in raw.headers)
    return RequestRecord(partition=1, offset=offset, key=raw.key, value=raw.value, headers=headers)


async def read(log: RequestLog, start: int, end: int) -> list[Any]:
    return [item async for batch in log.read(1, start, end) for item in batch]


async def is_refused(log: RequestLog, start: int, end: int) -> None:
    async with asyncio.timeout(15.0):  # of the loop's own time
        with pytest.raises(LogError):
            await read(log, start, end)


def test_nothing_is_there_at_first(run: Run) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        assert await log.bounds(1) == (0, 0)
        assert await log.stable_ends([0, 1, 2]) == {0: 0, 1: 0, 2: 0}
        assert await read(log, 0, 0) == []

    run(body)


def test_a_range_is_read_exactly(run: Run) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        records = [chat(number) for number in range(24)]
        for start in range(0, 24, 8):
            await topic.put(*records[start : start + 8])
        everything = [as_read(offset, raw) for offset, raw in enumerate(records)]
        for start, end in ((0, 24), (0, 1), (23, 24), (5, 12), (7, 9), (12, 12), (24, 24)):
            assert await read(log, start, end) == everything[start:end]
        assert (await log.bounds(1), await log.bounds(2)) == ((0, 24), (0, 0))

    run(body)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_codec_changes_nothing(run: Run, codec: str) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        records = [chat(number) for number in range(10)]
        await topic.put(*records, codec=codec)
        assert await read(log, 3, 10) == [as_read(offset, records[offset]) for offset in range(3, 10)]

    run(body)


def test_keys_values_and_headers_are_as_they_were(run: Run) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        records: Sequence[Raw] = [
            chat(0, key=None),
            chat(1, key=b""),
            chat(2, key=b"\xff\x00"),
            chat(3, value=None),
            chat(4, value=b""),
            chat(5, headers=((b"a", b"1"), (b"a", b"2"), (b"", b""), (b"n", None))),
            chat(6, value=b"x" * 300_000),
        ]
        await topic.put(*records)
        assert await read(log, 0, 7) == [as_read(offset, raw) for offset, raw in enumerate(records)]

    run(body)


def test_a_record_that_a_library_cannot_read_has_a_problem_and_its_neighbours_have_none(run: Run) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        await topic.put(chat(0))
        await topic.put(chat(1), chat(2, headers=((BAD_NAME, b"1"),)), chat(3))
        await topic.put(chat(4))
        found = await read(log, 0, 5)
        assert [(item.offset, item.key) for item in found] == [(n, f"s-{n}".encode()) for n in range(5)]
        assert [item.problem is None for item in found] == [True, True, False, True, True]
        assert "header" in found[2].problem
        assert [item.offset for item in await read(log, 2, 4)] == [2, 3]

    run(body)


@pytest.mark.parametrize("commit", [True, False])
def test_a_transaction_counts_from_its_commit_on(run: Run, commit: bool) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        await topic.put(chat(0))
        await topic.begin(chat(1))
        await topic.put(chat(2))
        assert await log.bounds(1) == (0, 3)
        assert await log.stable_ends([1]) == {1: 1}
        assert await read(log, 0, 1) == [as_read(0, chat(0))]
        await is_refused(log, 0, 3)
        await topic.end(commit=commit)
        await topic.put(chat(4))
        assert await log.bounds(1) == (0, 5)  # the marker has an offset
        assert await log.stable_ends([1]) == {1: 5}
        numbers = [0, 1, 2, 4] if commit else [0, 2, 4]
        assert await read(log, 0, 5) == [as_read(number, chat(number)) for number in numbers]
        assert await read(log, 3, 4) == []  # the marker alone

    run(body)


def test_a_transaction_at_the_end_leaves_nothing_behind_its_marker(run: Run) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        await topic.begin(chat(0))
        await topic.end(commit=False)
        assert (await log.bounds(1), await log.stable_ends([1])) == ((0, 2), {1: 2})
        assert await read(log, 0, 2) == []
        await topic.begin(chat(2))
        await topic.end(commit=True)
        assert await read(log, 0, 4) == [as_read(2, chat(2))]

    run(body)


def test_what_retention_took_is_not_there(run: Run) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        await topic.put(*(chat(number) for number in range(4)))
        await topic.put(*(chat(number) for number in range(4, 6)))
        await topic.delete_before(3)
        assert await log.bounds(1) == (3, 6)
        assert [item.offset for item in await read(log, 3, 6)] == [3, 4, 5]
        await is_refused(log, 2, 6)
        await topic.delete_before(6)
        assert (await log.bounds(1), await log.stable_ends([1])) == ((6, 6), {1: 6})

    run(body)


def test_a_range_that_is_not_there_is_an_error_within_a_time(run: Run) -> None:
    async def body(log: RequestLog, topic: Topic) -> None:
        await topic.put(chat(0))
        await is_refused(log, 0, 3)
        await topic.put(chat(1))  # and what follows works
        assert [item.offset for item in await read(log, 0, 2)] == [0, 1]

    run(body)


async def test_no_broker_is_an_error_within_a_time(tmp_path: Path) -> None:
    with Deployment("127.0.0.1:1", tmp_path, append_timeout_s="2", startup_timeout_s="2") as deployment:
        reader = TopicReader(deployment.settings)
        log = KafkaRequestLog(deployment.settings, reader)
        try:
            async with asyncio.timeout(60):
                for question in (log.bounds(1), log.stable_ends([1]), read(log, 0, 1)):
                    with pytest.raises(LogError):
                        await question
        finally:
            await reader.close()
