"""The client's side of the wire: requests go out, frames find those who wait for them."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from types import UnionType
from typing import Any

from turnlog.client.exchange import Answer, Exchange
from turnlog.client.frame_decoder import FrameDecoder
from turnlog.client.replies import Position, ReplyFrame
from turnlog.client.reply_consumer import ReplyConsumer, from_end, from_offset
from turnlog.client.request_sender import PreparedRequest, RequestSender
from turnlog.client.session_feed import SessionFeed
from turnlog.errors import NotFoundError, TurnlogError, UsageError
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.commands import Command, RequestHeader, is_for_channel
from turnlog_schemas.errors import WireError
from turnlog_schemas.json_values import misfit
from turnlog_schemas.request_checks import check_ids, wrong_request_id
from turnlog_workers.base.cloudevents import Envelope
from turnlog_workers.base.config import Settings
from turnlog_workers.base.trace_context import TraceContext
from turnlog_workers.observe import tracing

log = logging.getLogger(__name__)
_DOCTOR = "no worker serves that (`turnlog doctor` says more)"


class Connection:
    """A producer of requests and a reader of the reply topic, for one event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        client_id: str,
        connect_timeout_s: float,
        send_timeout_s: float,
        resend_after_s: float,
    ) -> None:
        self.settings = settings
        self.client_id = client_id
        self.failure: TurnlogError | None = None  #: why replies cannot be read any more
        self.partitions: list[int] = []  #: of the reply topic
        self.frames = FrameDecoder(settings)
        self._connect_timeout_s = connect_timeout_s
        self._send_timeout_s = send_timeout_s
        self._resend_after_s = resend_after_s
        self._codec = RequestCodec()
        self._envelope = Envelope("commands", client_id)
        self._waiting: dict[bytes, dict[str, list[Exchange]]] = {}  # by key of the record, then request id
        self.feed = SessionFeed(self.frames.decode, self.read_replies)
        self._watching: list[tuple[Callable[[bytes], bool], Callable[[ReplyFrame], None]]] = []
        self._open: tuple[RequestSender, ReplyConsumer, asyncio.Task[None]] | None = None

    async def open(self) -> None:
        """Connect. Raises :class:`BrokerUnreachableError` or :class:`NotFoundError`."""
        sender = RequestSender(
            self.settings,
            client_id=self.client_id,
            connect_timeout_s=self._connect_timeout_s,
            send_timeout_s=self._send_timeout_s,
        )
        topics = self.settings.topics
        try:
            self.partitions = await sender.partitions(topics.replies)
            if len(await sender.partitions(topics.requests)) < len(self.partitions):
                raise NotFoundError(f"topic {topics.requests} has fewer partitions than {topics.replies}: {_DOCTOR}")
            # The positions are fixed before any request goes out: no answer can come before them.
            consumer = self.consumer()
            await consumer.start(topics.replies, self.partitions, self._from_end)
        except BaseException:
            await sender.stop()
            raise
        self.failure = None
        self._open = (sender, consumer, asyncio.create_task(self._read(consumer)))

    async def close(self) -> None:
        """Disconnect, within a few seconds. Whoever waits for an answer gets an error."""
        if self._open is None:
            return
        sender, consumer, reading = self._open
        self._open = None
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        self._give_up(TurnlogError("the client was closed"))
        await consumer.stop()
        await sender.stop()

    def consumer(self) -> ReplyConsumer:
        """Another reader of reply topics, not connected yet."""
        return ReplyConsumer(self.settings, client_id=self.client_id, connect_timeout_s=self._connect_timeout_s)

    def _from_end(self, bounds: Mapping[int, tuple[int, int]]) -> Mapping[int, int]:
        starts = from_end(bounds)
        self.feed.start(starts)
        return starts

    async def read_replies(self, partition: int, start: int, end: int) -> AsyncGenerator[list[Any], None]:
        """The records of a partition of the reply topic from one offset up to another, as far as it still has them."""
        consumer = self.consumer()
        await consumer.start(self.settings.topics.replies, [partition], from_offset(start))
        try:
            async for records in consumer.batches(until=end):
                yield records
        finally:
            await consumer.stop()

    async def first_and_end(self, partition: int) -> tuple[int, int]:
        """What a partition of the reply topic holds: its first offset, and the one of its next record.

        Raises :class:`BrokerUnreachableError`.
        """
        return await self._opened()[1].bounds(self.settings.topics.replies, partition)

    def check_open(self) -> None:
        """Raises :class:`TurnlogError` unless it is connected."""
        self._opened()

    def _opened(self) -> tuple[RequestSender, ReplyConsumer, asyncio.Task[None]]:
        if self._open is None:
            raise TurnlogError("the client is not connected: use it in `async with Client() as client:`")
        return self._open

    # ---- requests

    def prepare(
        self,
        command: Command,
        *,
        session_id: str | None = None,
        channel: str | None = None,
        request_id: str | None = None,
        reply_to: str | None = None,
        metadata: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> PreparedRequest:
        """The bytes of a request. Raises :class:`UsageError` for one that nobody could answer."""
        now_ms = int(time.time() * 1000)
        header = RequestHeader(
            request_id=uuid.uuid4().hex if request_id is None else request_id,
            session_id=session_id,
            channel=channel,
            reply_to=reply_to,
            sent_at=now_ms,
            metadata=dict(metadata or {}),
        )
        try:
            check_ids(header)
            if (wrong := wrong_request_id(header.request_id)) is not None:  # nobody could answer it
                raise UsageError(wrong)  # everything else is the worker's to judge
        except WireError as error:
            raise UsageError(str(error)) from error
        except (TypeError, AttributeError) as error:
            raise _wrong_type("the request", header, error) from error
        of_channel = is_for_channel(command, channel)
        kind, key = ("channel", channel) if of_channel else ("session", session_id)
        try:
            value = self._codec.encode(header, command)
        except UnicodeEncodeError as error:
            raise UsageError(f"the request for {kind} {key} holds text that is not Unicode: {error}") from error
        except OverflowError as error:
            raise UsageError(f"the request for {kind} {key} holds a number that cannot be: {error}") from error
        except (TypeError, AttributeError) as error:
            raise _wrong_type(f"the request for {kind} {key}", command, error) from error
        trace = tracing.current() if traceparent is None else TraceContext(traceparent)
        headers = self._envelope.headers(type(command), uuid.uuid4().hex, now_ms)
        return PreparedRequest(
            key=key or "",
            request_id=header.request_id or "",
            value=value,
            headers=(*headers, *trace.headers()) if trace is not None else tuple(headers),
            kind=kind,
        )

    async def ask(
        self,
        command: Command,
        expected: type | UnionType,
        *,
        timeout_s: float,
        session_id: str | None = None,
        channel: str | None = None,
        request_id: str | None = None,
        resend_after_s: float | None = None,
        waits_for: str = "",
    ) -> ReplyFrame:
        """A request and the one frame that answers it. Errors: see :meth:`Answer.reply`, :meth:`prepare`.

        ``waits_for``: a sentence for the error at its timeout, where an answer may take long although all is well.
        """
        answer = Answer(
            self.prepare(command, session_id=session_id, channel=channel, request_id=request_id),
            self,
            expected,
            timeout_s=timeout_s,
            resend_after_s=self._resend_after_s if resend_after_s is None else resend_after_s,
            waits_for=waits_for,
        )
        return await answer.reply()

    async def send(self, request: PreparedRequest) -> Position:
        """Where the broker has stored the request."""
        # A session lives where the count of the reply topic puts it, which is the event log's.
        sender = self._opened()[0]
        return await sender.send(self.settings.topics.requests, request, partition_count=len(self.partitions))

    # ---- replies

    async def register(self, exchange: Exchange) -> None:
        """From now on frames of the request are delivered to it."""
        if self.failure is not None:
            raise self.failure
        self._waiting.setdefault(exchange.key.encode(), {}).setdefault(exchange.request_id, []).append(exchange)

    def unregister(self, exchange: Exchange) -> None:
        """No more frames are delivered."""
        key = exchange.key.encode()
        requests = self._waiting.get(key, {})
        exchanges = requests.get(exchange.request_id, [])
        if exchange in exchanges:
            exchanges.remove(exchange)
            if not exchanges:
                del requests[exchange.request_id]
            if not requests:
                del self._waiting[key]

    def watch(self, wanted: Callable[[bytes], bool], deliver: Callable[[ReplyFrame], None]) -> None:
        """From now on, whatever session it is of, each frame whose record ``wanted`` picks is delivered.

        ``wanted`` is asked of every record of the reply topic: it must cost next to nothing.
        """
        self._watching.append((wanted, deliver))

    async def log_end(self) -> dict[int, int] | None:
        """By partition of the event log: the offset of its next record. ``None``: the broker will not tell us."""
        return await self._opened()[1].end_offsets(self.settings.topics.events, self.partitions)

    async def _read(self, consumer: ReplyConsumer) -> None:
        """Hand each frame to those that wait for it."""
        try:
            async for records in consumer.batches():
                for record in records:
                    requests, followed = self._waiting.get(record.key), self.feed.wants(record)
                    watched = [deliver for wanted, deliver in self._watching if wanted(record.value or b"")]
                    heard = requests or followed or watched
                    reply = await self.frames.decode(record) if heard else None  # others' are left
                    if reply is not None:
                        for deliver in watched:
                            deliver(reply)
                    if followed and reply is not None:
                        self.feed.deliver(record, reply)
                    if requests and reply is not None:
                        for exchange in tuple(requests.get(reply.header.request_id, ())):
                            exchange.deliver(reply)
        except TurnlogError as error:
            self._fail(error)
        except asyncio.CancelledError:
            if self._open is not None:  # not by `close`: nobody would ever hear of it
                self._fail(TurnlogError("the reply reader was cancelled by what it reads with"))
            raise
        except Exception as error:
            log.exception("the reply reader stopped")
            self._fail(TurnlogError(f"the reply reader stopped: {type(error).__name__}: {error}"))

    def _fail(self, error: TurnlogError) -> None:
        """Replies cannot be read any more: whoever waits for one, now or later, is told."""
        self.failure = error
        self._give_up(error)

    def _give_up(self, error: TurnlogError) -> None:
        self.feed.fail(error)
        everybody = [each for requests in self._waiting.values() for waiting in requests.values() for each in waiting]
        for exchange in everybody:
            exchange.give_up(error)


def _wrong_type(what: str, record: Any, error: Exception) -> UsageError:
    """The error for a value that no field takes: which one it is, if that can be found."""
    return UsageError(f"{what} holds a value of a wrong type: {misfit(record) or error}")
