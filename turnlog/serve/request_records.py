"""Looking a turn up by its id: the request that it began with, and where its frames begin.

A turn's id names the place of its request in the requests topic, which keeps it for days; so whatever the request said
needs no other store.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from turnlog.client.request_sender import PreparedRequest, stop_quietly
from turnlog.serve.http_errors import unavailable
from turnlog.serve.turn_ids import TurnRef
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.errors import WireError
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.connections import client_options

log = logging.getLogger(__name__)
T = TypeVar("T")
_TIMEOUT_S = 10.0
_FETCH_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """The request that a turn began with."""

    turn: TurnRef
    request_id: str
    header: RequestHeader
    chat: Chat
    stored_at_ms: int  #: by the clock of whoever sent it
    prepared: PreparedRequest  #: to send it again


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyBounds:
    """Of one partition of the reply topic."""

    first: int
    end: int
    start: int  #: of the first record at the time that was asked for, or later


class RequestRecords:
    """Reads single records, and asks where they are.

    One consumer reads, for one at a time, as it has one assignment. Another one asks, for any number at once: when a
    gateway dies all of its streams come to another one, and each has to be looked up before it goes on.
    """

    def __init__(self, settings: Settings, client_id: str, partitions: int) -> None:
        self._partitions = partitions
        self._settings = settings
        self._codec = RequestCodec()
        self._reading = asyncio.Lock()
        self._reader = _Consumer(settings, client_id, shared=False)
        self._asker = _Consumer(settings, f"{client_id}-bounds", shared=True)

    async def request(self, turn: TurnRef) -> TurnRequest | None:
        """The request of a turn; ``None`` where there is no chat request of that session (any more)."""
        if turn.partition >= self._partitions:
            return None
        tp = TopicPartition(self._settings.topics.requests, turn.partition)
        record = await self._record(tp, turn.offset)
        if record is None or (record.key or turn.session_id.encode()) != turn.session_id.encode():
            return None
        try:
            header, command, _ = self._codec.decode_request(record.value)
        except WireError:
            return None
        if not isinstance(command, Chat) or (header.session_id or turn.session_id) != turn.session_id:
            return None
        request_id = header.request_id or f"{tp.topic}-{turn.partition}-{turn.offset}"
        return TurnRequest(
            turn=turn,
            request_id=request_id,
            header=header,
            chat=command,
            stored_at_ms=record.timestamp,
            prepared=PreparedRequest(
                key=turn.session_id, request_id=request_id, value=record.value, headers=tuple(record.headers)
            ),
        )

    async def replies_at(self, partition: int, at_ms: int) -> ReplyBounds:
        """The reply topic's partition, and where in it a time is."""
        tp = TopicPartition(self._settings.topics.replies, partition)

        async def look(consumer: AIOKafkaConsumer) -> ReplyBounds:
            (first, end), times = await asyncio.gather(
                _bounds(consumer, tp), consumer.offsets_for_times({tp: max(0, at_ms)})
            )
            found = times.get(tp)
            return ReplyBounds(first=first, end=end, start=end if found is None else found.offset)

        return await self._asker.use(look)

    async def _record(self, tp: TopicPartition, offset: int) -> Any:
        async def look(consumer: AIOKafkaConsumer) -> Any:
            consumer.assign([tp])
            consumer.seek(tp, offset)
            try:
                found = await consumer.getmany(tp, timeout_ms=_FETCH_MS, max_records=1)
            finally:
                consumer.unsubscribe()
            records = found.get(tp) or []
            return records[0] if records and records[0].offset == offset else None

        first, end = await self._asker.use(lambda consumer: _bounds(consumer, tp))
        if not first <= offset < end:
            return None
        async with self._reading:
            return await self._reader.use(look)

    async def aclose(self) -> None:
        """Disconnect."""
        await self._reader.aclose()
        await self._asker.aclose()


async def _bounds(consumer: AIOKafkaConsumer, tp: TopicPartition) -> tuple[int, int]:
    first, end = await asyncio.gather(consumer.beginning_offsets([tp]), consumer.end_offsets([tp]))
    return first[tp], end[tp]


class _Consumer:
    """A consumer that is connected when it is first used, and anew after whatever went wrong."""

    def __init__(self, settings: Settings, client_id: str, *, shared: bool) -> None:
        """``shared``: it is used by many at a time, so who gives up leaves it to the others."""
        self._settings = settings
        self._client_id = client_id
        self._shared = shared
        self._connecting = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None

    async def use(self, look: Callable[[AIOKafkaConsumer], Awaitable[T]]) -> T:
        """What ``look`` finds with it. Raises 503."""
        used: AIOKafkaConsumer | None = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                used = await self._connected()
                return await look(used)
        except (KafkaError, OSError) as error:  # a TimeoutError is an OSError
            await self._forget(used)
            log.warning("a request cannot be looked up: %s", type(error).__name__)
            raise unavailable("Kafka does not answer; try again") from error
        except BaseException:
            if not self._shared:
                await self._forget(used)  # in the middle of something: its assignment is not ours
            raise

    async def _connected(self) -> AIOKafkaConsumer:
        async with self._connecting:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(
                    **client_options(self._settings, self._client_id),
                    group_id=None,
                    enable_auto_commit=False,
                    auto_offset_reset="none",
                    max_partition_fetch_bytes=64 * 1024,  # a larger record comes all the same
                )
                try:
                    await consumer.start()
                except BaseException:
                    await stop_quietly(consumer)
                    raise
                self._consumer = consumer
            return self._consumer

    async def aclose(self) -> None:
        """Disconnect."""
        await self._forget(self._consumer)

    async def _forget(self, consumer: AIOKafkaConsumer | None) -> None:
        """It is connected anew when it is used again. Somebody else may have done so."""
        if consumer is not None and consumer is self._consumer:
            self._consumer = None
            with contextlib.suppress(asyncio.CancelledError):
                await stop_quietly(consumer)
