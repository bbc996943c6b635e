"""aiokafka."""

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine
from importlib.metadata import version
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.clients.adapters.lines import Batch, InRecord, serve

_TIMEOUT_S = 20.0
T = TypeVar("T")


class AioKafka:
    """Its default partitioner is the Java client's."""

    def start(self, bootstrap: str) -> str:
        self._bootstrap = bootstrap
        self._loop = asyncio.new_event_loop()
        self._producers: dict[tuple[str, bool], AIOKafkaProducer] = {}
        self._open: AIOKafkaProducer | None = None
        self._at: tuple[TopicPartition, int] | None = None
        self._do(self._connect())
        return version("aiokafka")

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(work, _TIMEOUT_S))

    async def _connect(self) -> None:
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=50,
        )
        await self._consumer.start()

    async def _producer(self, codec: str, transactional: bool) -> AIOKafkaProducer:
        key = (codec, transactional)
        if key not in self._producers:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks="all",
                enable_idempotence=True,
                compression_type=None if codec == "none" else codec,
                max_request_size=8 << 20,
                linger_ms=5,
                transactional_id=uuid.uuid4().hex if transactional else None,
            )
            await producer.start()
            self._producers[key] = producer
        return self._producers[key]

    def produce(self, batch: Batch) -> None:
        self._do(self._produce(batch))

    async def _produce(self, batch: Batch) -> None:
        producer = await self._producer(batch.codec, batch.transaction is not None)
        if batch.transaction is not None:
            await producer.begin_transaction()
        try:
            sent = [
                await producer.send(
                    batch.topic,
                    key=record.key,
                    value=record.value,
                    headers=record.named_headers,
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
                for record in batch.records
            ]
            await asyncio.gather(*sent)
        except BaseException:
            # An idempotent producer whose record was refused fails for ever for that partition: it is replaced.
            del self._producers[batch.codec, batch.transaction is not None]
            with contextlib.suppress(Exception):
                await asyncio.wait_for(producer.stop(), 1)
            raise
        if batch.transaction == "open":
            self._open = producer
        elif batch.transaction is not None:
            await self._end(producer, batch.transaction)

    def end(self, how: str) -> None:
        assert self._open is not None
        self._do(self._end(self._open, how))

    @staticmethod
    async def _end(producer: AIOKafkaProducer, how: str) -> None:
        if how == "commit":
            await producer.commit_transaction()
        else:
            await producer.abort_transaction()

    def consume(self, topic: str, partition: int, offset: int, wait_ms: int) -> list[InRecord]:
        return self._do(self._consume(TopicPartition(topic, partition), offset, wait_ms))

    async def _consume(self, place: TopicPartition, offset: int, wait_ms: int) -> list[InRecord]:
        if self._at != (place, offset):
            self._consumer.assign([place])
            self._consumer.seek(place, offset)
        found = (await self._consumer.getmany(timeout_ms=wait_ms)).get(place, [])
        self._at = (place, found[-1].offset + 1 if found else offset)
        return [
            InRecord(
                record.offset, record.key, record.value, [(name.encode(), value) for name, value in record.headers]
            )
            for record in found
        ]


if __name__ == "__main__":
    serve(AioKafka)
