"""A deployment with the recorded log of a version, and what a broker has of it: compared after its data were lost."""

import hashlib
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient, TopicPartition

from tests import recorded_log
from tests.deployment import START_S, Deployment
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.topics_admin import topic_id

_VERSION = "0.1.0"
_FIRST_REQUEST = 3  #: older ones are gone: requests are kept for a week


class KeptTopics:
    """The topics of a deployment on a broker."""

    def __init__(self, bootstrap_server: str, folder: Path) -> None:
        self._schemas, self._records = recorded_log.as_kept(_VERSION)
        self.expected = recorded_log.read(_VERSION).folded  #: digests of what the log leads to
        partitions = 1 + max(record["partition"] for record in self._records)
        self._deployment = Deployment(bootstrap_server, folder, partitions=partitions, prefix="kept")

    async def make(self) -> None:
        """Make the topics, with the log and some records of each other topic."""
        self._deployment.make_topics()
        settings, topics = self._deployment.settings, self._deployment.topics
        async with AIOKafkaProducer(**client_options(settings, "test-kept"), acks="all", linger_ms=5) as producer:
            stored = [
                await producer.send(
                    topics.events,
                    key=b"k",
                    value=bytes.fromhex(record["value"]),
                    partition=record["partition"],
                    timestamp_ms=record["logged_at"],
                    headers=[("place", str(record["offset"]).encode())],
                )
                for record in self._records
            ]
            assert [(await done).offset for done in stored] == [record["offset"] for record in self._records]
            for topic in topics.all:
                for number in range(0 if topic == topics.events else 2 * _FIRST_REQUEST):
                    await producer.send_and_wait(topic, key=f"{number}".encode(), value=b"v", partition=0)
        with connected(KafkaAdminClient, settings, "test-kept", START_S) as admin:
            admin.delete_records({TopicPartition(topics.requests, 0): _FIRST_REQUEST})

    async def found(self) -> dict[str, Any]:
        """By topic: its id, how many records it has, and the digest of all that they are, places and times included."""
        settings, found = self._deployment.settings, {}
        for topic in self._deployment.topics.all:
            records = sorted(await self._deployment.dump(topic), key=lambda record: (record.partition, record.offset))
            digest = hashlib.sha256()
            for r in records:
                digest.update(repr((r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)).encode())
            found[topic] = (topic_id(settings, topic), len(records), digest.hexdigest())
        return found

    async def rows(self) -> dict[str, Any]:
        """The digests of what the log on the broker leads to."""
        records = await self._deployment.dump(self._deployment.topics.events)
        kept = [
            {"partition": r.partition, "offset": r.offset, "logged_at": r.timestamp, "value": r.value.hex()}
            for r in records
        ]
        return recorded_log.digests(recorded_log.folded_rows(recorded_log.decoded(self._schemas, kept)))
