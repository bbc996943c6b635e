"""The client's connections: an idempotent producer for requests, consumers at explicit positions for replies."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber, ProducerClosed, UnknownProducerId

from streams.topics import partition_of
from turnlog.errors import BrokerUnreachableError, NotFoundError, RequestRefusedError
from turnlog.replies import Position
from workers.config import Settings
from workers.connections import REFUSED_RECORDS, client_options, what_to_check
from workers.topics_admin import max_message_bytes

log = logging.getLogger(__name__)
_STOP_TIMEOUT_S = 5.0
_POLL_TIMEOUT_MS = 500
_MAX_RECORDS = 500
_MAX_FETCH_BYTES = 9 * 1024 * 1024  #: above the largest record of the reply topic
_TOPIC_POLL_S = 0.1
_BATCH_BYTES = 16 * 1024  #: of requests that travel together; a longer one travels alone
_SEND_ATTEMPTS = 3
_ASK_LIMIT_S = 5.0
_GRACE_S = 0.2  #: what is under way at the moment gets as long to be acknowledged
#: Nothing is stored: the refusal of another request broke the sequence that this one was numbered in.
_BROKEN_SEQUENCE = (OutOfOrderSequenceNumber, ProducerClosed, UnknownProducerId)


def unreachable(settings: Settings, what: str, error: BaseException) -> BrokerUnreachableError:
    """The error for a broker that does not answer, with what to check."""
    name = type(error).__name__
    text = str(error).removeprefix(f"{name}: ")  # aiokafka's errors begin with their name
    detail = f"{name}: {text}" if text else name
    return BrokerUnreachableError(
        f"{what} at {settings.bootstrap_server} ({detail}). Is the broker running there? "
        "Start one with `turnlog up`, or name yours with --bootstrap-server or TURNLOG_BOOTSTRAP_SERVER. "
        f"{what_to_check(settings, error)}"
    )


async def _stop_quietly(client: Any) -> None:
    """It is broken or not needed any more: nothing depends on how it ends.

    In a task of its own, since without a broker aiokafka's consumer ends its ``stop()`` with a ``CancelledError`` that
    is not ours: it would take the place of the error that is on its way.
    """
    stopping = asyncio.ensure_future(client.stop())
    try:
        await asyncio.wait([stopping], timeout=_STOP_TIMEOUT_S)
    finally:
        stopping.cancel()  # nothing happens to one that is done
    if stopping.done() and not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.debug("a client did not stop in order: %s", type(error).__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A request as it goes on the wire; the same bytes each time that it is sent."""

    key: str  #: session id or channel
    request_id: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    kind: str = "session"  #: or ``channel``

    @property
    def size_bytes(self) -> int:
        """Of key, value and headers."""
        headers = sum(len(name) + len(content) for name, content in self.headers)
        return len(self.key.encode()) + len(self.value) + headers

    @property
    def what(self) -> str:
        """The request in words, for sentences about it."""
        return f"{self.kind} {self.key}, request {self.request_id}"


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class RequestSender:
    """Sends requests. A producer that failed once is replaced: aiokafka's never heals a broken sequence."""

    def __init__(self, settings: Settings, *, client_id: str, connect_timeout_s: float, send_timeout_s: float) -> None:
        self._settings = settings
        self._client_id = client_id
        self._connect_timeout_s = connect_timeout_s
        self._send_timeout_s = send_timeout_s
        self._producer: AIOKafkaProducer | None = None
        self._replaced: asyncio.Future[None] | None = None  # of the producer: done soon after it was discarded
        self._starting = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()

    async def start(self) -> AIOKafkaProducer:
        """The started producer. Raises :class:`BrokerUnreachableError`."""
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **client_options(self._settings, self._client_id),
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=_BATCH_BYTES,
                    max_request_size=2 * self._settings.max_request_bytes,  # judged here, by what the worker takes
                )
                try:
                    async with asyncio.timeout(self._connect_timeout_s):
                        await producer.start()
                except BaseException as error:
                    self._retire(producer)  # nobody waits for that: somebody's time is up
                    if isinstance(error, KafkaError | OSError):  # a TimeoutError is an OSError
                        raise unreachable(self._settings, "no broker answers", error) from error
                    raise
                self._producer = producer
                self._replaced = asyncio.get_running_loop().create_future()
            return self._producer

    async def stop(self) -> None:
        """Send what is under way and disconnect, within a few seconds."""
        if self._producer is not None:
            self._discard(self._producer)
        if self._stopping:
            await asyncio.wait(self._stopping)

    def _discard(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            replaced, self._producer, self._replaced = self._replaced, None, None
            if replaced is not None:
                asyncio.get_running_loop().call_later(_GRACE_S, _set, replaced)
            self._retire(producer)

    def _retire(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.create_task(_stop_quietly(producer))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic. Raises :class:`NotFoundError` or :class:`BrokerUnreachableError`."""
        producer = await self.start()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                # Asked over and over: a topic that was just made is not known everywhere at once.
                for _ in range(10):
                    metadata = await producer.client.fetch_all_metadata()
                    if topic in metadata.topics():
                        return sorted(await producer.partitions_for(topic))
                    await asyncio.sleep(_TOPIC_POLL_S)
        except (KafkaError, OSError) as error:
            raise unreachable(self._settings, "the broker does not describe its topics", error) from error
        raise NotFoundError(
            f"topic {topic} does not exist at {self._settings.bootstrap_server}: make the topics with "
            "`turnlog topics init`, or name another prefix with TURNLOG_PREFIX"
        )

    async def send(self, topic: str, request: PreparedRequest, *, partition_count: int) -> Position:
        """Where the acknowledged request is, within the time limit.

        ``partition_count``: of the deployment; the topic may have got more, in which no session lives.
        Raises :class:`BrokerUnreachableError`, or :class:`RequestRefusedError` for what the broker does not take.
        """
        if request.size_bytes > (limit := self._settings.max_request_bytes):
            raise RequestRefusedError(
                "too_long", f"{request.what}: it has {request.size_bytes} bytes; at most {limit} are sent"
            )
        try:
            async with asyncio.timeout(self._send_timeout_s):
                return await self._sent(topic, request, partition_of(request.key.encode(), partition_count))
        except TimeoutError as error:
            raise self._not_acknowledged(request, error) from error

    async def _sent(self, topic: str, request: PreparedRequest, partition: int) -> Position:
        """Sent, and again where the refusal of somebody else's request took this one with it."""
        attempt = 0
        while True:
            attempt += 1
            producer = await self.start()
            try:
                sending = self._send_with(producer, topic, partition, request, alone=attempt > 1)
                return await self._unless_replaced(sending)
            except REFUSED_RECORDS as error:
                self._discard(producer)  # the refused batch took a sequence number with it
                alone = attempt > 1 or request.size_bytes >= _BATCH_BYTES
                if alone or attempt == _SEND_ATTEMPTS:
                    raise await self._refused(topic, request, error) from error
            except _BROKEN_SEQUENCE as error:
                self._discard(producer)
                if attempt == _SEND_ATTEMPTS:
                    raise self._not_acknowledged(request, error) from error
            except TimeoutError:
                self._discard(producer)
                raise
            except (KafkaError, OSError) as error:
                self._discard(producer)
                raise self._not_acknowledged(request, error) from error

    async def _unless_replaced(self, send: Coroutine[Any, Any, Position]) -> Position:
        """What the current producer makes of it. Raises ``ProducerClosed`` when another request's refusal ended it.

        A discarded producer does not even fail what it still holds. Sent again it may be there twice: one id, one turn.
        """
        replaced = self._replaced
        sending = asyncio.ensure_future(send)
        try:
            if replaced is not None:
                await asyncio.wait((sending, replaced), return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    raise ProducerClosed
            return await sending
        finally:
            sending.cancel()

    async def _send_with(
        self, producer: AIOKafkaProducer, topic: str, partition: int, request: PreparedRequest, *, alone: bool
    ) -> Position:
        key, headers = request.key.encode(), list(request.headers)
        if alone and request.size_bytes < _BATCH_BYTES:
            batch = producer.create_batch()
            fits = batch.append(timestamp=None, key=key, value=request.value, headers=headers)
            if fits is not None:
                batch.close()
                stored = await (await producer.send_batch(batch, topic, partition=partition))
                return Position(partition=stored.partition, offset=stored.offset)
        stored = await producer.send_and_wait(topic, value=request.value, key=key, partition=partition, headers=headers)
        return Position(partition=stored.partition, offset=stored.offset)

    def _not_acknowledged(self, request: PreparedRequest, error: Exception) -> BrokerUnreachableError:
        return unreachable(
            self._settings,
            f"{request.what}: not acknowledged within {self._send_timeout_s:g} s; it may be stored all "
            "the same, so send it again with the same id. No answer",
            error,
        )

    async def _refused(self, topic: str, request: PreparedRequest, error: Exception) -> RequestRefusedError:
        """The verdict of the broker in words, with the topic's limit if the broker tells it."""
        name = type(error).__name__
        try:
            limit = await asyncio.to_thread(max_message_bytes, self._settings, topic, timeout_s=_ASK_LIMIT_S)
        except Exception as reason:  # a right that is lacking, a broker that is gone: the verdict stands
            log.debug("the limit of %s is not known: %s", topic, type(reason).__name__)
            limit = None
        told = f"max.message.bytes is {limit}" if limit else "see its max.message.bytes"
        return RequestRefusedError(
            "too_long",
            f"{request.what}: it has {request.size_bytes} bytes; the broker does not take it for topic {topic} "
            f"({name}; {told})",
        )


class ReplyConsumer:
    """Reads the reply topic from positions that are fixed when ``start`` returns. No group, nothing committed."""

    def __init__(self, settings: Settings, *, client_id: str, connect_timeout_s: float) -> None:
        self._settings = settings
        self._connect_timeout_s = connect_timeout_s
        # Trimmed while we read: go on with what is left. Re-sent terminal frames make good for what is gone.
        self._consumer = AIOKafkaConsumer(
            **client_options(settings, client_id),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_POLL_TIMEOUT_MS,
            max_partition_fetch_bytes=_MAX_FETCH_BYTES,
            max_poll_records=_MAX_RECORDS,
        )

    async def start(self, topic: str, partitions: list[int], choose: "StartAt") -> None:
        """Connect and fix the positions. Raises :class:`BrokerUnreachableError`, or what ``choose`` raises."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._consumer.start()
                self._consumer.assign(wanted)
                first = await self._consumer.beginning_offsets(wanted)
                end = await self._consumer.end_offsets(wanted)
            starts = choose({tp.partition: (first[tp], end[tp]) for tp in wanted})
            for tp in wanted:
                self._consumer.seek(tp, starts[tp.partition])
        except BaseException as error:
            await self.stop()
            if isinstance(error, KafkaError | OSError):
                raise unreachable(self._settings, f"topic {topic} cannot be read", error) from error
            raise

    async def end_offsets(self, topic: str, partitions: list[int]) -> dict[int, int] | None:
        """By partition: the offset of a topic's next record. ``None``: the broker will not tell us."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                end = await self._consumer.end_offsets([TopicPartition(topic, partition) for partition in partitions])
        except (KafkaError, OSError) as error:
            log.info("the end of %s is not known: %s", topic, type(error).__name__)
            return None
        return {tp.partition: offset for tp, offset in end.items()}

    async def batches(self) -> AsyncIterator[list[Any]]:
        """Records as they come, of one partition in order, without end. Raises :class:`BrokerUnreachableError`."""
        while True:
            try:
                fetched = await self._consumer.getmany(timeout_ms=_POLL_TIMEOUT_MS, max_records=_MAX_RECORDS)
            except KafkaError as error:
                raise unreachable(self._settings, "the reply topic cannot be read any more", error) from error
            for records in fetched.values():
                yield records

    async def stop(self) -> None:
        """Disconnect, within a few seconds."""
        await _stop_quietly(self._consumer)


#: From the first and the end offset of each partition to where reading starts.
StartAt = Callable[[Mapping[int, tuple[int, int]]], Mapping[int, int]]


def from_end(bounds: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
    """Only what comes from now on."""
    return {partition: end for partition, (_, end) in bounds.items()}


def from_beginning(bounds: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
    """All that the topic still holds."""
    return {partition: first for partition, (first, _) in bounds.items()}


def after(position: Position, topic: str) -> StartAt:
    """What follows a record. Raises :class:`NotFoundError` when the topic does not hold that place any more."""

    def choose(bounds: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
        first, end = bounds[position.partition]
        start = position.offset + 1
        if not first <= start <= end:
            raise NotFoundError(
                f"{topic}[{position.partition}]@{start} is not there (it holds {first} to {end - 1}): reply frames are "
                "kept for a day only. Read the session's history instead."
            )
        return {**from_end(bounds), position.partition: start}

    return choose
