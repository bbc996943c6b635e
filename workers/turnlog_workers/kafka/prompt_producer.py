"""aiokafka's producer, with a short way for what its broker can be sent at once.

aiokafka puts each batch into a queue and wakes a task that looks through all queues, which starts another one for each
broker, which waits for the answer in a third: where a few batches come at a time, that costs some times as much as the
batch. Here a batch is written to aiokafka's connection in the same moment, and the answer goes straight to who waits:
one batch of a partition at a time, and five to a broker; what comes meanwhile is queued and goes together, as ever.
Numbers of an idempotent producer are aiokafka's, and so is all that goes wrong: it queues the batch again.

This knows aiokafka from inside. With a version that it was not tried with, every batch is queued.
"""

import asyncio
import struct
import time
from collections import Counter
from io import BytesIO
from typing import Any

import aiokafka
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaError, ProducerClosed, RequestTimedOutError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.produce import ProduceRequest, ProduceResponse_v7
from aiokafka.structs import RecordMetadata, TopicPartition

from turnlog_workers.base.tasks import describe, was_cancelled
from turnlog_workers.kafka.given_up import TRIED_WITH, give_up

_API, _VERSION = ProduceRequest.API_KEY, ProduceResponse_v7.API_VERSION
_NO_TRANSACTION, _ONE = -1, 1
#: As many requests as Kafka's own clients have under way to a broker. One at a time, the next one would wait until the
#: event loop comes to the answer, and some turns of the loop more in aiokafka's queue: 60 ms where it is busy.
_MOST_IN_FLIGHT = 5
_HEAD = struct.Struct(">ihhih")  # size, api, version, correlation id, length of the client id
_BODY = struct.Struct(">hhiih")  # transaction, acks, timeout, topics, length of the topic
_PART = struct.Struct(">iii")  # partitions, partition, length of the batch
_ANSWER = struct.Struct(">iihqqqi")  # partitions, partition, code, offset, timestamp, start of the log, throttle


class PromptProducer(AIOKafkaProducer):  # type: ignore[misc]
    """Its batches are sent at once where little else is under way."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._troubles: set[asyncio.Task[None]] = set()
        self._under_way: Counter[int] = Counter()  #: by broker: what was sent at once, and is not over
        self._is_known = aiokafka.__version__ in TRIED_WITH

    async def stop(self) -> None:
        """As aiokafka's: what is under way is waited for. Whoever gives that up leaves nothing behind that runs.

        (Of a version that this was not tried with it leaves what aiokafka leaves.)
        """
        try:
            await super().stop()
        except asyncio.CancelledError:
            give_up(self)
            raise
        finally:
            for task in self._troubles:
                task.cancel()

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        """As aiokafka's: a future of where the batch is stored."""
        tp = TopicPartition(topic, partition)
        leader = self.client.cluster.leader_for_partition(tp)
        connection = self._free_connection(leader)
        if connection is None or not self._may_pass(tp) or not batch.record_count():
            queued: asyncio.Future[Any] = await super().send_batch(batch, topic, partition=partition)
            return queued
        # Nothing is awaited between the look and the sending.
        numbers = self._txn_manager
        if numbers is not None:
            first, count = numbers.sequence_number(tp), batch.record_count()
            numbers.increment_sequence_number(tp, count)
            batch._set_producer_state(numbers.producer_id, numbers.producer_epoch, first)
        sent = _Sent(self, connection, tp, leader, batch)
        self._under_way[leader] += 1
        self._sender._in_flight.add(leader)
        self._sender._muted_partitions.add(tp)
        self._message_accumulator._pending_batches.add(sent)
        sent.write(self._sender._acks, self._sender._request_timeout_ms)
        return sent.future

    def _free_connection(self, leader: int | None) -> AIOKafkaConnection | None:
        """To a broker that has little else of us to do, and nothing of aiokafka's queue; ``None``: there is none."""
        if not self._is_known or leader is None or leader == -1:
            return None
        under_way = self._under_way[leader]
        if under_way >= _MOST_IN_FLIGHT or (not under_way and leader in self._sender._in_flight):
            return None
        connection = self.client._conns.get((leader, ConnectionGroup.DEFAULT))
        if connection is None or not connection.connected():
            return None
        lowest, highest = connection._versions.get(_API, (0, 0))
        return connection if lowest <= _VERSION <= highest else None

    def _may_pass(self, tp: TopicPartition) -> bool:
        """Is there nothing that this batch would overtake, and somebody who sends it again if need be?"""
        queue, sender, numbers = self._message_accumulator, self._sender, self._txn_manager
        if queue._batches or queue._closed or queue._exception is not None or tp in sender._muted_partitions:
            return False
        if numbers is not None and (numbers.transactional_id is not None or not numbers.has_pid()):
            return False
        return sender._acks != 0 and sender.sender_task is not None and not sender.sender_task.done()

    def is_over(self, sent: "_Sent") -> None:
        """The broker may be sent what came meanwhile, or what is to be sent again."""
        queue, sender = self._message_accumulator, self._sender
        queue._pending_batches.discard(sent)
        sender._muted_partitions.discard(sent.tp)
        self._under_way[sent.leader] -= 1
        if not self._under_way[sent.leader]:
            del self._under_way[sent.leader]
            sender._in_flight.discard(sent.leader)
        if queue._batches and not queue._waiter_future.done():
            queue._waiter_future.set_result(None)

    def went_wrong(self, sent: "_Sent", outcome: Any) -> None:
        """It was not stored, or nobody knows: from here on it is aiokafka's."""
        task = asyncio.get_running_loop().create_task(self._left_to_aiokafka(sent, outcome))
        self._troubles.add(task)
        task.add_done_callback(self._troubles.discard)

    async def _left_to_aiokafka(self, sent: "_Sent", outcome: Any) -> None:
        """The batch fails, or is queued again after a while, before all others, under the same numbers."""
        queue = self._message_accumulator
        batch = MessageBatch(sent.tp, sent.builder, queue._batch_ttl, 0)
        batch._ctime = sent.began
        batch.drain_ready()  # it has its numbers
        queue._pending_batches.discard(sent)
        queue._pending_batches.add(batch)
        batch.future.add_done_callback(lambda _: queue._pending_batches.discard(batch))
        batch.future.add_done_callback(sent.is_done)
        handler = SendProduceReqHandler(self._sender, {sent.tp: batch})
        handler._client = _Told(self.client, outcome)
        try:
            await handler.do(sent.leader)
        except BaseException as error:
            if was_cancelled(error):
                raise
            # As if aiokafka's own task had died of it: this producer is of no use any more.
            queue.fail_all(KafkaError(f"a batch was not sent: {describe(error)}"))
        finally:
            self.is_over(sent)


class _Sent:
    """A batch on its way: for aiokafka's connection a request, the class of its answer and a future of that; for
    aiokafka's queue a batch that is not stored yet.
    """

    def __init__(
        self,
        producer: PromptProducer,
        connection: AIOKafkaConnection,
        tp: TopicPartition,
        leader: int,
        builder: BatchBuilder,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.tp, self.leader, self.builder = tp, leader, builder
        self.began = time.monotonic()
        self.future: asyncio.Future[Any] = loop.create_future()  #: of where it is stored
        self.correlation_id: int = connection._next_correlation_id()
        self._producer, self._connection = producer, connection
        self._limit = loop.call_later(connection._request_timeout, self._too_late)
        self._answered = False

    def write(self, acks: int, timeout_ms: int) -> None:
        """Hand it to the connection; what is wrong with that one is the outcome."""
        connection, data = self._connection, self.builder._build()
        client, topic = connection._client_id.encode(), self.tp.topic.encode()
        size = _HEAD.size - 4 + len(client) + _BODY.size + len(topic) + _PART.size + len(data)
        head = _HEAD.pack(size, _API, _VERSION, self.correlation_id, len(client))
        body = _BODY.pack(_NO_TRANSACTION, acks, timeout_ms, _ONE, len(topic))
        connection._requests.append((self.correlation_id, self, self))
        try:
            connection._writer.write(
                b"".join((head, client, body, topic, _PART.pack(_ONE, self.tp.partition, len(data)), data))
            )
        except (OSError, RuntimeError) as error:  # uvloop says RuntimeError where the transport is closed
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)

    def _too_late(self) -> None:
        """As aiokafka: what comes on this connection from now on would be mistaken for the answer to something else."""
        self.set_exception(RequestTimedOutError())
        self._connection.close(reason=CloseReason.CONNECTION_TIMEOUT)

    def is_done(self, done: "asyncio.Future[Any]") -> None:
        """aiokafka has got it there, or given it up: for whoever waits, if somebody still does."""
        error = done.exception()
        if error is not None:
            self.failure(error)
        elif not self.future.done():
            self.future.set_result(done.result())

    def failure(self, exception: BaseException) -> None:
        """It is not stored, as far as anybody knows."""
        if not self.future.done():
            self.future.set_exception(exception)
            if isinstance(exception, ProducerClosed):
                self.future.exception()  # whoever has given the producer up may no longer wait for it

    # ---- what the connection asks for

    @property
    def RESPONSE_TYPE(self) -> "_Sent":
        """Who reads the answer."""
        return self

    def parse_response_header(self, answer: BytesIO) -> "_Sent | _Header":
        """Whose answer is it?"""
        found = int.from_bytes(answer.read(4), "big")
        return self if found == self.correlation_id else _Header(found)

    def decode(self, answer: BytesIO) -> Any:
        """Where the batch is stored; aiokafka's object where that is not all that there is to say."""
        start, data = answer.tell(), answer.getbuffer()
        at = start + 4 + 2 + len(self.tp.topic)
        if len(data) == at + _ANSWER.size:
            partitions, partition, code, offset, timestamp, log_start, _ = _ANSWER.unpack_from(data, at)
            if (partitions, partition, code) == (_ONE, self.tp.partition, 0):
                kind = 0 if timestamp == -1 else 1
                return RecordMetadata(self.tp.topic, partition, self.tp, offset, timestamp, kind, log_start)
        return ProduceResponse_v7.decode(answer)

    def done(self) -> bool:
        """Was it answered, or given up?"""
        return self._answered

    def set_result(self, answer: Any) -> None:
        """The broker has answered."""
        self._answered = True
        self._limit.cancel()
        if type(answer) is not RecordMetadata:
            self._producer.went_wrong(self, answer)
            return
        if not self.future.done():
            self.future.set_result(answer)
        self._producer.is_over(self)

    def set_exception(self, error: BaseException) -> None:
        """The connection has ended."""
        if not self._answered:
            self._answered = True
            self._limit.cancel()
            self._producer.went_wrong(self, error)


class _Header:
    """Of an answer to something else."""

    def __init__(self, correlation_id: int) -> None:
        self.correlation_id = correlation_id


class _Told:
    """The client of a producer, for who asks what is known already."""

    def __init__(self, client: AIOKafkaClient, outcome: Any) -> None:
        self._outcome = outcome
        self.force_metadata_update = client.force_metadata_update
        self._maybe_wait_metadata = client._maybe_wait_metadata

    async def send(self, node_id: int, request: ProduceRequest) -> Any:
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome
