"""A log that an earlier development build wrote is refused by whoever reads it, before any of its events is decoded."""

import io
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastavro import schemaless_writer
from kafka import TopicPartition

from tests.event_logs import random_log
from turnlog_schemas.codec import AVRO_MAGIC, Codec
from turnlog_schemas.mapping import to_dict
from turnlog_schemas.registry import EVENTS, Registry, load, packaged
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogBrokenError
from turnlog_workers.kafka.event_log import KafkaEventLog
from turnlog_workers.materializer.log_follower import LogFollower

REFUSED = r"events\[0\]@0: the log was written by an earlier development build.*TURNLOG_PREFIX.*TURNLOG_DATA_DIR"


def old_log() -> tuple[Registry, list[bytes]]:
    """A claim by a schema that knows no log format, as the schemas topic still has it, and what came behind it."""
    registry = Registry()
    for schema in packaged().all_current():
        registry.add(schema, current=True)
    current = registry.current("events", "PartitionClaimed")
    assert current is not None
    document = json.loads(current.text)
    document["fields"] = [field for field in document["fields"] if field["name"] != "log_format"]
    old = load(json.dumps(document))
    registry.add(old)
    record = random_log(1, 1).records[0]
    out = io.BytesIO()
    schemaless_writer(
        out, old.parsed, to_dict(EVENTS.header)(record.header) | to_dict(type(record.payload))(record.payload)
    )
    return registry, [AVRO_MAGIC + old.fingerprint + out.getvalue(), AVRO_MAGIC + b"8 bytes." + b"of nobody"]


async def test_a_worker_refuses_it() -> None:
    registry, values = old_log()
    records = [SimpleNamespace(offset=offset, value=value) for offset, value in enumerate(values)]

    class Reader:
        async def read(self, *_: Any) -> AsyncIterator[list[Any]]:
            yield records

    parts: dict[str, Any] = {"producer": None, "reader": Reader(), "schemas": None}
    log = KafkaEventLog(Settings(), **parts, source="w0", codec=Codec(EVENTS, registry))
    with pytest.raises(LogBrokenError, match=REFUSED):
        await anext(log.read(0, 0, len(records)))


def test_the_materializer_refuses_it() -> None:
    registry, values = old_log()
    topic = TopicPartition("chat.events", 0)
    records = [
        SimpleNamespace(topic=topic.topic, partition=0, offset=offset, value=value)
        for offset, value in enumerate(values)
    ]
    consumer: Any = SimpleNamespace(
        assign=lambda _: None,
        seek=lambda *_: None,
        end_offsets=lambda *_, **__: {topic: len(records)},
        poll=lambda **_: {topic: records},
    )
    follower = LogFollower(
        consumer,
        events=topic.topic,
        partitions=1,
        dead_letters=(),
        codec=Codec(EVENTS, registry),
        refresh_schemas=lambda: None,
        timeout_s=1.0,
    )
    follower.start({0: LogPosition()})
    with pytest.raises(LogBrokenError, match=REFUSED):
        follower.poll(0.0, 10)
