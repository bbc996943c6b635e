"""The event streams that are open: kept alive by comments, cut when their reader does not read, ended at shutdown."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)
HEARTBEAT = b": ping\n\n"  #: a comment: every client passes over it
_LOOK_EVERY_S = 1.0

#: Gives the connection whole events; returns when it has room for more.
Put = Callable[[bytes], Awaitable[None]]


class StreamCutError(Exception):
    """The stream ends here, in the middle: its reader goes on elsewhere from what it has."""


class OpenStream:
    """One of them. It is written to by one task at a time."""

    def __init__(self, put: Put, cut: Callable[[], None], clock: Callable[[], float]) -> None:
        """``cut``: drops the connection, whatever waits in it."""
        self._put = put
        self._clock = clock
        self.cut = cut
        self.sent_at = clock()  #: seconds of the clock; of the newest event, or when the one under way was begun
        self.sending = False
        self.task: asyncio.Task[None] | None = None

    async def write(self, chunk: bytes) -> None:
        """Whole events. Returns when the connection has room for more."""
        self.sending = True
        self.sent_at = self._clock()
        try:
            await self._put(chunk)
        finally:
            self.sending = False


class OpenStreams:
    """All of a gateway's. One task looks after them, so that an event costs no timer."""

    def __init__(self, *, heartbeat_s: float, slow_reader_timeout_s: float, clock: Callable[[], float]) -> None:
        self._heartbeat_s = heartbeat_s
        self._slow_reader_timeout_s = slow_reader_timeout_s
        self._clock = clock
        self._open: set[OpenStream] = set()
        self._ticker: asyncio.Task[None] | None = None
        self.cut_readers = 0  #: since the start
        self.ended: Counter[str] = Counter()  #: since the start: ``whole``, ``gone`` (their reader went), ``cut``
        self.stopping = False

    def __len__(self) -> int:
        return len(self._open)

    def open(self, put: Put, cut: Callable[[], None]) -> OpenStream:
        """A new one; ``cut`` drops its connection. Close it. Raises :class:`StreamCutError` at shutdown."""
        if self.stopping:
            raise StreamCutError
        stream = OpenStream(put, cut, self._clock)
        stream.task = asyncio.current_task()
        self._open.add(stream)
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._look_after(), name="open streams")
        return stream

    def close(self, stream: OpenStream) -> None:
        """It is written to no more."""
        self._open.discard(stream)

    def stop(self) -> None:
        """End all of them now, and take no more."""
        self.stopping = True
        for stream in tuple(self._open):
            if stream.task is not None:
                stream.task.cancel()

    async def aclose(self) -> None:
        """End all of them, and whoever looks after them."""
        self.stop()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    async def _look_after(self) -> None:
        while self._open:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = self._clock()
            for stream in tuple(self._open):
                await self._look(stream, now)

    async def _look(self, stream: OpenStream, now: float) -> None:
        silent_s = now - stream.sent_at
        if stream.sending:
            if silent_s > self._slow_reader_timeout_s:
                self.cut_readers += 1
                log.info("a reader has read nothing for %.0f s: its stream is cut", silent_s)
                stream.cut()
        elif silent_s >= self._heartbeat_s:
            # Not awaited beyond what has room: a full connection would keep the others waiting.
            beating = asyncio.ensure_future(stream.write(HEARTBEAT))
            beating.add_done_callback(_seen)


def _seen(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("a heartbeat was not sent: %s", type(error).__name__)
