"""confluent-kafka, and with it every client on librdkafka."""

import time
import uuid
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.clients.adapters.lines import Batch, InRecord, serve

_TIMEOUT_S = 20.0


class Confluent:
    """Its default partitioner is CRC32: ``partitioner`` must be set."""

    def start(self, bootstrap: str) -> str:
        self._bootstrap = bootstrap
        self._producers: dict[tuple[str, str, bool], Producer] = {}
        self._open: Producer | None = None
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
            }
        )
        self._at: tuple[str, int, int] | None = None
        return f"{confluent_kafka.__version__} (librdkafka {confluent_kafka.libversion()[0]})"

    def _producer(self, codec: str, partitioner: str, transactional: bool) -> Producer:
        key = (codec, partitioner, transactional)
        if key not in self._producers:
            options: dict[str, Any] = {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "compression.type": codec,
                "message.max.bytes": 8 << 20,
                "linger.ms": 5,
            }
            if partitioner == "java":
                options["partitioner"] = "murmur2_random"
            if transactional:
                options["transactional.id"] = uuid.uuid4().hex
            self._producers[key] = Producer(options)
            if transactional:
                self._producers[key].init_transactions(_TIMEOUT_S)
        return self._producers[key]

    def produce(self, batch: Batch) -> None:
        producer = self._producer(batch.codec, batch.partitioner, batch.transaction is not None)
        if batch.transaction is not None:
            producer.begin_transaction()
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)

        for record in batch.records:
            place: dict[str, Any] = {}
            if record.partition is not None:
                place["partition"] = record.partition
            if record.timestamp_ms is not None:
                place["timestamp"] = record.timestamp_ms
            producer.produce(
                batch.topic,
                key=record.key,
                value=record.value,
                headers=record.named_headers,
                on_delivery=delivered,
                **place,
            )
            producer.poll(0)
        left = producer.flush(_TIMEOUT_S)
        if failed or left:
            raise KafkaException(failed[0]) if failed else TimeoutError(f"{left} records were not acknowledged")
        if batch.transaction == "open":
            self._open = producer
        elif batch.transaction is not None:
            self._end(producer, batch.transaction)

    def end(self, how: str) -> None:
        assert self._open is not None
        self._end(self._open, how)

    @staticmethod
    def _end(producer: Producer, how: str) -> None:
        if how == "commit":
            producer.commit_transaction(_TIMEOUT_S)
        else:
            producer.abort_transaction(_TIMEOUT_S)

    def consume(self, topic: str, partition: int, offset: int, wait_ms: int) -> list[InRecord]:
        if self._at != (topic, partition, offset):
            self._consumer.assign([TopicPartition(topic, partition, offset)])
        found: list[InRecord] = []
        deadline = time.monotonic() + wait_ms / 1000
        while (left_s := deadline - time.monotonic()) > 0:
            # Only the first is waited for.
            for message in self._consumer.consume(500, timeout=0.02 if found else min(left_s, 0.1)):
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                headers = [(name.encode(), value) for name, value in message.headers() or []]
                found.append(InRecord(message.offset(), message.key(), message.value(), headers))
            if found:
                break
        self._at = (topic, partition, found[-1].offset + 1 if found else offset)
        return found


if __name__ == "__main__":
    serve(Confluent)
