"""Batches that go past aiokafka's queue: what the broker is sent, in which order, under which numbers."""

import asyncio
import gc
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import aiokafka
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError, ProducerClosed
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.structs import BrokerMetadata, TopicPartition

from tests.waiting import eventually
from turnlog.client import request_sender
from turnlog.client.request_sender import stop_quietly
from turnlog_workers.kafka.given_up import TRIED_WITH, give_up
from turnlog_workers.kafka.prompt_producer import PromptProducer

TOPIC = "chat.events"
_NOT_LEADER, _TOO_LARGE = 6, 10


class Broker:
    """The only broker of a producer, behind a connection of aiokafka's without a socket; the test answers."""

    def __init__(self) -> None:
        self.connection = self.connect()
        self.requests: list[ProduceRequest_v7] = []
        self.correlation_ids: list[int] = []
        self.is_closed = False  #: the next write finds it so

    def connect(self, limit_s: float = 40.0) -> AIOKafkaConnection:
        connection = AIOKafkaConnection("nowhere", 1, client_id="c", request_timeout_ms=1000 * limit_s)
        self.connection = connection
        connection._versions = {0: (3, 12)}
        connection._reader, connection._writer = Open(), self  # type: ignore[assignment]
        connection._read_task = asyncio.get_running_loop().create_future()
        connection._closed_fut = asyncio.get_running_loop().create_future()
        return connection

    @property
    def asked(self) -> list[dict[int, int]]:
        """By partition: the number of the first record, of each request."""
        return [
            {partition: int.from_bytes(data[53:57], signed=True) for partition, data in partitions}
            for request in self.requests
            for _, partitions in request.topics
        ]

    def write(self, data: bytes) -> None:
        """What is sent is what aiokafka would have sent."""
        if self.is_closed:
            self.is_closed = False
            raise RuntimeError("unable to perform operation on a transport; the handler is closed")
        request = BytesIO(data[4:])
        _, version, correlation_id, client_id = (field.decode(request) for field in RequestHeader_v1.SCHEMA.fields)
        assert version == 7
        self.correlation_ids.append(correlation_id)
        self.requests.append(ProduceRequest_v7.decode(request))
        whole = self.requests[-1].build_request_header(correlation_id, client_id).encode() + self.requests[-1].encode()
        assert data == len(whole).to_bytes(4) + whole

    def close(self) -> None:
        """A writer is closed with its connection."""

    async def answer(self, count: int, *codes: int) -> None:
        """The request with this number (from 1), as soon as it is there: a code for each of its partitions."""
        await eventually(lambda: len(self.requests) >= count, f"request {count} is sent")
        asked = self.asked[count - 1]
        parts = [(p, code, 100 * count + p, -1, 0) for p, code in zip(asked, codes or [0] * len(asked), strict=True)]
        answer = ProduceResponse_v7([(TOPIC, parts)], 0).encode()
        self.connection._handle_frame(self.correlation_ids[count - 1].to_bytes(4) + answer)


class Open:
    """A stream that has not ended."""

    def at_eof(self) -> bool:
        return False


@pytest.fixture
async def broker() -> Broker:
    return Broker()


@pytest.fixture
async def producer(broker: Broker, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """One that has its numbers, and a broker that leads every partition."""
    made: Any = getattr(request, "param", PromptProducer)(
        bootstrap_servers="nowhere:1", acks="all", enable_idempotence=True, linger_ms=0, retry_backoff_ms=1
    )
    made._txn_manager.set_pid_and_epoch(7, 0)
    made.client.cluster.leader_for_partition = lambda tp: 0
    made.client.cluster.partitions_for_topic = lambda topic: set(range(8))
    made.client.force_metadata_update = lambda: None

    async def known(topic: str | None = None) -> None:
        """Every topic is."""

    async def get_conn(node: int, **_: Any) -> AIOKafkaConnection:
        if not broker.connection.connected():
            broker.connect()
        made.client._conns[node, ConnectionGroup.DEFAULT] = broker.connection
        return broker.connection

    made.client._wait_on_metadata = made.client._maybe_wait_metadata = known
    made.client._get_conn = get_conn
    await get_conn(0)
    await made._sender.start()
    yield made
    made._sender.sender_task.cancel()
    await asyncio.wait([made._sender.sender_task])
    made._closed = True
    broker.connection._reader = None


def batch_of(producer: PromptProducer, records: int) -> Any:
    batch = producer.create_batch()
    for _ in range(records):
        batch.append(timestamp=None, key=b"k", value=b"v", headers=[])
    batch.close()
    return batch


async def send(producer: PromptProducer, partition: int, records: int = 1) -> "asyncio.Future[Any]":
    return await producer.send_batch(batch_of(producer, records), TOPIC, partition=partition)


async def test_a_batch_goes_at_once_and_what_comes_meanwhile_goes_together(producer: Any, broker: Broker) -> None:
    futures = [await send(producer, partition) for partition in range(5)]
    at_once = [{0: 0}, {1: 0}, {2: 0}, {3: 0}, {4: 0}]
    assert broker.asked == at_once, "in this moment"
    futures += [await send(producer, partition) for partition in (5, 6)]
    later = asyncio.create_task(send(producer, 0))
    for number in range(1, 6):
        for _ in range(20):
            await asyncio.sleep(0)
        assert broker.asked == at_once, "until none of them is under way"
        await broker.answer(number)
    futures.append(await later)
    await broker.answer(6)
    assert [(await future).offset for future in futures] == [100, 201, 302, 403, 504, 605, 606, 600]
    assert broker.asked[5:] == [{5: 0, 6: 0, 0: 1}]
    again = await send(producer, 1, records=3)
    await broker.answer(7)
    assert (await again).offset == 701
    last = await send(producer, 1)
    await broker.answer(8)
    assert (await last).offset == 801
    assert broker.asked[6:] == [{1: 1}, {1: 4}]
    assert not producer._message_accumulator._pending_batches
    assert not producer._sender._in_flight
    assert not producer._under_way


async def test_a_partition_has_one_batch_under_way(producer: Any, broker: Broker) -> None:
    first, other = await send(producer, 0), await send(producer, 1)
    second = asyncio.create_task(send(producer, 0))
    for _ in range(20):
        await asyncio.sleep(0)
    assert broker.asked == [{0: 0}, {1: 0}]
    await broker.answer(1)
    await broker.answer(2)
    await broker.answer(3)
    assert [(await first).offset, (await other).offset, (await (await second)).offset] == [100, 201, 300]


async def test_nothing_is_sent_beside_what_aiokafka_sends(producer: Any, broker: Broker) -> None:
    queue = producer._message_accumulator
    queued = await queue.add_batch(batch_of(producer, 1), TopicPartition(TOPIC, 0), 1.0)
    await eventually(lambda: broker.asked == [{0: 0}], "it is under way")
    beside = await send(producer, 1)
    assert broker.asked == [{0: 0}]
    await broker.answer(1)
    await broker.answer(2)
    assert [(await queued).offset, (await beside).offset] == [100, 201]


async def test_all_that_a_broken_connection_took_along_comes_again(producer: Any, broker: Broker) -> None:
    futures = [await send(producer, partition, records=2) for partition in range(3)]
    broker.connection.close(exc=ConnectionResetError())
    late = asyncio.create_task(send(producer, 3))
    again: dict[int, int] = {}
    number = 3
    while len(again) < 4:
        number += 1
        await broker.answer(number)
        again |= broker.asked[number - 1]
    assert again == {0: 0, 1: 0, 2: 0, 3: 0}, "under their numbers"
    for future in (*futures, await late):
        assert (await future).offset >= 400
    assert not producer._sender._in_flight
    assert [await asyncio.wait_for(_sent(producer, broker, partition), 60) for partition in range(4)] == [2, 2, 2, 1]


async def _sent(producer: Any, broker: Broker, partition: int) -> int:
    """Another batch: the number that it has."""
    future = await send(producer, partition)
    await broker.answer(len(broker.requests))
    await future
    return broker.asked[-1][partition]


async def test_an_answer_is_told_as_aiokafka_tells_it(producer: Any, broker: Broker) -> None:
    prompt = await send(producer, 2, records=2)
    await broker.answer(1)
    producer._free_connection = lambda leader: None  # the way of aiokafka itself
    ordinary = await send(producer, 2, records=2)
    await broker.answer(2)
    found, expected = await prompt, await ordinary
    assert found == expected._replace(offset=102)
    assert type(found) is type(expected)
    assert [request.required_acks for request in broker.requests] == [-1, -1]
    assert broker.asked == [{2: 0}, {2: 2}]


async def comes_again_before_all_others(first: "asyncio.Future[Any]", producer: Any, broker: Broker) -> None:
    """A batch of two records that was not stored, and one behind it: under the numbers that they have."""
    second = asyncio.create_task(send(producer, 0))
    await broker.answer(2)
    assert (await first).offset == 200
    await broker.answer(3)
    assert (await (await second)).offset == 300
    assert broker.asked == [{0: 0}, {0: 0}, {0: 2}]


async def test_what_the_broker_does_not_take_yet_comes_again_before_all_others(producer: Any, broker: Broker) -> None:
    first = await send(producer, 0, records=2)
    await broker.answer(1, _NOT_LEADER)
    await comes_again_before_all_others(first, producer, broker)
    assert not producer._message_accumulator._pending_batches


async def test_what_it_never_takes_fails_alone(producer: Any, broker: Broker) -> None:
    refused, fine = await send(producer, 0), await send(producer, 1)
    await broker.answer(1, _TOO_LARGE)
    await broker.answer(2)
    with pytest.raises(MessageSizeTooLargeError):
        await refused
    assert (await fine).offset == 201


async def test_what_a_broken_connection_took_along_comes_again_under_its_numbers(producer: Any, broker: Broker) -> None:
    first = await send(producer, 0, records=2)
    broker.connection.close(exc=ConnectionResetError())
    await comes_again_before_all_others(first, producer, broker)


async def test_a_connection_that_was_just_closed_is_no_defect(producer: Any, broker: Broker) -> None:
    """uvloop says so with a ``RuntimeError``."""
    broker.is_closed = True
    first = asyncio.create_task(send(producer, 0))
    await broker.answer(1)
    assert (await (await first)).offset == 100


async def test_an_answer_that_does_not_come_ends_the_connection(producer: Any, broker: Broker) -> None:
    silent = producer.client._conns[0, ConnectionGroup.DEFAULT] = broker.connect(limit_s=0.01)
    first = await send(producer, 0)
    await eventually(lambda: not silent.connected(), "its limit is over")
    await broker.answer(2)
    assert (await first).offset == 200
    assert broker.asked == [{0: 0}, {0: 0}]


@pytest.mark.parametrize("when", ["before the answer", "behind it"])
async def test_a_batch_is_sent_whoever_waits_for_it(producer: Any, broker: Broker, when: str) -> None:
    future = await send(producer, 0)
    if when == "before the answer":
        future.cancel()
    await broker.answer(1, _NOT_LEADER)
    for _ in range(3):
        await asyncio.sleep(0)
    future.cancel()  # while it waits to be sent again
    await broker.answer(2)
    after = await send(producer, 0)
    await broker.answer(3)
    assert (await after).offset == 300
    assert broker.asked == [{0: 0}, {0: 0}, {0: 1}]


async def test_no_batch_passes_where_it_would_overtake(producer: Any, broker: Broker) -> None:
    queue = producer._message_accumulator
    queued = [await queue.add_batch(batch_of(producer, 1), tp, 1.0) for tp in [TopicPartition(TOPIC, 0)]]
    behind = asyncio.create_task(send(producer, 0))
    await broker.answer(1)
    await broker.answer(2)
    assert [(await queued[0]).offset, (await (await behind)).offset] == [100, 200]
    assert broker.asked == [{0: 0}, {0: 1}]


async def test_a_producer_that_ended_says_so(producer: Any, broker: Broker) -> None:
    future = await send(producer, 0)
    queue = producer._message_accumulator
    queue.fail_all(KafkaConnectionError("it has ended"))
    with pytest.raises(KafkaConnectionError, match="it has ended"):
        await future
    with pytest.raises(KafkaConnectionError, match="it has ended"):
        await send(producer, 1)
    assert broker.asked == [{0: 0}]


async def test_a_producer_is_flushed_when_what_is_under_way_is_stored(producer: Any, broker: Broker) -> None:
    future = await send(producer, 0)
    flushing = asyncio.create_task(producer.flush())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not flushing.done()
    await broker.answer(1)
    await flushing
    assert future.done()


@pytest.mark.parametrize("when", ["under way", "to be sent again", "connecting"])
@pytest.mark.parametrize("producer", [PromptProducer, AIOKafkaProducer], indirect=True)  # a client has aiokafka's
async def test_nothing_goes_on_of_a_producer_whose_end_is_not_waited_for(
    producer: Any, broker: Broker, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its broker is away for longer than anybody waits."""
    monkeypatch.setattr(request_sender, "_STOP_TIMEOUT_S", 0.05)
    before, unheard = asyncio.all_tasks(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

    async def away(node: int, **_: Any) -> None:
        """No connection."""

    async def connecting(node: int, **_: Any) -> AIOKafkaConnection:
        await connected.wait()
        late = producer.client._conns[node, ConnectionGroup.DEFAULT] = broker.connect()
        return late

    connected = asyncio.Event()
    first = await send(producer, 0)
    producer.client.cluster.leader_for_partition = lambda tp: 9 * bool(tp.partition)
    if when == "connecting":
        producer.client._get_conn = connecting
    else:
        producer._sender._in_flight.add(9)  # another broker, that has something of ours to do
    queued = await send(producer, 1)
    if type(producer) is AIOKafkaProducer:
        await producer.send(TOPIC, b"v", partition=2)  # nobody waits for it
        (await producer.send(TOPIC, b"v", partition=2)).cancel()  # or not any more
    if when == "to be sent again":
        producer.client._get_conn = away
        broker.connection.close(exc=ConnectionResetError())
        await eventually(lambda: len(producer._message_accumulator._batches) == 2, "it is queued again")
    queued.cancel()  # whoever waits for it gives up, too: aiokafka's own future has nobody any more
    if isinstance(producer, PromptProducer):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await producer.stop()
    else:
        await stop_quietly(producer)
    connected.set()
    await eventually(lambda: asyncio.all_tasks() < before, "no task is left")
    assert not any(1 in asked or 2 in asked for asked in broker.asked)
    if when == "to be sent again" and isinstance(producer, PromptProducer):
        del first  # nobody waits for it, either
    else:
        assert isinstance(first.exception(), ProducerClosed)
    for held in (producer._message_accumulator._batches, producer._message_accumulator._pending_batches):
        held.clear()
    gc.collect()
    assert not unheard
    assert not broker.connection.connected()


async def ends_in_order(producer: Any, *futures: "asyncio.Future[Any]") -> None:
    """Its task for sending ends by itself, and what it held has failed."""
    sending = producer._sender.sender_task
    await eventually(sending.done, "it has ended")
    assert sending.exception() is None
    assert all(isinstance(future.exception(), ProducerClosed) for future in futures)


@pytest.mark.parametrize("producer", [AIOKafkaProducer], indirect=True)
async def test_a_producer_that_is_given_up_makes_no_other_connection(
    producer: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three brokers are away, and each has something to be sent: aiokafka connects to one after the other."""
    connected, tried = asyncio.Event(), []

    async def connect(host: str, port: int, **_: Any) -> AIOKafkaConnection:
        tried.append(host)
        await connected.wait()
        return broker.connect()

    monkeypatch.setattr(aiokafka.client, "create_conn", connect)
    del producer.client._get_conn
    producer.client._conns.clear()
    producer.client.cluster.leader_for_partition = lambda tp: tp.partition
    producer.client.cluster.broker_metadata = lambda node: BrokerMetadata(node, f"host{node}", 1, None)
    futures = [await send(producer, partition) for partition in range(3)]
    await eventually(lambda: bool(tried), "it connects")
    give_up(producer)
    connected.set()
    await ends_in_order(producer, *futures)
    assert len(tried) == 1
    assert broker.requests == []


@pytest.mark.parametrize("producer", [AIOKafkaProducer], indirect=True)
async def test_a_producer_is_given_up_in_the_moment_when_a_request_has_had_its_time(
    producer: Any, broker: Broker
) -> None:
    """aiokafka looks its connection up to close it."""
    first = await send(producer, 0)
    await eventually(lambda: broker.asked == [{0: 0}], "it is under way")
    ((_, _, answer),) = broker.connection._requests
    answer.set_exception(TimeoutError())
    give_up(producer)
    await ends_in_order(producer, first)


def test_the_version_that_is_installed_was_tried() -> None:
    """Another one? Read again what is used of its inside, let the fault runs go over it, and name it."""
    assert aiokafka.__version__ in TRIED_WITH


async def test_with_another_version_every_batch_is_queued(producer: Any, broker: Broker) -> None:
    producer._is_known = False
    future = await send(producer, 0)
    assert broker.asked == []
    await broker.answer(1)
    assert (await future).offset == 100
