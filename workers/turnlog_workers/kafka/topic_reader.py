"""Reading ranges of a topic at explicit positions: no group, no silent reset.

Catching up, looking into gaps, reading requests that Faust did not deliver, and asking where topics end: each use has
a few consumers of its own, so that none can starve another one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from turnlog_workers.base.config import MIB, Settings
from turnlog_workers.base.errors import TurnlogError
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import LogBrokenError, LogError
from turnlog_workers.kafka.batch_codecs import bound_aiokafka
from turnlog_workers.kafka.raw_fetch import fetch_batches, is_unreadable, what_is_wrong
from turnlog_workers.kafka.reader_pool import MAX_RECORDS, ReaderPool
from turnlog_workers.kafka.record_batches import FetchedBatches, take_apart

log = logging.getLogger(__name__)
_POLL_MS = 50  #: aiokafka does not tell of a fetch that had markers only: the position is looked at so often
_LONG_RANGE = 2_000  #: records; what is longer must not keep short reads waiting
_TURN_S = 2.0  #: then a long read lets those go first who wait

bound_aiokafka()


class BatchUnreadableError(LogError):
    """The client library cannot read on; ``offset`` is the first one that it did not read."""

    def __init__(self, where: str, offset: int, error: BaseException) -> None:
        super().__init__(f"{where}@{offset} or a record shortly behind it cannot be read: {what_is_wrong(error)}")
        self.offset = offset


class TopicReader:
    """Consumers for all that a worker reads beside Faust."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._long = ReaderPool(settings, "catching up", size=3)
        self._short = ReaderPool(settings, "looking into gaps", size=2)
        self._committed = ReaderPool(settings, "requests", size=3, committed=True, fetch_bytes=MIB)
        self._ends = ReaderPool(settings, "asking where topics end", size=1)
        self._stable_ends = ReaderPool(settings, "asking where requests end", size=1, committed=True)

    def _pools(self) -> tuple[ReaderPool, ...]:
        return (self._long, self._short, self._committed, self._ends, self._stable_ends)

    async def close(self) -> None:
        """Stop the idle consumers; those in use stop when they are given back."""
        for pool in self._pools():
            await pool.close()

    async def topics(self) -> set[str]:
        """The topics that there are. Raises :class:`LogError`."""
        async with self._ends.consumer() as consumer:
            return set(await self._in_time("the broker's topics", consumer.topics()))

    async def bounds(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        """First offset and end offset of each partition. Raises :class:`LogError`."""
        wanted = [TopicPartition(topic, p) for p in partitions]
        async with self._ends.consumer() as consumer:
            first = await self._in_time(topic, consumer.beginning_offsets(wanted))
            end = await self._in_time(topic, consumer.end_offsets(wanted))
        return {tp.partition: (first[tp], end[tp]) for tp in wanted}

    async def ends(self, topic: str, partitions: Sequence[int], *, committed: bool = False) -> Mapping[int, int]:
        """End offset of each partition; with ``committed`` the last stable offset: behind it a transaction is open.

        Raises :class:`LogError`.
        """
        wanted = [TopicPartition(topic, p) for p in partitions]
        async with (self._stable_ends if committed else self._ends).consumer() as consumer:
            end = await self._in_time(topic, consumer.end_offsets(wanted))
        return {tp.partition: end[tp] for tp in wanted}

    async def topic_id(self, topic: str) -> str | None:
        """Another one each time that it is made; ``None``: it is not there. Raises :class:`LogError`."""
        from turnlog_workers.kafka.topics_admin import topic_id  # of a worker: clients read topics without kafka-python

        try:
            return await asyncio.to_thread(topic_id, self._settings, topic, timeout_s=self._settings.append_timeout_s)
        except TurnlogError as error:
            raise LogError(f"the id of {topic} is not known: {error}") from error

    async def offset_at(self, topic: str, partition: int, since_ms: int) -> int | None:
        """Of the first record whose time, milliseconds since 1970, is not before that; ``None``: there is none.

        Raises :class:`LogError`.
        """
        tp = TopicPartition(topic, partition)
        async with self._ends.consumer() as consumer:
            found = await self._in_time(topic, consumer.offsets_for_times({tp: since_ms}))
        return None if found[tp] is None else int(found[tp].offset)

    async def _in_time(self, topic: str, question: Any) -> Any:
        timeout_s = self._settings.append_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await question
        except TimeoutError as error:
            raise LogError(f"{topic}: the broker did not tell of them within {timeout_s} s") from error

    def _pool(self, start: int, end: int, *, committed: bool) -> ReaderPool:
        if committed:
            return self._committed
        return self._long if end - start > _LONG_RANGE else self._short

    async def read(
        self, topic: str, partition: int, start: int, end: int, *, committed: bool = False
    ) -> AsyncIterator[list[Any]]:
        """Records from ``start`` up to ``end`` (exclusive), in batches.

        ``end`` must not lie behind the log's end; with ``committed`` (aborted records are ignored), not behind the
        last stable offset. Raises :class:`LogBrokenError` where the broker has no such offset,
        :class:`BatchUnreadableError`, or another :class:`LogError`.
        """
        tp = TopicPartition(topic, partition)
        pool = self._pool(start, end, committed=committed)
        loop = asyncio.get_running_loop()
        position, unreadable = start, None
        while position < end and unreadable is None:
            async with pool.consumer() as consumer:
                consumer.assign([tp])
                consumer.seek(tp, position)
                turn_ends = loop.time() + _TURN_S
                deadline = loop.time() + self._settings.startup_timeout_s
                while position < end:
                    try:
                        records, after = await self._fetch(consumer, tp, position)
                    except BatchUnreadableError as error:
                        unreadable = error  # the consumer is as good as before: it is sought anew for the next read
                        break
                    if after > position:
                        position, deadline = after, loop.time() + self._settings.startup_timeout_s
                    if records and records[-1].offset >= end:
                        records = [record for record in records if record.offset < end]
                    if records:
                        yield records
                    elif position < end:
                        self._check_wait(consumer, tp, position, end, late=loop.time() > deadline, stable=committed)
                    if pool.crowded and loop.time() > turn_ends:
                        break
        if unreadable is not None:
            raise unreadable

    async def _fetch(self, consumer: AIOKafkaConsumer, tp: TopicPartition, position: int) -> tuple[list[Any], int]:
        """The next records (perhaps none) and the position behind them."""
        where = f"{tp.topic}[{tp.partition}]"
        try:
            fetched = await consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=MAX_RECORDS)
        except OffsetOutOfRangeError as error:
            raise LogBrokenError(
                f"{where}@{position} is not there any more: the topic lost records or was re-created"
            ) from error
        except Exception as error:
            if is_unreadable(error):
                raise BatchUnreadableError(where, position, error) from error
            raise
        records: list[Any] = fetched.get(tp, [])
        if records:
            return records, records[-1].offset + 1
        return records, max(position, await consumer.position(tp))  # transaction markers move it without a record

    def _check_wait(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, position: int, end: int, *, late: bool, stable: bool
    ) -> None:
        """Nothing came. Is there still something to wait for?"""
        where = f"{tp.topic}[{tp.partition}]@{position}"
        stable_end = consumer.last_stable_offset(tp) if stable else None
        if stable_end is not None and 0 <= stable_end <= position:
            raise LogError(f"{where}: a transaction is open; up to {end} nothing can be read before it ends")
        if late:
            limit_s = self._settings.startup_timeout_s
            raise LogError(f"{where}: nothing came within {limit_s:g} s, although the log ends at {end}")

    async def read_leniently(
        self, topic: str, partition: int, start: int, end: int, *, committed: bool = False
    ) -> AsyncIterator[list[Any]]:
        """As :meth:`read`, and past what aiokafka cannot read: then record by record.

        Then the items are :class:`LenientRecord`, or an :class:`UnreadableRange`. Raises
        :class:`LogBrokenError` or another :class:`LogError`.
        """
        position = start
        try:
            async for records in self.read(topic, partition, start, end, committed=committed):
                yield records
                position = records[-1].offset + 1
            return
        except BatchUnreadableError as error:
            position = max(position, error.offset)
            place = at(topic=topic, partition=partition, offset=position)
            log.warning("%s; it is taken apart record by record", error, extra=place)
        while position < end:
            fetched = await self._fetch_raw(topic, partition, position, committed=committed)
            where = f"{topic}[{partition}]@{position}"
            if fetched.stable_end <= position:
                raise LogError(f"{where}: a transaction is open; up to {end} nothing can be read before it ends")
            found, after = take_apart(fetched, position, min(end, fetched.stable_end))
            if after == position:
                raise LogError(f"{where}: the broker does not send what is there")
            position = after
            if found:
                yield found

    async def _fetch_raw(self, topic: str, partition: int, start: int, *, committed: bool) -> FetchedBatches:
        """Batches from ``start`` on as the broker stores them. Raises :class:`LogError`."""
        tp = TopicPartition(topic, partition)
        async with (self._committed if committed else self._short).consumer() as consumer:
            consumer.assign([tp])
            consumer.pause(tp)  # its own fetches would only fail
            timeout_s = self._settings.append_timeout_s
            return await fetch_batches(consumer, tp, start, committed=committed, timeout_s=timeout_s)
