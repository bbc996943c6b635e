"""The client's way to the requests topic: an idempotent producer that is replaced when it is broken."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    TopicAuthorizationFailedError,
    UnknownProducerId,
)
from aiokafka.protocol.metadata import MetadataRequest

from turnlog.client.replies import Position
from turnlog.errors import BrokerUnreachableError, NotFoundError, RequestRefusedError
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerRefusesError
from turnlog_workers.kafka.connections import REFUSED_RECORDS, SET_THE_CLOCK, WRONG_CLOCK, client_options
from turnlog_workers.kafka.given_up import give_up
from turnlog_workers.kafka.topic_limits import max_message_bytes
from turnlog_workers.kafka.unreachable import unreachable

log = logging.getLogger(__name__)
_STOP_TIMEOUT_S = 5.0
_TOPIC_POLL_S = 0.1
_BATCH_BYTES = 16 * 1024  #: of requests that travel together; a longer one travels alone
_RETRY_S = 0.2
_NODE_S = 5.0
_ASK_LIMIT_S = 5.0
_GRACE_S = 0.2  #: what is under way at the moment gets as long to be acknowledged
#: Nothing is stored: the refusal of another request broke the sequence that this one was numbered in.
_BROKEN_SEQUENCE = (OutOfOrderSequenceNumber, ProducerClosed, UnknownProducerId)


async def stop_quietly(client: Any) -> None:
    """It is broken or not needed any more: nothing depends on how it ends, and after some seconds nothing of it runs.

    In a task of its own, since without a broker aiokafka's consumer ends its ``stop()`` with a ``CancelledError`` that
    is not ours: it would take the place of the error that is on its way.
    """
    stopping = asyncio.ensure_future(client.stop())
    try:
        await asyncio.wait([stopping], timeout=_STOP_TIMEOUT_S)
    finally:
        if not stopping.done():
            stopping.cancel()
            if isinstance(client, AIOKafkaProducer):
                give_up(client)
    if stopping.done() and not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.debug("a client did not stop in order: %s", type(error).__name__)


def node_timeout_s(connect_timeout_s: float) -> float:
    """How long one node is waited for. While it stands still others may answer, and soon one of them leads.

    aiokafka meets such a node three times before it asks another one who leads now: when it sends, when it asks for
    that, and when it connects again. All three must pass within the time that a request has (30 s).
    """
    return min(_NODE_S, connect_timeout_s / 2)


async def start_patiently(client: Any, node_s: float) -> None:
    """Start a client of aiokafka, over and over where nobody has refused it: the time limit is the caller's.

    Raises what ``client.start()`` raises of a broker that is not there.
    """
    while True:
        began = time.monotonic()
        try:
            await client.start()
            return
        except KafkaConnectionError:
            if time.monotonic() - began < node_s:
                raise


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


async def _refuse_hidden(client: Any, topic: str) -> None:
    """A list of all topics has only those that this user may see: asked for by its name, the broker says that.

    Raises ``TopicAuthorizationFailedError``.
    """
    request = MetadataRequest([topic], allow_auto_topic_creation=False)
    answer = await client.send(client.get_random_node(), request)
    if any(code == TopicAuthorizationFailedError.errno for code, *_ in answer.topics):
        raise TopicAuthorizationFailedError(topic)


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
                node_s = node_timeout_s(self._connect_timeout_s)
                producer = AIOKafkaProducer(
                    **client_options(self._settings, self._client_id),
                    request_timeout_ms=int(node_s * 1000),
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=_BATCH_BYTES,
                    max_request_size=2 * self._settings.max_request_bytes,  # judged here, by what the worker takes
                )
                try:
                    async with asyncio.timeout(self._connect_timeout_s):
                        await start_patiently(producer, node_s)
                except BaseException as error:
                    self._retire(producer)  # nobody waits for that: somebody's time is up
                    if isinstance(error, KafkaError | OSError):  # a TimeoutError is an OSError
                        raise unreachable(self._settings, error) from error
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

    def _discard(self, producer: AIOKafkaProducer | None) -> None:
        if producer is not None and self._producer is producer:
            replaced, self._producer, self._replaced = self._replaced, None, None
            if replaced is not None:
                asyncio.get_running_loop().call_later(_GRACE_S, _set, replaced)
            self._retire(producer)

    def _retire(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.create_task(stop_quietly(producer))
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
                await _refuse_hidden(producer.client, topic)
        except (KafkaError, OSError) as error:
            raise unreachable(self._settings, error, "the broker does not describe its topics") from error
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
        place = TopicPartition(topic, partition_of(request.key.encode(), partition_count))
        failures: list[Exception] = []
        try:
            async with asyncio.timeout(self._send_timeout_s):
                return await self._sent(place, request, failures)
        except TimeoutError as error:
            raise self._not_acknowledged(request, place, failures[-1] if failures else error, late=True) from error

    async def _sent(self, place: TopicPartition, request: PreparedRequest, failures: list[Exception]) -> Position:
        """Sent, and again until the time is up where that may help. ``failures``: what came in between.

        It may then be stored twice: one id, one turn.
        """
        attempt = 0
        while True:
            attempt += 1
            producer = None
            try:
                producer = await self.start()
                sending = self._send_with(producer, place, request, alone=attempt > 1)
                return await self._unless_replaced(sending)
            except (*REFUSED_RECORDS, WRONG_CLOCK) as error:
                self._discard(producer)  # the refused batch took a sequence number with it
                if attempt > 1 or request.size_bytes >= _BATCH_BYTES:
                    raise await self._refused(place.topic, request, error) from error
                failures.append(error)
            except BrokerUnreachableError as error:
                if not failures or isinstance(error, BrokerRefusesError):
                    raise
            except (KafkaError, OSError) as error:
                self._discard(producer)
                if isinstance(error, KafkaError) and not (error.retriable or isinstance(error, _BROKEN_SEQUENCE)):
                    raise self._not_acknowledged(request, place, error) from error
                failures.append(error)
            await asyncio.sleep(_RETRY_S)

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
        self, producer: AIOKafkaProducer, place: TopicPartition, request: PreparedRequest, *, alone: bool
    ) -> Position:
        topic, partition = place
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

    def _not_acknowledged(
        self, request: PreparedRequest, place: TopicPartition, error: Exception, *, late: bool = False
    ) -> BrokerUnreachableError:
        when = f" within {self._send_timeout_s:g} s" if late else ""
        return unreachable(
            self._settings,
            error,
            f"{request.what}: not acknowledged{when}; it may be stored all the same, so send it again with the same "
            f"id. {self._leader(place)}No answer",
        )

    def _leader(self, place: TopicPartition) -> str:
        """A sentence on whose answer was waited for, as far as that is known."""
        if self._producer is None:
            return ""
        cluster, named = self._producer.client.cluster, f"{place.topic}[{place.partition}]"
        if place.partition not in (cluster.partitions_for_topic(place.topic) or ()):
            return f"The broker does not list {named} (any more). "
        leader = cluster.broker_metadata(cluster.leader_for_partition(place))
        if leader is None:
            return f"Nobody leads {named} at the moment. "
        return f"{named} is led by node {leader.nodeId} ({leader.host}:{leader.port}). "

    async def _refused(self, topic: str, request: PreparedRequest, error: Exception) -> RequestRefusedError:
        """The verdict of the broker in words, with the topic's limit if the broker tells it."""
        if isinstance(error, WRONG_CLOCK):
            return RequestRefusedError("wrong_clock", f"{request.what}: {SET_THE_CLOCK}")
        name = type(error).__name__
        try:
            limit = await max_message_bytes(self._settings, topic, timeout_s=_ASK_LIMIT_S)
        except Exception as reason:  # a right that is lacking, a broker that is gone: the verdict stands
            log.debug("the limit of %s is not known: %s", topic, type(reason).__name__)
            limit = None
        told = f"max.message.bytes is {limit}" if limit else "see its max.message.bytes"
        return RequestRefusedError(
            "too_long",
            f"{request.what}: it has {request.size_bytes} bytes; the broker does not take it for topic {topic} "
            f"({name}; {told})",
        )
