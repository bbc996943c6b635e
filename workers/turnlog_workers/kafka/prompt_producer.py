"""aiokafka's producer, with a short way for what its broker can be sent at once.

aiokafka puts each batch into a queue and wakes a task that looks through all queues, which starts another one for each
broker: where a few batches come at a time, that costs as much as sending them. Here a batch goes past the queue if its
broker has no request of this producer in flight; what comes meanwhile is queued and goes together, as ever. The numbers
of an idempotent producer, retries and answers are aiokafka's own: its handler sends the batch, and queues it again.
"""

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.structs import TopicPartition

from turnlog_workers.base.tasks import describe, was_cancelled


class PromptProducer(AIOKafkaProducer):  # type: ignore[misc]
    """Its batches are sent at once where nothing else is under way."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._at_once: set[asyncio.Task[None]] = set()

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        """As aiokafka's: a future of where the batch is stored."""
        sent = self._begin(batch, TopicPartition(topic, partition))
        if sent is not None:
            return sent
        queued: asyncio.Future[Any] = await super().send_batch(batch, topic, partition=partition)
        return queued

    def _begin(self, builder: BatchBuilder, tp: TopicPartition) -> "asyncio.Future[Any] | None":
        """Send it now; ``None``: it has to be queued. Nothing is awaited between the look and the sending."""
        queue, sender = self._message_accumulator, self._sender
        leader = self.client.cluster.leader_for_partition(tp)
        if leader is None or leader == -1 or leader in sender._in_flight or tp in sender._muted_partitions:
            return None
        if queue._batches or queue._closed or queue._exception is not None or not builder.record_count():
            return None
        numbers = self._txn_manager
        if numbers is not None and (numbers.transactional_id is not None or not numbers.has_pid()):
            return None
        if sender.sender_task is None or sender.sender_task.done():  # nobody would send it again
            return None
        queue._batches[tp].append(MessageBatch(tp, builder, queue._batch_ttl, queue._linger_time))
        batch = queue._pop_batch(tp)  # numbered
        sender._in_flight.add(leader)
        sender._muted_partitions.add(tp)
        task = asyncio.get_running_loop().create_task(self._send_at_once(batch, tp, leader))
        self._at_once.add(task)
        task.add_done_callback(self._at_once.discard)
        return asyncio.shield(batch.future)

    async def _send_at_once(self, batch: MessageBatch, tp: TopicPartition, leader: int) -> None:
        """In a task of its own: a batch that has its number is sent, whoever waits for it or does not any more."""
        queue, sender = self._message_accumulator, self._sender
        try:
            await SendProduceReqHandler(sender, {tp: batch}).do(leader)
        except BaseException as error:
            if was_cancelled(error):
                raise
            # As if aiokafka's own task had died of it: this producer is of no use any more.
            queue.fail_all(KafkaError(f"a batch was not sent: {describe(error)}"))
        finally:
            sender._in_flight.discard(leader)
            sender._muted_partitions.discard(tp)
            if queue._batches and not queue._waiter_future.done():  # what came meanwhile, or is to be sent again
                queue._waiter_future.set_result(None)
