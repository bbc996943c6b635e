"""The event log for a process that reads it and owns none of it."""

import asyncio
import time

from turnlog_schemas.registry import packaged
from turnlog_workers.base.config import Settings
from turnlog_workers.base.shared_look import SharedLook
from turnlog_workers.kafka.event_log import KafkaEventLog, LogProducer
from turnlog_workers.kafka.schema_topic import read_schemas
from turnlog_workers.kafka.session_keys import SessionKeys
from turnlog_workers.kafka.topic_reader import TopicReader


def log_to_read(settings: Settings, reader: TopicReader, *, sealed_partitions: int | None) -> KafkaEventLog:
    """``sealed_partitions``: of the topic with the keys; ``None``: the texts are not sealed."""

    async def look() -> None:
        await asyncio.to_thread(read_schemas, settings, packaged())

    schemas: SharedLook[bytes] = SharedLook(
        look, known=lambda name: packaged().find(name) is not None, now=time.monotonic
    )
    keys = None if sealed_partitions is None else SessionKeys(settings.topics.keys, sealed_partitions, reader)
    return KafkaEventLog(settings, LogProducer(settings), reader, source="reader", schemas=schemas, keys=keys)
