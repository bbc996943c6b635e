"""Schemas on a real topic: a reader of an older version reads a newer writer."""

import io
import json
import logging
import uuid
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from fastavro import schemaless_writer
from kafka import KafkaProducer

from tests import raw_batches
from tests.raw_batches import Raw
from turnlog_schemas import commands as cmd
from turnlog_schemas.codec import AVRO_MAGIC, RequestCodec, UnknownPayload
from turnlog_schemas.errors import InvalidCommandError, UnknownFingerprintError
from turnlog_schemas.parts import text_content
from turnlog_schemas.registry import Registry, Schema, load, packaged
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError, NotFoundError
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_ports import free_port
from turnlog_workers.kafka.schema_topic import publish_schemas, read_schemas
from turnlog_workers.kafka.topics_admin import init_topics


@pytest.fixture
def settings(broker: DevBroker) -> Settings:
    """A deployment of the test's own, with its topics."""
    settings = Settings(bootstrap_server=broker.bootstrap_server, prefix=f"t-{uuid.uuid4().hex[:12]}", partitions=1)
    init_topics(settings)
    return settings


def this_version() -> Registry:
    registry = Registry()
    for schema in packaged().all_current():
        registry.add(schema, current=True)
    return registry


def newer(record_type: str, *more: dict[str, Any], name: str | None = None) -> Schema:
    """A command's schema as a later version has it."""
    schema = packaged().current("commands", record_type)
    assert schema is not None
    raw = json.loads(schema.text)
    raw["fields"] += more
    raw["name"] = name or raw["name"]
    return load(json.dumps(raw))


def later_version(*schemas: Schema) -> Registry:
    registry = Registry()
    for schema in schemas:
        registry.add(schema, current=True)
    return registry


def record(schema: Schema, **fields: Any) -> bytes:
    plain = {
        "session_id": "s",
        "metadata": {},
        "content": [{"kind": "text", "text": "Hi"}],
        "on_busy": "enqueue",
    } | fields
    buffer = io.BytesIO()
    schemaless_writer(buffer, schema.parsed, plain)
    return AVRO_MAGIC + schema.fingerprint + buffer.getvalue()


def produce(settings: Settings, *records: tuple[bytes | None, bytes | None]) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_server, acks="all")
    try:
        for key, value in records:
            producer.send(settings.topics.schemas, key=key, value=value, partition=0).get(timeout=20)
    finally:
        producer.close()


def test_every_schema_is_written_once(settings: Settings) -> None:
    assert publish_schemas(settings) == len(packaged().all_current())
    assert publish_schemas(settings) == 0
    empty = Registry()
    assert read_schemas(settings, empty) == len(packaged().all_current())
    for schema in packaged().all_current():
        found = empty.find(schema.fingerprint)
        assert found is not None
        assert found.text == schema.text
    assert read_schemas(settings, empty) == 0
    assert read_schemas(settings, this_version()) == 0


def test_an_empty_topic(settings: Settings) -> None:
    assert read_schemas(settings, Registry()) == 0


def test_an_older_reader_reads_a_newer_writer_of_a_known_type(settings: Settings) -> None:
    chat = newer("Chat", {"name": "priority", "type": "long", "default": 0})
    reader = this_version()
    codec = RequestCodec(reader)
    data = record(chat, priority=7)
    publish_schemas(settings)
    with pytest.raises(UnknownFingerprintError):
        codec.decode_request(data)
    assert publish_schemas(settings, later_version(chat)) == 1
    assert read_schemas(settings, reader) == 1
    header, command, _ = codec.decode_request(data)
    assert header == cmd.RequestHeader(session_id="s")
    assert command == cmd.Chat(content=text_content("Hi"))
    assert reader.current("commands", "Chat") is packaged().current("commands", "Chat"), "we write what we know"


def test_an_older_reader_keeps_a_type_that_it_does_not_know(settings: Settings) -> None:
    pin = newer("Chat", {"name": "pin", "type": "string"}, name="turnlog.commands.PinSession")
    publish_schemas(settings, later_version(pin))
    reader = this_version()
    assert read_schemas(settings, reader) == 1
    codec = RequestCodec(reader)
    header, payload = codec.decode(record(pin, pin="top"))
    assert header == cmd.RequestHeader(session_id="s")
    assert isinstance(payload, UnknownPayload)
    assert payload.name == "PinSession"
    assert payload.fields["pin"] == "top"
    with pytest.raises(InvalidCommandError, match="unknown command 'pin_session'"):
        codec.decode_request(record(pin, pin="top"))


def test_garbage_in_the_topic_keeps_nobody_from_the_rest(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    good = newer("Chat", {"name": "priority", "type": "long", "default": 0})
    gone = newer("Chat", {"name": "gone", "type": "long", "default": 0})
    produce(
        settings,
        (b"nonsense", b"not a schema"),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"", b"{}"),
        (b"0000000000000000", good.text.encode()),
        (gone.fingerprint.hex().encode(), gone.text.encode()),
        (gone.fingerprint.hex().encode(), None),
        (good.fingerprint.hex().encode(), good.text.encode()),
    )
    registry = Registry()
    with caplog.at_level(logging.WARNING):
        assert read_schemas(settings, registry) == 1
    assert registry.find(good.fingerprint) is not None
    assert registry.find(gone.fingerprint) is None
    told = [entry.getMessage() for entry in caplog.records if entry.name == "turnlog_workers.kafka.schema_topic"]
    assert len(told) == 4
    assert any("holds another schema" in line for line in told)


def test_no_broker_is_told_in_time(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"bootstrap_server": f"127.0.0.1:{free_port()}"})
    with pytest.raises(BrokerUnreachableError, match=f"at {nowhere.bootstrap_server} .nobody accepts"):
        read_schemas(nowhere, Registry(), timeout_s=1.0)
    with pytest.raises(BrokerUnreachableError, match=f"at {nowhere.bootstrap_server} .nobody accepts"):
        publish_schemas(nowhere, timeout_s=1.0)


def test_no_topic_is_told_in_time(broker: DevBroker) -> None:
    nothing = Settings(bootstrap_server=broker.bootstrap_server, prefix=f"t-{uuid.uuid4().hex[:12]}")
    with pytest.raises(NotFoundError, match=f"topic {nothing.topics.schemas} does not exist"):
        read_schemas(nothing, Registry(), timeout_s=2.0)


async def test_a_record_that_cannot_be_parsed_keeps_nobody_from_the_schemas(settings: Settings) -> None:
    """A producer in a language whose header keys are bytes; also read from where a loop runs."""
    publish_schemas(settings)
    bad = raw_batches.batch([Raw(key=b"x", value=b"y", headers=[(b"\xff", b"")])])
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_server) as producer:
        await raw_batches.produce(producer, settings.topics.schemas, 0, bad)
    registry = Registry()
    found = read_schemas(settings, registry)
    assert found == len(packaged().all_current())
    assert publish_schemas(settings) == 0
