"""What commands share that look into topics once: how many partitions there are, a reader, errors in words."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.errors import KafkaError

from turnlog.client.patience import CONNECT_TIMEOUT_S
from turnlog.client.request_sender import RequestSender
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError
from turnlog_workers.kafka.topic_reader import TopicReader
from turnlog_workers.kafka.unreachable import unreachable


async def count_partitions(settings: Settings, *topics: str) -> list[list[int]]:
    """The partitions of each topic.

    Raises :class:`BrokerUnreachableError`, or :class:`NotFoundError` for a topic that is not there.
    """
    sender = RequestSender(
        settings,
        client_id="turnlog-look",
        connect_timeout_s=CONNECT_TIMEOUT_S,
        send_timeout_s=CONNECT_TIMEOUT_S,
    )
    try:
        return [await sender.partitions(topic) for topic in topics]
    finally:
        await sender.stop()


@asynccontextmanager
async def topic_reader(settings: Settings) -> AsyncIterator[TopicReader]:
    """A reader that is closed at the end."""
    reader = TopicReader(settings)
    try:
        yield reader
    finally:
        await reader.close()


@asynccontextmanager
async def in_words(settings: Settings, topic: str) -> AsyncIterator[None]:
    """What a reader raises, as a :class:`BrokerUnreachableError`."""
    try:
        yield
    except (LogError, KafkaError, OSError) as error:
        cause = error.__cause__ if isinstance(error, LogError) and error.__cause__ is not None else error
        raise unreachable(settings, cause, f"topic {topic} cannot be read") from error
