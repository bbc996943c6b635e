"""The response that every stream of events is: server-sent events, whole ones in every write.

Lines end in LF, an event's data is one line, and the content type has no charset: parsers are that strict.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from turnlog.errors import TurnlogError
from turnlog.serve.measured import FIRST_BYTE
from turnlog.serve.open_streams import OpenStream, OpenStreams, Put, StreamCutError

log = logging.getLogger(__name__)
_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-store",
    "x-accel-buffering": "no",  # a proxy that collects would sit on the first words
}
_GONE_TIMEOUT_S = 5.0
_to_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # one encoder: it is costly to make
DONE = b"data: [DONE]\n\n"


def event(data: Any, *, name: str | None = None, event_id: str | None = None) -> bytes:
    """One event. ``data`` becomes JSON on one line, or is a text without line breaks."""
    text = data if isinstance(data, str) else _to_text(data)
    lines = []
    if event_id is not None:
        lines.append(f"id: {event_id}\n")
    if name is not None:
        lines.append(f"event: {name}\n")
    return "".join((*lines, "data: ", text, "\n\n")).encode("utf-8", "replace")


class EventStream(Response):
    """Events as they come. The reader may go at any time: nothing but this response ends with it.

    ``events`` yields whole events as bytes; it says what goes wrong by itself, in its protocol's words. What it raises
    all the same cuts the connection, so that nobody takes the end for a good one.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        streams: OpenStreams,
        *,
        release: Callable[[], None] = lambda: None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``release`` is called once the stream has ended, however it did."""
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, **(headers or {})})
        self._events = events
        self._streams = streams
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events end, the reader is gone, or the gateway stops."""
        state = scope.get("state", {})
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            first = scope.get(FIRST_BYTE, _nothing)
            put = state.get("write_chunk") if scope.get("http_version") == "1.1" else None  # others have no chunks
            if not await self._until_gone(receive, send, put or _by(send), state.get("cut", _nothing), first):
                state.get("hang_up", _nothing)()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_disconnected(receive), _GONE_TIMEOUT_S)
        finally:
            self._release()

    async def _until_gone(
        self, receive: Receive, send: Send, put: Put, cut: Callable[[], None], first: Callable[[], None]
    ) -> bool:
        """Did the stream end well, or with its reader? Else its connection is to be dropped."""
        pump = asyncio.create_task(self._pump(send, put, cut, first))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
            if not pump.done():
                self._streams.ended["gone"] += 1
                return True
            whole = not pump.cancelled() and pump.result()
            self._streams.ended["whole" if whole else "cut"] += 1
            return whole
        finally:
            gone.cancel()
            pump.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)

    async def _pump(self, send: Send, put: Put, cut: Callable[[], None], first: Callable[[], None]) -> bool:
        stream: OpenStream | None = None
        try:
            stream = self._streams.open(put, cut)
            async for chunk in self._events:
                await stream.write(chunk)
                if first is not _nothing:
                    first()
                    first = _nothing
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (StreamCutError, TurnlogError) as error:
            log.info("a stream is cut: %s", type(error).__name__)
            return False
        except Exception:
            log.exception("a stream is cut: it failed")
            return False
        finally:
            if stream is not None:
                self._streams.close(stream)
            if (aclose := getattr(self._events, "aclose", None)) is not None:
                await aclose()
        return True


def _by(send: Send) -> Put:
    async def put(chunk: bytes) -> None:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})

    return put


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _nothing() -> None:
    pass
