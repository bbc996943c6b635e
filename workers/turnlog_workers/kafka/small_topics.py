"""Small topics of one partition, read whole and written now and then: schemas and run-time settings. Blocks."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from itertools import count
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import NotFoundError
from turnlog_workers.base.logs import quiet
from turnlog_workers.base.ports import LogError, UnreadableRange
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.topic_reader import TopicReader
from turnlog_workers.kafka.unreachable import unreachable

_PARTITION = 0
_CONNECTING = Backoff(first_s=0.25, max_s=2.0)

KeyAndValue = tuple[bytes | None, bytes | None]
T = TypeVar("T")


def read_small_topic(settings: Settings, topic: str, *, timeout_s: float) -> list[KeyAndValue]:
    """Every record of the topic. What nobody can parse is ignored: it must not keep anybody from reading the rest.

    A broker that is not there yet is waited for. Raises :class:`BrokerUnreachableError` or :class:`NotFoundError`.
    """
    return _in_a_loop(_in_time(_read(settings, topic, timeout_s), settings, topic, timeout_s))


def write_small_topic(
    settings: Settings, topic: str, records: Iterable[tuple[bytes, bytes | None]], client_id: str, *, timeout_s: float
) -> None:
    """Write keys with their values (``None``: delete the key), acknowledged on return.

    Raises :class:`BrokerUnreachableError` or :class:`NotFoundError`.
    """
    _in_a_loop(_in_time(_write(settings, topic, list(records), client_id), settings, topic, timeout_s))


async def _in_time(work: Coroutine[Any, Any, T], settings: Settings, topic: str, timeout_s: float) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except (LogError, KafkaError, OSError) as error:  # a TimeoutError is an OSError
        cause = error.__cause__ if isinstance(error, LogError) and error.__cause__ is not None else error
        if isinstance(cause, KafkaConnectionError):
            raise unreachable(settings, cause) from error
        raise unreachable(settings, cause, f"topic {topic} cannot be used") from error


async def _read(settings: Settings, topic: str, timeout_s: float) -> list[KeyAndValue]:
    reader = TopicReader(settings)
    found: list[KeyAndValue] = []
    try:
        # Asking for a topic's offsets makes it, where the broker makes topics by itself.
        with quiet("aiokafka"):
            known = await _topics(reader, asyncio.get_running_loop().time() + timeout_s)
        _check(settings, topic, known)
        first, end = (await reader.bounds(topic, [_PARTITION]))[_PARTITION]
        async for records in reader.read_leniently(topic, _PARTITION, first, end):
            found += [(item.key, item.value) for item in records if not isinstance(item, UnreadableRange)]
    finally:
        await reader.close()
    return found


async def _topics(reader: TopicReader, deadline: float) -> set[str]:
    loop = asyncio.get_running_loop()
    for attempt in count(1):
        try:
            return await reader.topics()
        except LogError as error:
            pause_s = _CONNECTING.next_delay(attempt)
            if not isinstance(error.__cause__, KafkaConnectionError) or loop.time() + pause_s >= deadline:
                raise
        await asyncio.sleep(pause_s)
    raise AssertionError("counting ends")


async def _write(settings: Settings, topic: str, records: Iterable[tuple[bytes, bytes | None]], client_id: str) -> None:
    async with AIOKafkaProducer(**client_options(settings, client_id), acks="all") as producer:
        metadata = await producer.client.fetch_all_metadata()
        _check(settings, topic, set(metadata.topics()))
        sent = [await producer.send(topic, key=key, value=value, partition=_PARTITION) for key, value in records]
        await asyncio.gather(*sent)


def _check(settings: Settings, topic: str, known: set[str]) -> None:
    if topic not in known:
        raise NotFoundError(
            f"topic {topic} does not exist at {settings.bootstrap_server}: make the topics with `turnlog topics init`, "
            "or name another prefix with TURNLOG_PREFIX"
        )


def _in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result, whether or not this thread has a loop that runs."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="a small topic")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
