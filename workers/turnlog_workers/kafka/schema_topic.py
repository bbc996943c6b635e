"""The schemas topic: every writer puts its schemas there before first use, so that an older reader can read them.

Key: the fingerprint in hex; value: the schema's JSON text. These functions block: call them in a thread.
"""

import logging
import time
from collections.abc import Mapping

from turnlog_schemas.registry import Registry, load, packaged
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.small_topics import read_small_topic, write_small_topic

log = logging.getLogger(__name__)

_CLIENT_ID = "turnlog-schemas"


def publish_schemas(settings: Settings, registry: Registry | None = None, *, timeout_s: float | None = None) -> int:
    """Write the schemas that this version writes, those that are not in the topic yet; how many it wrote.

    They are acknowledged by the broker on return, and the registry knows all that were there before. Raises
    :class:`BrokerUnreachableError` or :class:`NotFoundError`.
    """
    registry = registry or packaged()
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    deadline = time.monotonic() + timeout_s
    mine = registry.all_current()
    there = _read_topic(settings, timeout_s)
    _take(settings, registry, there)
    missing = [schema for schema in mine if schema.fingerprint.hex() not in there]
    if not missing:
        return 0
    records = [(schema.fingerprint.hex().encode(), schema.text.encode()) for schema in missing]
    left_s = max(deadline - time.monotonic(), 1.0)
    write_small_topic(settings, settings.topics.schemas, records, _CLIENT_ID, timeout_s=left_s)
    return len(missing)


def read_schemas(settings: Settings, registry: Registry, *, timeout_s: float | None = None) -> int:
    """Make every schema of the topic known to the registry; how many were new to it.

    What is no schema of ours is ignored with a warning: it must not keep anybody from reading the others.
    Raises :class:`BrokerUnreachableError` or :class:`NotFoundError`.
    """
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    return _take(settings, registry, _read_topic(settings, timeout_s))


def _take(settings: Settings, registry: Registry, there: Mapping[str, bytes]) -> int:
    new = 0
    known = {schema.fingerprint.hex() for schema in registry.all_current()}  # most of them: parsed already
    for key, text in there.items():
        if key in known:
            continue
        try:
            schema = load(text.decode())
        except ValueError as error:
            log.warning("%s: the record with key %.40r is ignored: %s", settings.topics.schemas, key, error)
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
    for name, value in read_small_topic(settings, settings.topics.schemas, timeout_s=timeout_s):
        key = (name or b"").decode("utf-8", errors="replace")
        if value is None:
            newest.pop(key, None)
        else:
            newest[key] = value
    return newest
