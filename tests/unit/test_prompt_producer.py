"""Batches that go past aiokafka's queue: what the broker is sent, in which order, under which numbers."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from tests.waiting import eventually
from turnlog_workers.kafka.prompt_producer import PromptProducer

TOPIC = "chat.events"
_NOT_LEADER, _TOO_LARGE = 6, 10


class Broker:
    """What a producer's only broker is asked; the test answers."""

    def __init__(self) -> None:
        self.asked: list[dict[int, int]] = []  #: by partition: the number of the first record
        self.answers: list[asyncio.Future[Any]] = []

    async def send(self, node: int, request: Any) -> Any:
        ((_, partitions),) = request._topics
        self.asked.append({partition: int.from_bytes(data[53:57], signed=True) for partition, data in partitions})
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def answer(self, count: int, *codes: int) -> None:
        """The request with this number (from 1), as soon as it is there: a code for each of its partitions."""
        await eventually(lambda: len(self.asked) >= count, f"request {count} is sent")
        partitions = self.asked[count - 1]
        parts = [
            (p, code, 100 * count + p, -1) for p, code in zip(partitions, codes or [0] * len(partitions), strict=True)
        ]
        self.answers[count - 1].set_result(SimpleNamespace(API_VERSION=2, topics=[(TOPIC, parts)]))


@pytest.fixture
async def broker() -> Broker:
    return Broker()


@pytest.fixture
async def producer(broker: Broker) -> AsyncIterator[Any]:
    """One that has its numbers, and a broker that leads every partition."""
    made: Any = PromptProducer(
        bootstrap_servers="nowhere:1", acks="all", enable_idempotence=True, linger_ms=0, retry_backoff_ms=1
    )
    made._txn_manager.set_pid_and_epoch(7, 0)
    made.client.cluster.leader_for_partition = lambda tp: 0
    made.client.cluster.partitions_for_topic = lambda topic: {0, 1, 2, 3}
    made.client.force_metadata_update = lambda: None
    made.client.send = broker.send

    async def known(topic: str | None = None) -> None:
        """Every topic is."""

    made.client._wait_on_metadata = made.client._maybe_wait_metadata = known
    await made._sender.start()
    yield made
    made._sender.sender_task.cancel()
    await asyncio.wait([made._sender.sender_task, *made._at_once])
    made._closed = True


async def send(producer: PromptProducer, partition: int, records: int = 1) -> "asyncio.Future[Any]":
    batch = producer.create_batch()
    for _ in range(records):
        batch.append(timestamp=None, key=b"k", value=b"v", headers=[])
    batch.close()
    return await producer.send_batch(batch, TOPIC, partition=partition)


async def test_a_batch_goes_at_once_and_what_comes_meanwhile_goes_together(producer: Any, broker: Broker) -> None:
    futures = [await send(producer, 0)]
    await asyncio.sleep(0)
    assert broker.asked == [{0: 0}], "in the next pass of the loop"
    futures += [await send(producer, partition) for partition in (1, 2)]
    later = asyncio.create_task(send(producer, 0))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(broker.asked) == 1, "one request is on its way at a time"
    await broker.answer(1)
    futures.append(await later)
    await broker.answer(2)
    assert [(await future).offset for future in futures] == [100, 201, 202, 200]
    assert broker.asked == [{0: 0}, {1: 0, 2: 0, 0: 1}]
    again = await send(producer, 1, records=3)
    await broker.answer(3)
    assert (await again).offset == 301
    last = await send(producer, 1)
    await broker.answer(4)
    assert (await last).offset == 401
    assert broker.asked[2:] == [{1: 1}, {1: 4}]


async def test_what_the_broker_does_not_take_yet_comes_again_before_all_others(producer: Any, broker: Broker) -> None:
    first = await send(producer, 0, records=2)
    await broker.answer(1, _NOT_LEADER)
    second = asyncio.create_task(send(producer, 0))
    await broker.answer(2)
    assert (await first).offset == 200
    await broker.answer(3)
    assert (await (await second)).offset == 300
    assert broker.asked == [{0: 0}, {0: 0}, {0: 2}]


async def test_what_it_never_takes_fails_alone(producer: Any, broker: Broker) -> None:
    refused, fine = await send(producer, 0), await send(producer, 1)
    await broker.answer(1, _TOO_LARGE)
    await broker.answer(2)
    with pytest.raises(MessageSizeTooLargeError):
        await refused
    assert (await fine).offset == 201


async def test_a_batch_is_sent_whoever_waits_for_it(producer: Any, broker: Broker) -> None:
    future = await send(producer, 0)
    future.cancel()
    await broker.answer(1)
    after = await send(producer, 0)
    await broker.answer(2)
    assert (await after).offset == 200
    assert broker.asked == [{0: 0}, {0: 1}]


async def test_a_defect_breaks_the_producer_and_whoever_waits_hears_it(producer: Any, broker: Broker) -> None:
    future, queued = await send(producer, 0), await send(producer, 1)
    await eventually(lambda: broker.answers, "it is sent")
    broker.answers[0].set_exception(ValueError("an answer that cannot be read"))
    for failed in (future, queued):
        with pytest.raises(KafkaError) as found:
            await failed
        assert found.type is KafkaError, "by which its user knows that it needs another producer"
    with pytest.raises(KafkaError):
        await send(producer, 0)
    for batches in producer._message_accumulator._batches.values():
        assert all(batch._drain_waiter.exception() for batch in batches)


async def test_without_a_leader_or_a_sender_it_is_queued(producer: Any, broker: Broker) -> None:
    producer.client.cluster.leader_for_partition = lambda tp: None
    queued = await send(producer, 0)
    await asyncio.sleep(0)
    assert not broker.asked
    producer.client.cluster.leader_for_partition = lambda tp: 0
    await broker.answer(1)
    assert (await queued).offset == 100
