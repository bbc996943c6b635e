"""kafka-python."""

import contextlib
import uuid
from typing import Any

import kafka
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.clients.adapters.lines import Batch, InRecord, serve

_TIMEOUT_S = 20.0


class KafkaPython:
    """Its default partitioner is the Java client's."""

    def start(self, bootstrap: str) -> str:
        self._bootstrap = bootstrap
        self._producers: dict[tuple[str, bool], KafkaProducer] = {}
        self._open: KafkaProducer | None = None
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none", fetch_max_wait_ms=50
        )
        self._at: tuple[TopicPartition, int] | None = None
        version: str = kafka.__version__
        return version

    def _producer(self, codec: str, transactional: bool) -> KafkaProducer:
        key = (codec, transactional)
        if key not in self._producers:
            own: dict[str, Any] = {"transactional_id": uuid.uuid4().hex} if transactional else {}
            self._producers[key] = producer = KafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks="all",
                compression_type=None if codec == "none" else codec,
                max_request_size=8 << 20,
                linger_ms=5,
                **own,
            )
            if transactional:
                producer.init_transactions()
        return self._producers[key]

    def produce(self, batch: Batch) -> None:
        producer = self._producer(batch.codec, batch.transaction is not None)
        if batch.transaction is not None:
            producer.begin_transaction()
        try:
            sent = [
                producer.send(
                    batch.topic,
                    key=record.key,
                    value=record.value,
                    headers=record.named_headers,
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
                for record in batch.records
            ]
            producer.flush(_TIMEOUT_S)
            for future in sent:
                future.get(_TIMEOUT_S)
        except BaseException:
            # An idempotent producer whose record was refused fails for ever, for every topic: it is replaced.
            del self._producers[batch.codec, batch.transaction is not None]
            with contextlib.suppress(Exception):
                producer.close(timeout=1)
            raise
        if batch.transaction == "open":
            self._open = producer
        elif batch.transaction is not None:
            self._end(producer, batch.transaction)

    def end(self, how: str) -> None:
        assert self._open is not None
        self._end(self._open, how)

    @staticmethod
    def _end(producer: KafkaProducer, how: str) -> None:
        if how == "commit":
            producer.commit_transaction()
        else:
            producer.abort_transaction()

    def consume(self, topic: str, partition: int, offset: int, wait_ms: int) -> list[InRecord]:
        place = TopicPartition(topic, partition)
        if self._at != (place, offset):
            self._consumer.assign([place])
            self._consumer.seek(place, offset)
        found = self._consumer.poll(timeout_ms=wait_ms).get(place, [])
        self._at = (place, found[-1].offset + 1 if found else offset)
        return [
            InRecord(
                record.offset, record.key, record.value, [(name.encode(), value) for name, value in record.headers]
            )
            for record in found
        ]


if __name__ == "__main__":
    serve(KafkaPython)
