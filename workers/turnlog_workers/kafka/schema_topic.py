"""The schemas topic: every writer puts its schemas there before first use, so that an older reader can read them.

Key: the fingerprint in hex; value: the schema's JSON text. These functions block: call them in a thread.
"""

import logging
import time
from typing import Any

from kafka import KafkaProducer

from turnlog_schemas.registry import Registry, load, packaged
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.small_topics import read_small_topic

log = logging.getLogger(__name__)

_CLIENT_ID = "turnlog-schemas"
_PARTITION = 0  # the topic has one: schemas are few


def publish_schemas(settings: Settings, registry: Registry | None = None, *, timeout_s: float | None = None) -> int:
    """Write the schemas that this version writes, those that are not in the topic yet; how many it wrote.

    They are acknowledged by the broker on return. Raises :class:`BrokerUnreachableError`.
    """
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    deadline = time.monotonic() + timeout_s
    mine = (registry or packaged()).all_current()
    there = _read_topic(settings, timeout_s)
    missing = [schema for schema in mine if schema.fingerprint.hex() not in there]
    if not missing:
        return 0
    left_s = max(deadline - time.monotonic(), 1.0)
    options = {"acks": "all", "allow_auto_create_topics": False, "max_block_ms": int(left_s * 1000)}
    with connected(
        KafkaProducer, settings, _CLIENT_ID, left_s, delivery_timeout_ms=int(left_s * 1000), **options
    ) as out:
        sent: list[Any] = [
            out.send(
                settings.topics.schemas,
                key=schema.fingerprint.hex().encode(),
                value=schema.text.encode(),
                partition=_PARTITION,
            )
            for schema in missing
        ]
        for future in sent:
            future.get(timeout=max(deadline - time.monotonic(), 0.001))
    return len(missing)


def read_schemas(settings: Settings, registry: Registry, *, timeout_s: float | None = None) -> int:
    """Make every schema of the topic known to the registry; how many were new to it.

    What is no schema of ours is passed over with a warning: it must not keep anybody from reading the others.
    Raises :class:`BrokerUnreachableError`.
    """
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    new = 0
    for key, text in _read_topic(settings, timeout_s).items():
        try:
            schema = load(text.decode())
        except ValueError as error:
            log.warning("%s: the record with key %.40r is passed over: %s", settings.topics.schemas, key, error)
            continue
        if schema.fingerprint.hex() != key:
            log.warning("%s: the record with key %.40r holds another schema", settings.topics.schemas, key)
            continue
        if registry.find(schema.fingerprint) is None:
            registry.add(schema)
            new += 1
    return new


def _read_topic(settings: Settings, timeout_s: float) -> dict[str, bytes]:
    """The newest value of every key."""
    newest: dict[str, bytes] = {}
    for name, value in read_small_topic(settings, settings.topics.schemas, _CLIENT_ID, timeout_s=timeout_s):
        key = (name or b"").decode("utf-8", errors="replace")
        if value is None:
            newest.pop(key, None)
        else:
            newest[key] = value
    return newest
