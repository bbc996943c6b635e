"""One chat request, followed to the end of its turn."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

from turnlog.errors import BrokerUnreachableError, ReaderTooSlowError, TurnlogError, TurnTimedOutError
from turnlog.kafka_client import PreparedRequest
from turnlog.replies import FinishedTurn, Position, ReplyFrame, TurnView

log = logging.getLogger(__name__)

Send = Callable[[PreparedRequest], Awaitable[Position]]
Register = Callable[["ChatTurn"], Awaitable[None]]
Unregister = Callable[["ChatTurn"], None]


class ChatTurn:
    """The reply frames of one turn as they come, and how it ended.

    Iterate over it (``async for reply in turn``), await :meth:`result`, or both. The request is sent when the first of
    them begins. It is sent again, with the same id, whenever nothing was heard for ``resend_after_s``. A turn that is
    dropped before its end (``break``) is forgotten at its timeout, or at once by ``async with`` or :meth:`aclose`.
    """

    def __init__(
        self,
        request: PreparedRequest,
        *,
        send: Send,
        register: Register,
        unregister: Unregister,
        timeout_s: float,
        resend_after_s: float,
        max_buffered_frames: int,
    ) -> None:
        self.request_id = request.request_id
        self.session_id = request.session_id
        self.view = TurnView()
        self.dropped_deltas = 0  #: pieces that came faster than they were read
        self.resends = 0
        self._request = request
        self._send, self._register, self._unregister = send, register, unregister
        self._timeout_s, self._resend_after_s = timeout_s, resend_after_s
        self._max_buffered_frames = max_buffered_frames
        self._buffer: deque[ReplyFrame] = deque()
        self._overrun = False
        self._error: TurnlogError | None = None
        self._changed = asyncio.Event()
        self._begun: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._heard_at = 0.0

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop following. The turn itself goes on in its worker."""
        self.give_up(TurnlogError(f"request {self.request_id} of session {self.session_id} is not followed any more"))

    # ---- for the reader

    def __aiter__(self) -> AsyncIterator[ReplyFrame]:
        return self

    async def __anext__(self) -> ReplyFrame:
        """The next frame that counts; the terminal one is the last.

        Raises :class:`RequestRefusedError`, :class:`TurnTimedOutError`, :class:`ReaderTooSlowError` or
        :class:`BrokerUnreachableError`.
        """
        await self._begin()
        while True:
            if self._buffer:
                return self._buffer.popleft()
            if self._overrun:
                raise ReaderTooSlowError(
                    f"request {self.request_id} of session {self.session_id}: more than {self._max_buffered_frames} "
                    "frames were waiting to be read; read faster, or read the session's history"
                )
            if self.view.refused is not None:
                raise self.view.refused
            if self.view.ended:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    async def result(self, *, timeout_s: float | None = None) -> FinishedTurn:
        """How the turn ended: completed, failed or cancelled (see :meth:`FinishedTurn.raise_for_status`).

        ``timeout_s`` bounds this wait only (the turn's own bound holds as well); ask again to wait on.
        Raises :class:`RequestRefusedError`, :class:`TurnTimedOutError` or :class:`BrokerUnreachableError`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._begin()
                while not self.view.ended and self._error is None:
                    await self._changed.wait()
        except TimeoutError as error:
            raise self._timed_out(timeout_s or 0.0) from error
        if self.view.refused is not None:
            raise self.view.refused
        if self.view.finished is not None:
            return self.view.finished
        assert self._error is not None
        raise self._error

    # ---- for the client

    def deliver(self, reply: ReplyFrame) -> None:
        """Take in a frame of this request."""
        self._heard_at = asyncio.get_running_loop().time()
        if not self.view.feed(reply):
            return
        if self.view.refused is None:
            self._keep(reply)
        if self.view.ended:
            self._leave()
        self._notify()

    def give_up(self, error: TurnlogError) -> None:
        """End for the reader with an error, unless the turn has ended already."""
        if not self.view.ended and self._error is None:
            self._error = error
        self._leave()
        self._notify()

    def _keep(self, reply: ReplyFrame) -> None:
        """Buffer a frame for the iteration. Only deltas may be dropped: what they say also comes whole."""
        if self._overrun:
            return
        if len(self._buffer) >= self._max_buffered_frames:
            waiting = next((index for index, kept in enumerate(self._buffer) if kept.is_delta), None)
            if reply.is_delta or waiting is not None:
                self.dropped_deltas += 1
            if reply.is_delta:
                return
            if waiting is None:
                self._overrun = True
                self._buffer.clear()
                return
            del self._buffer[waiting]
        self._buffer.append(reply)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _leave(self) -> None:
        self._unregister(self)
        if self._watch is not None:
            self._watch.cancel()

    async def _begin(self) -> None:
        """Register and send, once; whoever comes second waits for the first."""
        if self._begun is None:
            self._begun = asyncio.ensure_future(self._start())
        await asyncio.shield(self._begun)

    async def _start(self) -> None:
        if self._error is not None:
            raise self._error
        await self._register(self)
        try:
            self._heard_at = asyncio.get_running_loop().time()
            self._watch = asyncio.create_task(self._ask_again(self._heard_at + self._timeout_s))
            await self._send(self._request)
        except BaseException as error:
            if isinstance(error, TurnlogError):
                self.give_up(error)
            else:
                self._leave()
            raise

    async def _ask_again(self, deadline: float) -> None:
        """Send the request again whenever nothing is heard; give up at the deadline."""
        loop = asyncio.get_running_loop()
        last_error: BrokerUnreachableError | None = None
        while True:
            wake_at = min(deadline, self._heard_at + self._resend_after_s)
            await asyncio.sleep(max(0.0, wake_at - loop.time()))
            now = loop.time()
            if now >= deadline:
                timed_out = self._timed_out(self._timeout_s)
                timed_out.__cause__ = last_error
                self._watch = None  # this very task: it ends by itself
                self.give_up(timed_out)
                return
            if now < self._heard_at + self._resend_after_s:
                continue
            self._heard_at = now
            self.resends += 1
            log.info("session %s: nothing heard, sending request %s again", self.session_id, self.request_id)
            try:
                async with asyncio.timeout_at(deadline):
                    await self._send(self._request)
            except TimeoutError:
                continue  # the deadline is here
            except BrokerUnreachableError as error:
                last_error = error
                log.warning("session %s: request %s cannot be sent: %s", self.session_id, self.request_id, error)

    def _timed_out(self, after_s: float) -> TurnTimedOutError:
        state = self.view.state
        check = {
            "nothing heard": "Is a worker running on these topics? `turnlog doctor` finds out.",
        }.get(state, "The worker may be slow or be taking over from another one.")
        return TurnTimedOutError(
            f"session {self.session_id}, request {self.request_id}: not ended after {after_s:g} s; {state}; sent "
            f"{1 + self.resends} times. {check} Ask again with the same request id to get its answer."
        )
