"""Consumers that are lent for a while: made when first needed, replaced when they fail, and nobody waits for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from turnlog_workers.base.config import MIB, Settings
from turnlog_workers.base.ports import LogAuthorizationError, LogError
from turnlog_workers.kafka.connections import REFUSALS, client_options

#: So many records are decoded between two turns of the event loop: about 10 ms of it.
MAX_RECORDS = 500
_STOP_TIMEOUT_S = 5.0


class ReaderPool:
    """At most ``size`` consumers for one use; who asks first is served first."""

    def __init__(
        self, settings: Settings, use: str, *, size: int, committed: bool = False, fetch_bytes: int = 8 * MIB
    ) -> None:
        """``committed``: records of transactions count once those are committed. ``use`` is for sentences.

        ``fetch_bytes``: asked for at once; a batch that is larger comes all the same.
        """
        self._settings = settings
        self._use = use
        self._size = size
        self._fetch_bytes = fetch_bytes
        self._isolation = "read_committed" if committed else "read_uncommitted"
        self._free = asyncio.Semaphore(size)
        self._idle: list[AIOKafkaConsumer] = []
        self._waiting = 0
        self._closed = False

    @property
    def crowded(self) -> bool:
        """Does somebody wait for a consumer?"""
        return self._waiting > 0

    @contextlib.asynccontextmanager
    async def consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A started consumer of one's own; one that fails is closed, not given to the next.

        Raises :class:`LogError`, also when none is free in time: ``startup_timeout_s`` for each who waits before us.
        """
        await self._turn()
        consumer = self._idle.pop() if self._idle else None
        try:
            if consumer is None:
                consumer = await self._start()
            yield consumer
            consumer.pause(*consumer.assignment())  # it would go on fetching while nobody reads
        except BaseException as error:
            broken, consumer = consumer, None
            if broken is not None:
                await _stop(broken)
            if isinstance(error, REFUSALS):
                raise LogAuthorizationError(f"the broker refuses to let us read: {error}") from error
            if isinstance(error, KafkaError | OSError):  # a timeout is an OSError, too
                raise LogError(f"cannot read from the broker: {type(error).__name__}: {error}") from error
            raise
        finally:
            if consumer is not None:
                if self._closed:
                    await _stop(consumer)
                else:
                    self._idle.append(consumer)
            self._free.release()

    async def _turn(self) -> None:
        limit_s = self._settings.startup_timeout_s * (1 + self._waiting // self._size)
        self._waiting += 1
        try:
            async with asyncio.timeout(limit_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise LogError(
                f"no reader for {self._use} was free within {limit_s:g} s: {self._size} are in use, "
                f"{self._waiting - 1} others wait"
            ) from error
        finally:
            self._waiting -= 1

    async def _start(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **client_options(self._settings, "turnlog-reader"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=self._isolation,
            fetch_max_wait_ms=100,
            max_poll_records=MAX_RECORDS,
            max_partition_fetch_bytes=self._fetch_bytes,
            request_timeout_ms=int(self._settings.append_timeout_s * 1000),
        )
        try:
            async with asyncio.timeout(self._settings.startup_timeout_s):
                await consumer.start()
        except BaseException:
            await _stop(consumer)
            raise
        return consumer

    async def close(self) -> None:
        """Stop the idle consumers; those in use stop when they are given back."""
        self._closed = True
        while self._idle:
            await _stop(self._idle.pop())


async def _stop(consumer: AIOKafkaConsumer) -> None:
    with contextlib.suppress(Exception):  # it is broken or unneeded: nothing depends on how it ends
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await consumer.stop()
