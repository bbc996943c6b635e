"""Following a turn: its frames that count, from the first one on, whoever began it and whenever somebody asks.

The order is that of the log, so every gateway and every replay tells the same. What is older than the reply topic keeps
is told from the history instead, as whole messages.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from turnlog.client.async_client import Client
from turnlog.client.raw_requests import send
from turnlog.client.replies import FrameOrder, ReplyFrame
from turnlog.client.request_sender import PreparedRequest
from turnlog.errors import RequestTimedOutError, TurnlogError
from turnlog.serve.http_errors import refused
from turnlog.serve.request_records import RequestRecords, TurnRequest
from turnlog.serve.session_frames import session_frames
from turnlog.serve.turn_ids import TurnRef, turn_ref
from turnlog_schemas.frames import RequestRefused, TurnAccepted

log = logging.getLogger(__name__)
TURN_TIMEOUT_S = 900.0  #: of silence at most, queueing included
_RESEND_AFTER_S, _MAX_RESEND_AFTER_S = 15.0, 60.0
_ENDING_TIMEOUT_S = 20.0
_MAX_KNOWN_STARTS = 20_000
#: Clocks of whoever sent the request and of the worker may differ; each look is for a larger difference.
_SLACKS_MS = (30_000, 3_600_000)

Frames = AsyncIterator[ReplyFrame]
OpenFrames = Callable[[Client, str, int | None, int | None], AbstractAsyncContextManager[Frames]]


class TurnGoneError(Exception):
    """The reply topic does not hold the turn's frames any more: ask the history."""


@dataclass(slots=True)
class Begun:
    """A turn that was just asked for: which one it is, and its frames from the first one on."""

    turn: TurnRef
    frames: AsyncGenerator[ReplyFrame, None]
    first: ReplyFrame
    replayed: bool  #: it had been asked for before, this is its retry: look for its frames, there are none here

    async def aclose(self) -> None:
        """Follow it no more. It goes on."""
        if not self.replayed:
            await anext(self.frames, None)  # it is there; what was never begun would not be closed
        await self.frames.aclose()

    @property
    def opened_session(self) -> bool:
        """Did this request make its session?"""
        return isinstance(self.first.frame, TurnAccepted) and self.first.frame.opened_session


@dataclass(slots=True)
class _LastHeard:
    frames: int = 0  #: so far


class Turns:
    """The turns of a deployment, as frames."""

    def __init__(self, client: Client, records: RequestRecords, open_frames: OpenFrames = session_frames) -> None:
        self._client = client
        self.records = records
        self._open_frames = open_frames
        self._starts: OrderedDict[TurnRef, int] = OrderedDict()  # offsets of first frames that were seen

    async def begin(self, request: PreparedRequest) -> Begun:
        """Send a chat and wait until it is accepted. Close ``frames``. Raises what refuses it, as an HTTP error."""
        opened = self._open_frames(self._client, request.key, None, None)
        frames = await opened.__aenter__()
        try:
            sent: set[str] = set()
            heard = self._heard(frames, request, sent)
            await self._send(request, sent)
            first = await anext(heard)
            if isinstance(first.frame, RequestRefused):
                raise refused(first.frame.code, first.frame.reason)
            turn = turn_ref(request.key, first.header.turn_id or "")
            if turn is None:
                raise refused("conflict", "this request id belongs to another kind of request")
            if turn.turn_id in sent:
                self._remember(turn, first.offset)
                counted = _counting(_closing(_with_first(first, heard), opened), turn, request.request_id)
                return Begun(turn=turn, frames=counted, first=first, replayed=False)
        except BaseException:
            await opened.__aexit__(None, None, None)
            raise
        # It had been accepted before, so its first frames lie before what was read.
        await opened.__aexit__(None, None, None)
        return Begun(turn=turn, frames=_none(), first=first, replayed=True)

    async def replay(
        self, turn: TurnRef, known: TurnRequest | None, *, follow: bool = True
    ) -> AsyncGenerator[ReplyFrame, None]:
        """The frames of a turn, from the first one on, to its end; without ``follow`` to the end of the topic.

        Raises :class:`TurnGoneError` before the first one.
        """
        if known is None or (known.header.reply_to or self._topic) != self._topic:
            raise TurnGoneError
        for slack_ms in _SLACKS_MS:
            start, until = await self._place(turn, known, slack_ms)
            counted = self._replayed(turn, known, start, None if follow else until)
            first = await anext(counted, None)
            is_first = first is None or isinstance(first.frame, TurnAccepted) or turn in self._starts
            if not is_first and slack_ms != _SLACKS_MS[-1]:
                await counted.aclose()
                continue
            if first is not None:
                self._remember(turn, first.offset)
                yield first
            async for reply in counted:
                yield reply
            return

    async def _replayed(
        self, turn: TurnRef, known: TurnRequest, start: int, until: int | None
    ) -> AsyncGenerator[ReplyFrame, None]:
        async with self._open_frames(self._client, turn.session_id, start, until) as frames:
            heard = self._heard(frames, known.prepared, None) if until is None else frames
            async for reply in _counting(heard, turn, known.request_id):
                yield reply

    async def ending(self, known: TurnRequest) -> ReplyFrame | None:
        """How the turn ended, as the log has it; ``None``: it is not told in time."""
        async with self._open_frames(self._client, known.turn.session_id, None, None) as frames:
            await self._send(known.prepared, set())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENDING_TIMEOUT_S):
                    async for reply in _counting(frames, known.turn, known.request_id):
                        if reply.is_terminal:
                            return reply
        return None

    @property
    def _topic(self) -> str:
        return self._client.settings.topics.replies

    def _remember(self, turn: TurnRef, offset: int) -> None:
        if turn not in self._starts:
            self._starts[turn] = offset
            if len(self._starts) > _MAX_KNOWN_STARTS:
                self._starts.popitem(last=False)

    async def _place(self, turn: TurnRef, known: TurnRequest, slack_ms: int) -> tuple[int, int]:
        """Where to read from so that no frame of the turn is missed, and the end. Raises :class:`TurnGoneError`."""
        bounds = await self.records.replies_at(turn.partition, known.stored_at_ms - slack_ms)
        if (seen := self._starts.get(turn)) is not None and seen >= bounds.first:
            return seen, bounds.end
        if bounds.first and bounds.start <= bounds.first and slack_ms == _SLACKS_MS[0]:
            raise TurnGoneError  # what was before it may have been the turn's
        return bounds.start, bounds.end

    async def _send(self, request: PreparedRequest, sent: set[str]) -> None:
        position = await send(self._client, request)
        sent.add(f"t-{position.partition}-{position.offset}")

    async def _heard(self, frames: Frames, request: PreparedRequest, sent: set[str] | None) -> Frames:
        """The frames of the request; it is sent again while nothing is heard, with the same id."""
        heard = _LastHeard()
        resending = asyncio.create_task(self._resend(request, set() if sent is None else sent, heard))
        try:
            while True:
                try:
                    async with asyncio.timeout(TURN_TIMEOUT_S):
                        reply = await anext(frames)
                        while reply.header.request_id != request.request_id:
                            reply = await anext(frames)
                except TimeoutError:
                    raise RequestTimedOutError(
                        f"{request.what}: nothing was heard of it for {TURN_TIMEOUT_S:g} s"
                    ) from None
                heard.frames += 1
                yield reply
        finally:
            resending.cancel()
            await asyncio.gather(resending, return_exceptions=True)

    async def _resend(self, request: PreparedRequest, sent: set[str], heard: "_LastHeard") -> None:
        wait_s = _RESEND_AFTER_S
        while True:
            before = heard.frames
            await asyncio.sleep(wait_s)
            if heard.frames != before:
                wait_s = _RESEND_AFTER_S
            else:
                wait_s = min(2 * wait_s, _MAX_RESEND_AFTER_S)
                await self._again(request, sent)

    async def _again(self, request: PreparedRequest, sent: set[str]) -> None:
        log.info("nothing heard, sending again: %s", request.what)
        try:
            await self._send(request, sent)
        except TurnlogError as error:
            log.warning("%s cannot be sent: %s", request.what, error)


async def _none() -> AsyncGenerator[ReplyFrame, None]:
    nothing: tuple[ReplyFrame, ...] = ()
    for reply in nothing:
        yield reply


async def _with_first(first: ReplyFrame, rest: Frames) -> Frames:
    yield first
    async for reply in rest:
        yield reply


async def _closing(frames: Frames, opened: AbstractAsyncContextManager[Frames]) -> Frames:
    try:
        async for reply in frames:
            yield reply
    finally:
        await opened.__aexit__(None, None, None)


async def _counting(frames: Frames, turn: TurnRef, request_id: str) -> AsyncGenerator[ReplyFrame, None]:
    """Those of the turn that count, up to its end."""
    order = FrameOrder()
    try:
        async for reply in frames:
            header = reply.header
            if header.turn_id == turn.turn_id and header.request_id == request_id and order.accept(reply):
                yield reply
                if reply.is_terminal:
                    return
    finally:
        aclose = getattr(frames, "aclose", None)
        if aclose is not None:
            await aclose()
