"""The client: sends requests and follows their replies, over Kafka alone."""

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Literal, Self

from turnlog.client.chat_turn import ChatTurn
from turnlog.client.connection import Connection
from turnlog.client.replies import Deduplicator, Position, ReplyFrame
from turnlog.client.reply_consumer import StartAt, after, from_beginning, from_end
from turnlog.client.session_verbs import SessionVerbs
from turnlog.errors import TurnlogError, UsageError
from turnlog.snapshot.listing import SessionFilter, SessionList, list_sessions
from turnlog_schemas.commands import Chat
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import ClientTool, ContentPart, NewSession, ToolOutput, text_content
from turnlog_streams.runtime_settings import UnknownSettingError
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka import settings_topic

Content = str | Sequence[ContentPart]
OnBusy = Literal["enqueue", "reject", "interrupt"]
_RESEND_AFTER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRequest:
    """A request that the broker has stored, and where. Whether it is accepted is told by a reply frame."""

    request_id: str
    session_id: str
    partition: int
    offset: int


class Client(SessionVerbs):
    """Talks to sessions over Kafka: ``async with Client() as client: await client.chat("web-1", "Hi").result()``.

    Settings come from ``settings``, else from the environment (``TURNLOG_BOOTSTRAP_SERVER``, ``TURNLOG_PREFIX`` ...);
    ``bootstrap_server`` and ``prefix`` override them. Entering raises :class:`BrokerUnreachableError`, or
    :class:`NotFoundError` when the topics are not there. It belongs to the event loop that entered it; without one,
    use :class:`turnlog.SyncClient`.
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
        resend_after_s: float = _RESEND_AFTER_S,
        max_buffered_frames: int = 4096,
    ) -> None:
        """``resend_after_s``: how long verbs (but ``chat`` and ``compact``: their own) wait before they ask again."""
        given = {"bootstrap_server": bootstrap_server, "prefix": prefix}
        overrides = {name: value for name, value in given.items() if value is not None}
        self.settings = (settings or Settings()).model_copy(update=overrides)
        self._max_buffered_frames = max_buffered_frames
        self._connect_timeout_s = connect_timeout_s
        self._connection = Connection(
            self.settings,
            client_id=client_id or f"turnlog-client-{os.getpid()}-{uuid.uuid4().hex[:8]}",
            connect_timeout_s=connect_timeout_s,
            send_timeout_s=send_timeout_s,
            resend_after_s=resend_after_s,
        )

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Disconnect, within a few seconds. Turns that are still followed end for their readers with an error."""
        await self._connection.close()

    @property
    def failure(self) -> TurnlogError | None:
        """Why replies cannot be read any more; ``None`` as long as they can. A new client may be able to."""
        return self._connection.failure

    @property
    def partition_count(self) -> int:
        """How many partitions the topics have. Raises :class:`TurnlogError` unless it is connected."""
        self._connection.check_open()
        return len(self._connection.partitions)

    # ---- chatting

    async def enqueue(
        self,
        session_id: str,
        content: Content = (),
        *,
        request_id: str | None = None,
        model: str | None = None,
        on_busy: OnBusy = "enqueue",
        new_session: NewSession | None = None,
        params: GenerationParams | None = None,
        tools: Sequence[ClientTool] = (),
        tool_outputs: Sequence[ToolOutput] = (),
        after_turn: str | None = None,
        name: str | None = None,
        reply_to: str | None = None,
        metadata: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> SentRequest:
        """Send a user message and return as soon as the broker has it; nobody waits for the answer here.

        ``tools``, ``tool_outputs``, ``after_turn`` and ``name``: as for :meth:`chat`.

        ``request_id`` is the idempotency key (absent: a new one): the same id and message again is the same turn.
        Raises :class:`UsageError` for an id that no request can have, :class:`RequestRefusedError` (too long) and
        :class:`BrokerUnreachableError`.
        """
        request = self._connection.prepare(
            Chat(
                content=_parts(content),
                model=model,
                on_busy=on_busy,
                new_session=new_session,
                params=params,
                tools=tuple(tools),
                tool_outputs=tuple(tool_outputs),
                after_turn=after_turn,
                name=name,
            ),
            session_id=session_id,
            request_id=request_id,
            reply_to=reply_to,
            metadata=metadata,
            traceparent=traceparent,
        )
        position = await self._connection.send(request)
        return SentRequest(
            request_id=request.request_id,
            session_id=session_id,
            partition=position.partition,
            offset=position.offset,
        )

    def chat(
        self,
        session_id: str,
        content: Content = (),
        *,
        request_id: str | None = None,
        model: str | None = None,
        on_busy: OnBusy = "enqueue",
        new_session: NewSession | None = None,
        params: GenerationParams | None = None,
        tools: Sequence[ClientTool] = (),
        tool_outputs: Sequence[ToolOutput] = (),
        after_turn: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        traceparent: str | None = None,
        timeout_s: float = 900.0,
        resend_after_s: float = 15.0,
    ) -> ChatTurn:
        """A user message and its turn: iterate over the frames, await ``result()``, or both. Nothing is sent before.

        With the id of an earlier request (and the same message) it follows that turn, or gets its answer from the log.
        ``on_busy``: what to do when the session has a turn that is not ended: wait for it, ``reject`` this message
        (:class:`SessionBusyError`), or ``interrupt``: cancel all that are not ended. ``timeout_s`` bounds the whole
        turn, queueing included. ``params``: how the model is asked to generate. Errors: see :class:`ChatTurn`,
        :meth:`enqueue`.

        ``tools`` are run by you: a call of one ends the turn with status ``requires_action``. The outputs of all its
        ``pending_calls`` are the ``tool_outputs`` of the next chat, whose ``content`` may then be empty.

        ``after_turn``: only directly behind this turn (empty: as the first one), else refused with ``not_newest``.
        ``name``: of who says it, where several people speak (1 to 64 of ``A-Z a-z 0-9 _ -``): models are told.
        """
        request = self._connection.prepare(
            Chat(
                content=_parts(content),
                model=model,
                on_busy=on_busy,
                new_session=new_session,
                params=params,
                tools=tuple(tools),
                tool_outputs=tuple(tool_outputs),
                after_turn=after_turn,
                name=name,
            ),
            session_id=session_id,
            request_id=request_id,
            metadata=metadata,
            traceparent=traceparent,
        )
        return ChatTurn(
            request,
            self._connection,
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
        the topic holds, frames of overtaken attempts included. Frames sent to another ``reply_to`` are not seen. One
        consumer serves all that follow a session, thousands of them: who reads slowly costs a bounded amount of memory,
        and misses nothing that the topic keeps.
        Raises :class:`NotFoundError` for a position that is gone and :class:`BrokerUnreachableError`.
        """
        self._connection.check_open()
        if session_id is not None:
            frames = self._of_session(session_id, from_position)
        elif request_id is not None or isinstance(from_position, Position):
            raise UsageError("a request id or a position belongs to one session: name the session")
        else:
            frames = self._of_all(from_beginning if from_position == "beginning" else from_end)
        seen = Deduplicator()
        async with aclosing(frames):
            async for reply in frames:
                if request_id is not None and reply.header.request_id != request_id:
                    continue
                if deduplicate and not seen.accept(reply):
                    continue
                yield reply
                if request_id is not None and reply.is_terminal:
                    return

    async def _of_session(
        self, session_id: str, from_position: Position | Literal["beginning"] | None
    ) -> AsyncGenerator[ReplyFrame, None]:
        """One reader of the topic serves all that follow sessions."""
        key, topic = session_id.encode(), self.settings.topics.replies
        partition = partition_of(key, len(self._connection.partitions))
        start: int | None = None
        if from_position == "beginning":
            start = 0
        elif from_position is not None:
            if from_position.partition != partition:
                raise UsageError(f"session {session_id} has its replies in {topic}[{partition}], not there")
            bounds = await self._connection.first_and_end(partition)
            start = after(from_position, topic)({partition: bounds})[partition]
        async with aclosing(self._connection.feed.follow(key, partition, start)) as frames:
            async for reply in frames:
                yield reply

    async def _of_all(self, start: StartAt) -> AsyncGenerator[ReplyFrame, None]:
        consumer = self._connection.consumer()
        await consumer.start(self.settings.topics.replies, self._connection.partitions, start)
        try:
            async for records in consumer.batches():
                for record in records:
                    reply = await self._connection.frames.decode(record)
                    if reply is not None:
                        yield reply
        finally:
            await consumer.stop()

    # ---- what is not asked of a session's owner

    async def list_sessions(
        self,
        *,
        include_archived: bool = False,
        channel: str | None = None,
        no_channel: bool = False,
        metadata: Mapping[str, str] | None = None,
        active_since: datetime | None = None,
        active_before: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> SessionList:
        """A page of the sessions that pass all filters, the most recently active first; ``limit`` 0: all of them.

        ``no_channel``: only those that belong to none.

        ``after``: the ``next_after`` of the page before. It comes from the published snapshot (setting
        ``snapshot_path``), a few seconds behind the log: the page says how far. Raises :class:`NotFoundError` when
        there is no snapshot, :class:`UsageError` for a key that cannot be.
        """
        which = SessionFilter(
            include_archived=include_archived,
            channel=channel,
            no_channel=no_channel,
            metadata=metadata,
            active_since=active_since,
            active_before=active_before,
        )
        end = await self._connection.log_end()
        return await asyncio.to_thread(
            list_sessions, self.settings.snapshot, which, after=after, limit=limit, log_end=end
        )

    async def set_setting(self, name: str, value: str | None) -> None:
        """Change a run-time setting for all workers, or with ``None`` unset it; they follow within a second.

        Raises :class:`UsageError` (which names there are) and :class:`BrokerUnreachableError`.
        """
        timeout_s = self._connect_timeout_s
        try:
            await asyncio.to_thread(settings_topic.write_setting, self.settings, name, value, timeout_s=timeout_s)
        except UnknownSettingError as error:
            raise UsageError(str(error)) from error

    async def get_settings(self) -> dict[str, str]:
        """The run-time settings that are set. Raises :class:`BrokerUnreachableError`."""
        return await asyncio.to_thread(settings_topic.read_settings, self.settings, timeout_s=self._connect_timeout_s)


def _parts(content: Content) -> tuple[ContentPart, ...]:
    if isinstance(content, str):
        return text_content(content) if content else ()
    parts = tuple(content) if isinstance(content, Iterable) else (content,)
    if wrong := [part for part in parts if not isinstance(part, ContentPart)]:
        raise UsageError(f"what is said is a text, or a list of ContentPart: not {type(wrong[0]).__name__}")
    return parts
