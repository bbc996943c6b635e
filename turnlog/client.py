"""The client: sends requests and follows their replies, over Kafka alone."""

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from schemas.codec import RequestCodec, check_ids
from schemas.commands import Chat, RequestHeader
from schemas.errors import WireError
from schemas.parts import ContentPart, NewSession, text_content
from streams.topics import partition_of
from turnlog.chat_turn import ChatTurn
from turnlog.errors import TurnlogError, UsageError
from turnlog.frame_decoder import FrameDecoder
from turnlog.kafka_client import (
    PreparedRequest,
    ReplyConsumer,
    RequestSender,
    StartAt,
    after,
    from_beginning,
    from_end,
)
from turnlog.replies import Deduplicator, Position, ReplyFrame
from workers.cloudevents import Envelope, trace_headers
from workers.config import Settings

log = logging.getLogger(__name__)

Content = str | Sequence[ContentPart]
OnBusy = Literal["enqueue", "reject", "interrupt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRequest:
    """A request that the broker has stored, and where. Whether it is accepted is told by a reply frame."""

    request_id: str
    session_id: str
    partition: int
    offset: int


class Client:
    """Chats with sessions over Kafka: ``async with Client() as client: await client.chat("web-1", "Hi").result()``.

    Settings come from ``settings``, else from the environment (``TURNLOG_BOOTSTRAP_SERVER``, ``TURNLOG_PREFIX`` ...);
    ``bootstrap_server`` and ``prefix`` override them. Entering raises :class:`BrokerUnreachableError`, or
    :class:`NotFoundError` when the topics are not there. It belongs to the event loop that entered it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        bootstrap_server: str | None = None,
        prefix: str | None = None,
        client_id: str | None = None,
        connect_timeout_s: float = 10.0,
        send_timeout_s: float = 30.0,
        max_buffered_frames: int = 4096,
    ) -> None:
        given = {"bootstrap_server": bootstrap_server, "prefix": prefix}
        overrides = {name: value for name, value in given.items() if value is not None}
        self.settings = (settings or Settings()).model_copy(update=overrides)
        self._client_id = client_id or f"turnlog-client-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._connect_timeout_s = connect_timeout_s
        self._send_timeout_s = send_timeout_s
        self._max_buffered_frames = max_buffered_frames
        self._requests = RequestCodec()
        self._frames = FrameDecoder(self.settings)
        self._turns: dict[bytes, dict[str, list[ChatTurn]]] = {}  # by key of the record, then request id
        self._failure: TurnlogError | None = None
        self._partitions: list[int] = []
        self._open: tuple[RequestSender, ReplyConsumer, asyncio.Task[None]] | None = None

    async def __aenter__(self) -> Self:
        sender = RequestSender(
            self.settings,
            client_id=self._client_id,
            connect_timeout_s=self._connect_timeout_s,
            send_timeout_s=self._send_timeout_s,
        )
        topics = self.settings.topics
        try:
            self._partitions = await sender.partitions(topics.replies)
            await sender.partitions(topics.requests)
            # The positions are fixed before any request goes out: no answer can come before them.
            consumer = self._consumer()
            await consumer.start(topics.replies, self._partitions, from_end)
        except BaseException:
            await sender.stop()
            raise
        self._failure = None
        self._open = (sender, consumer, asyncio.create_task(self._read(consumer)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Disconnect, within a few seconds. Turns that are still followed end for their readers with an error."""
        if self._open is None:
            return
        sender, consumer, reading = self._open
        self._open = None
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        self._fail_turns(TurnlogError("the client was closed"))
        await consumer.stop()
        await sender.stop()

    @property
    def failure(self) -> TurnlogError | None:
        """Why replies cannot be read any more; ``None`` as long as they can. A new client may be able to."""
        return self._failure

    # ---- chatting

    async def enqueue(
        self,
        session_id: str,
        content: Content,
        *,
        request_id: str | None = None,
        model: str | None = None,
        on_busy: OnBusy = "enqueue",
        new_session: NewSession | None = None,
        reply_to: str | None = None,
        metadata: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> SentRequest:
        """Send a user message and return as soon as the broker has it; nobody waits for the answer here.

        ``request_id`` is the idempotency key (absent: a new one): the same id and message again is the same turn.
        Raises :class:`UsageError` for an id that no request can have, :class:`RequestRefusedError` (too long) and
        :class:`BrokerUnreachableError`.
        """
        chat = Chat(content=_parts(content), model=model, on_busy=on_busy, new_session=new_session)
        request = self._prepare(session_id, request_id, chat, reply_to, metadata, traceparent)
        position = await self._send(request)
        return SentRequest(
            request_id=request.request_id,
            session_id=session_id,
            partition=position.partition,
            offset=position.offset,
        )

    def chat(
        self,
        session_id: str,
        content: Content,
        *,
        request_id: str | None = None,
        model: str | None = None,
        on_busy: OnBusy = "enqueue",
        new_session: NewSession | None = None,
        metadata: Mapping[str, str] | None = None,
        traceparent: str | None = None,
        timeout_s: float = 900.0,
        resend_after_s: float = 15.0,
    ) -> ChatTurn:
        """A user message and its turn: iterate over the frames, await ``result()``, or both. Nothing is sent before.

        With the id of an earlier request (and the same message) it follows that turn, or gets its answer from the log.
        ``timeout_s`` bounds the whole turn, queueing included. Errors: see :class:`ChatTurn`, :meth:`enqueue`.
        """
        chat = Chat(content=_parts(content), model=model, on_busy=on_busy, new_session=new_session)
        return ChatTurn(
            self._prepare(session_id, request_id, chat, None, metadata, traceparent),
            send=self._send,
            register=self._register,
            unregister=self._unregister,
            timeout_s=timeout_s,
            resend_after_s=resend_after_s,
            max_buffered_frames=self._max_buffered_frames,
        )

    async def follow(
        self,
        session_id: str | None = None,
        *,
        request_id: str | None = None,
        from_position: Position | Literal["beginning"] | None = None,
        deduplicate: bool = True,
    ) -> AsyncGenerator[ReplyFrame, None]:
        """The frames of a session (or of all), from now on, from the beginning, or after a position that a reader left.

        Without end; with ``request_id`` only that request's, up to the terminal one. ``deduplicate=False`` yields what
        the topic holds, frames of overtaken attempts included. Frames sent to another ``reply_to`` are not seen.
        Raises :class:`NotFoundError` for a position that is gone and :class:`BrokerUnreachableError`.
        """
        if self._open is None:
            raise TurnlogError("the client is not connected: use it in `async with Client() as client:`")
        if session_id is None and (request_id is not None or isinstance(from_position, Position)):
            raise UsageError("a request id or a position belongs to one session: name the session")
        topic = self.settings.topics.replies
        partitions, key = self._partitions, None
        if session_id is not None:
            key = session_id.encode()
            partitions = [partition_of(key, len(self._partitions))]
        start: StartAt = from_beginning if from_position == "beginning" else from_end
        if isinstance(from_position, Position):
            if from_position.partition not in partitions:
                raise UsageError(f"session {session_id} has its replies in {topic}[{partitions[0]}], not there")
            start = after(from_position, topic)
        consumer = self._consumer()
        await consumer.start(topic, partitions, start)
        try:
            async for reply in self._followed(consumer, key, request_id, deduplicate):
                yield reply
                if request_id is not None and reply.is_terminal:
                    return
        finally:
            await consumer.stop()

    async def _followed(
        self, consumer: ReplyConsumer, key: bytes | None, request_id: str | None, deduplicate: bool
    ) -> AsyncIterator[ReplyFrame]:
        seen = Deduplicator()
        async for records in consumer.batches():
            for record in records:
                if key is not None and record.key != key:
                    continue
                reply = await self._frames.decode(record)
                if reply is None or (request_id is not None and reply.header.request_id != request_id):
                    continue
                if not deduplicate or seen.accept(reply):
                    yield reply

    # ---- requests

    def _prepare(
        self,
        session_id: str,
        request_id: str | None,
        command: Chat,
        reply_to: str | None,
        metadata: Mapping[str, str] | None,
        traceparent: str | None,
    ) -> PreparedRequest:
        now_ms = int(time.time() * 1000)
        header = RequestHeader(
            request_id=uuid.uuid4().hex if request_id is None else request_id,
            session_id=session_id,
            reply_to=reply_to,
            sent_at=now_ms,
            metadata=dict(metadata or {}),
        )
        try:
            check_ids(header)  # nobody could answer it; everything else is the worker's to judge
        except WireError as error:
            raise UsageError(str(error)) from error
        try:
            value = self._requests.encode(header, command)
        except UnicodeEncodeError as error:
            raise UsageError(f"the request for session {session_id} holds text that is not Unicode: {error}") from error
        headers = Envelope("commands", self._client_id).headers(type(command), uuid.uuid4().hex, now_ms)
        return PreparedRequest(
            session_id=session_id,
            request_id=header.request_id or "",
            value=value,
            headers=(*headers, *trace_headers(traceparent, None)),
        )

    async def _send(self, request: PreparedRequest) -> Position:
        if self._open is None:
            raise TurnlogError("the client is not connected: use it in `async with Client() as client:`")
        return await self._open[0].send(self.settings.topics.requests, request)

    # ---- replies

    def _consumer(self) -> ReplyConsumer:
        return ReplyConsumer(self.settings, client_id=self._client_id, connect_timeout_s=self._connect_timeout_s)

    async def _register(self, turn: ChatTurn) -> None:
        if self._failure is not None:
            raise self._failure
        self._turns.setdefault(turn.session_id.encode(), {}).setdefault(turn.request_id, []).append(turn)

    def _unregister(self, turn: ChatTurn) -> None:
        key = turn.session_id.encode()
        requests = self._turns.get(key, {})
        turns = requests.get(turn.request_id, [])
        if turn in turns:
            turns.remove(turn)
            if not turns:
                del requests[turn.request_id]
            if not requests:
                del self._turns[key]

    async def _read(self, consumer: ReplyConsumer) -> None:
        """Hand each frame to the turns that wait for it."""
        try:
            async for records in consumer.batches():
                for record in records:
                    requests = self._turns.get(record.key)  # others' frames are not even decoded
                    reply = await self._frames.decode(record) if requests else None
                    if requests and reply is not None:
                        for turn in tuple(requests.get(reply.header.request_id, ())):
                            turn.deliver(reply)
        except TurnlogError as error:
            self._failure = error
            self._fail_turns(error)
        except Exception as error:
            log.exception("the reply reader stopped")
            self._failure = TurnlogError(f"the reply reader stopped: {type(error).__name__}: {error}")
            self._fail_turns(self._failure)

    def _fail_turns(self, error: TurnlogError) -> None:
        for turn in [turn for requests in self._turns.values() for turns in requests.values() for turn in turns]:
            turn.give_up(error)


def _parts(content: Content) -> tuple[ContentPart, ...]:
    return text_content(content) if isinstance(content, str) else tuple(content)
