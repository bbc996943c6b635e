""":class:`RequestLog` on Kafka: any range of the requests, whatever its producers put into it.

aiokafka reads as long as it can. Where it cannot, the batches are fetched as they are and taken apart record by record
(:mod:`turnlog_workers.kafka.record_batches`): what is wrong with one is said of that one, and its neighbours are read.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import Headers, LogBrokenError, LogError, RequestRecord, UnreadableRange
from turnlog_workers.kafka.record_batches import LenientRecord
from turnlog_workers.kafka.topic_reader import TopicReader


def request_headers(headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    """Headers as requests have them: a value that is null is an empty one."""
    return tuple((name, value or b"") for name, value in headers)


class KafkaRequestLog:
    """:class:`RequestLog` on Kafka."""

    def __init__(self, settings: Settings, reader: TopicReader) -> None:
        self._topic = settings.topics.requests
        self._reader = reader

    async def read(self, partition: int, start: int, end: int) -> AsyncIterator[list[RequestRecord | UnreadableRange]]:
        try:
            async for found in self._reader.read_leniently(self._topic, partition, start, end, committed=True):
                yield [item if isinstance(item, UnreadableRange) else _request(partition, item) for item in found]
        except LogBrokenError as error:
            # Retention took them since we asked where the topic begins: whoever asks again learns which ones are lost.
            raise LogError(str(error)) from error

    async def bounds(self, partition: int) -> tuple[int, int]:
        return (await self._reader.bounds(self._topic, [partition]))[partition]

    async def stable_ends(self, partitions: Sequence[int]) -> Mapping[int, int]:
        return await self._reader.ends(self._topic, partitions, committed=True)


def _request(partition: int, record: Any) -> RequestRecord:
    return RequestRecord(
        partition=partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=request_headers(record.headers),
        problem=record.problem if isinstance(record, LenientRecord) else None,
    )
