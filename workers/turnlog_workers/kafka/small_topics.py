"""Small topics of one partition, read whole: schemas and run-time settings. Blocks."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, UnsupportedCodecError

from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError, UnreadableRange
from turnlog_workers.kafka.kafka_python import BrokerUnreachableError, connected
from turnlog_workers.kafka.topic_reader import TopicReader

_PARTITION = 0
_POLL_MS = 200

KeyAndValue = tuple[bytes | None, bytes | None]
T = TypeVar("T")


def read_small_topic(settings: Settings, topic: str, client_id: str, *, timeout_s: float) -> list[KeyAndValue]:
    """Every record of the topic. What nobody can parse is passed over: it must not keep anybody from reading the rest.

    Raises :class:`BrokerUnreachableError`.
    """
    try:
        return _read(settings, topic, client_id, timeout_s)
    except BrokerUnreachableError as error:
        if not isinstance(error.__cause__, CorruptRecordError | UnsupportedCodecError):
            raise
    try:
        return _in_a_loop(_read_leniently(settings, topic))
    except LogError as error:
        raise BrokerUnreachableError(str(error)) from error


def _read(settings: Settings, topic: str, client_id: str, timeout_s: float) -> list[KeyAndValue]:
    deadline = time.monotonic() + timeout_s
    partition = TopicPartition(topic, _PARTITION)
    found: list[KeyAndValue] = []
    options = {"group_id": None, "enable_auto_commit": False, "allow_auto_create_topics": False}
    with connected(KafkaConsumer, settings, client_id, timeout_s, auto_offset_reset="earliest", **options) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition], timeout_ms=int(timeout_s * 1000))[partition]
        # Compaction leaves holes: the position says how far we are, not the records.
        while (consumer.position(partition, timeout_ms=_POLL_MS) or 0) < end:
            if time.monotonic() > deadline:
                raise BrokerUnreachableError(
                    f"topic {topic} at {settings.bootstrap_server} could not be read in {timeout_s:g} s"
                )
            found += [(record.key, record.value) for record in consumer.poll(_POLL_MS).get(partition, ())]
    return found


async def _read_leniently(settings: Settings, topic: str) -> list[KeyAndValue]:
    reader = TopicReader(settings)
    found: list[KeyAndValue] = []
    try:
        first, end = (await reader.bounds(topic, [_PARTITION]))[_PARTITION]
        async for records in reader.read_leniently(topic, _PARTITION, first, end):
            found += [(item.key, item.value) for item in records if not isinstance(item, UnreadableRange)]
    finally:
        await reader.close()
    return found


def _in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result, whether or not this thread has a loop that runs."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="lenient reading")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
