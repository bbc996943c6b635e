"""One chat request, followed to the end of its turn."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from turnlog.client.exchange import Exchange, Line
from turnlog.client.replies import FinishedTurn, ReplyFrame, TurnView
from turnlog.client.request_sender import PreparedRequest
from turnlog.errors import ReaderTooSlowError, TurnTimedOutError


class ChatTurn(Exchange):
    """The reply frames of one turn as they come, and how it ended.

    Iterate over it (``async for reply in turn``), await :meth:`result`, or both. The request is sent when the first of
    them begins. See :class:`turnlog.client.exchange.Exchange` for when it is sent again, and forgotten.
    """

    def __init__(
        self,
        request: PreparedRequest,
        line: Line,
        *,
        timeout_s: float,
        resend_after_s: float,
        max_buffered_frames: int,
    ) -> None:
        super().__init__(request, line, timeout_s=timeout_s, resend_after_s=resend_after_s)
        self.session_id = request.key
        self.view = TurnView()
        self.dropped_deltas = 0  #: pieces that came faster than they were read
        self._max_buffered_frames = max_buffered_frames
        self._buffer: deque[ReplyFrame] = deque()
        self._overrun = False

    @property
    def ended(self) -> bool:
        """Has the turn (or its refusal) been seen to the end?"""
        return self.view.ended

    @property
    def state(self) -> str:
        """Where the turn stands as far as this reader knows, in words."""
        return self.view.state

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
                await self._until_ended()
        except TimeoutError as error:
            raise self._timed_out(timeout_s or 0.0) from error
        if self.view.refused is not None:
            raise self.view.refused
        assert self.view.finished is not None
        return self.view.finished

    def _take(self, reply: ReplyFrame) -> None:
        """Take in a frame of this request."""
        if self.view.feed(reply) and self.view.refused is None:
            self._keep(reply)

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

    def _timed_out(self, after_s: float, how: str = "not ended") -> TurnTimedOutError:
        return TurnTimedOutError(self._timed_out_sentence(how, after_s))
