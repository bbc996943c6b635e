"""Reading ranges of a topic at explicit positions: no group, no silent reset.

A small pool of aiokafka consumers serves all partitions of a worker: catching up, looking into gaps, and reading
requests that Faust did not deliver.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    KafkaError,
    OffsetOutOfRangeError,
)

from workers.config import Settings
from workers.connections import REFUSALS, client_options
from workers.ports import LogAuthorizationError, LogBrokenError, LogError

#: So many records are decoded between two turns of the event loop: about 10 ms of it.
_MAX_RECORDS = 500
_STOP_TIMEOUT_S = 5.0


class TopicReader:
    """A pool of ``size`` consumers, made when first needed and replaced when they fail."""

    def __init__(self, settings: Settings, *, size: int = 3) -> None:
        self._settings = settings
        self._idle: asyncio.LifoQueue[AIOKafkaConsumer | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._idle.put_nowait(None)
        self._closed = False

    @contextlib.asynccontextmanager
    async def _consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A started consumer of one's own; one that fails is closed, not given to the next."""
        consumer = await self._idle.get()
        try:
            if consumer is None:
                consumer = await self._start()
            yield consumer
        except BaseException as error:
            broken, consumer = consumer, None
            if broken is not None:
                await self._stop(broken)
            if isinstance(error, REFUSALS):
                raise LogAuthorizationError(f"the broker refuses to let us read: {error}") from error
            if isinstance(error, KafkaError | OSError):  # a timeout is an OSError, too
                raise LogError(f"cannot read from the broker: {type(error).__name__}: {error}") from error
            raise
        finally:
            if self._closed and consumer is not None:
                await self._stop(consumer)
                consumer = None
            self._idle.put_nowait(consumer)

    async def _start(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **client_options(self._settings, "turnlog-reader"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=100,
            max_poll_records=_MAX_RECORDS,
            max_partition_fetch_bytes=8 * 1024 * 1024,
            request_timeout_ms=int(self._settings.append_timeout_s * 1000),
        )
        try:
            async with asyncio.timeout(self._settings.startup_timeout_s):
                await consumer.start()
        except BaseException:
            await self._stop(consumer)
            raise
        return consumer

    async def _stop(self, consumer: AIOKafkaConsumer) -> None:
        with contextlib.suppress(Exception):  # it is broken or unneeded: nothing depends on how it ends
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await consumer.stop()

    async def close(self) -> None:
        """Stop the idle consumers; those in use stop when they are given back."""
        self._closed = True
        while not self._idle.empty():
            consumer = self._idle.get_nowait()
            if consumer is not None:
                await self._stop(consumer)

    async def bounds(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        """First offset and end offset of each partition. Raises :class:`LogError`."""
        wanted = [TopicPartition(topic, p) for p in partitions]
        timeout_s = self._settings.append_timeout_s
        async with self._consumer() as consumer:
            try:
                async with asyncio.timeout(2 * timeout_s):
                    first = await consumer.beginning_offsets(wanted)
                    end = await consumer.end_offsets(wanted)
            except TimeoutError as error:
                raise LogError(f"{topic}: the broker did not tell its offsets within {timeout_s} s") from error
        return {tp.partition: (first[tp], end[tp]) for tp in wanted}

    async def ends(self, topic: str, partitions: Sequence[int]) -> Mapping[int, int]:
        """End offset of each partition. Raises :class:`LogError`."""
        wanted = [TopicPartition(topic, p) for p in partitions]
        timeout_s = self._settings.append_timeout_s
        async with self._consumer() as consumer:
            try:
                async with asyncio.timeout(timeout_s):
                    end = await consumer.end_offsets(wanted)
            except TimeoutError as error:
                raise LogError(f"{topic}: the broker did not tell its offsets within {timeout_s} s") from error
        return {tp.partition: end[tp] for tp in wanted}

    async def read(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[list[Any]]:
        """Records from ``start`` up to ``end`` (exclusive), in batches.

        ``end`` must not lie behind the log's end. Raises :class:`LogBrokenError` where the broker has no such offset.
        """
        if start >= end:
            return
        tp = TopicPartition(topic, partition)
        loop = asyncio.get_running_loop()
        async with self._consumer() as consumer:
            consumer.assign([tp])
            consumer.seek(tp, start)
            deadline = loop.time() + self._settings.startup_timeout_s
            position = start
            while position < end:
                try:
                    fetched = await consumer.getmany(tp, timeout_ms=500, max_records=_MAX_RECORDS)
                except OffsetOutOfRangeError as error:
                    raise LogBrokenError(
                        f"{topic}[{partition}]@{position} is not there any more: the topic lost records "
                        "or was re-created"
                    ) from error
                records = [record for record in fetched.get(tp, []) if record.offset < end]
                if fetched.get(tp):
                    deadline = loop.time() + self._settings.startup_timeout_s
                    position = fetched[tp][-1].offset + 1
                else:  # transaction markers move the position without a record
                    position = max(position, await consumer.position(tp))
                if records:
                    yield records
                elif position < end and loop.time() > deadline:
                    raise LogError(
                        f"{topic}[{partition}]@{position}: nothing came within {self._settings.startup_timeout_s} s, "
                        f"although the log ends at {end}"
                    )
