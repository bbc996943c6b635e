"""Answers to readers of a stream: catch-up, long-poll and events, from whatever the stream is kept in."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response

from turnlog.serve.durable_streams.protocol import (
    ReadRequest,
    cursor_text,
    etag,
    gone,
    matches,
    offset_text,
    read_request,
)
from turnlog.serve.endpoints import Call
from turnlog.serve.http_errors import bad_request

LONG_POLL_TIMEOUT_S = 20.0
EVENTS_TIMEOUT_S = 60.0  #: then the reader connects again, perhaps to another gateway
_CACHED = "private, max-age=60, stale-while-revalidate=300"
_NOT_CACHED = "no-store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What of a stream there is: positions, the end exclusive. Nothing is added to a closed one."""

    first: int  #: that is kept
    begin: int  #: before this there is nothing of it
    end: int
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Messages from a position on. ``next``: the position behind what was looked at."""

    items: tuple[bytes, ...]
    next: int
    up_to_date: bool  #: there was nothing more when it was read
    closed: bool = False  #: and there never will be


class Source(Protocol):
    """A stream as it is kept. ``is_json``: each message is a JSON text; else they are bytes of one document."""

    name: str
    content_type: str
    is_json: bool

    async def extent(self) -> Extent:
        """What there is now."""
        ...

    async def read(self, start: int) -> Chunk:
        """A bounded part from a position that is kept, or the end."""
        ...

    def follow(self, start: int) -> AsyncGenerator[Chunk, None]:
        """What comes behind a position, as it comes; ends behind a chunk that is closed."""
        ...


async def answer(call: Call, source: Source) -> Response:
    """The answer to HEAD or GET."""
    if call.request.method == "HEAD":
        extent = await source.extent()
        headers = {"content-type": source.content_type, "stream-next-offset": offset_text(extent.end)}
        if extent.closed:
            headers["stream-closed"] = "true"
        return _response(b"", headers, cache=_NOT_CACHED)
    request = read_request(call.request.query_params.multi_items())
    extent = await source.extent()
    start = extent.end if request.start == "now" else extent.begin if request.start is None else request.start
    if start < extent.first:
        raise gone(extent.first)
    if start > extent.end:
        raise bad_request("invalid_offset", "this stream has not come so far", "offset")
    if request.live == "sse":
        return call.events(_events(source, request, start, extent), headers={"access-control-expose-headers": _EXPOSED})
    if request.live == "long-poll":
        return await _long_poll(source, request, start, extent)
    return await _catch_up(call, source, request, start, extent)


_EXPOSED = "stream-next-offset, stream-cursor, stream-up-to-date, stream-closed, etag"


def _response(body: bytes, headers: Mapping[str, str], *, status: int = 200, cache: str = _CACHED) -> Response:
    return Response(body, status_code=status, headers={**headers, "cache-control": cache})


def _body(source: Source, items: tuple[bytes, ...]) -> bytes:
    return b"[" + b",".join(items) + b"]" if source.is_json else b"".join(items)


def _said(source: Source, chunk: Chunk) -> dict[str, str]:
    headers = {"content-type": source.content_type, "stream-next-offset": offset_text(chunk.next)}
    if chunk.up_to_date:
        headers["stream-up-to-date"] = "true"
    if chunk.closed:
        headers["stream-closed"] = "true"
    return headers


async def _catch_up(call: Call, source: Source, request: ReadRequest, start: int, extent: Extent) -> Response:
    if request.start == "now":
        here = Chunk(items=(), next=extent.end, up_to_date=True, closed=extent.closed)
        return _response(_body(source, ()), _said(source, here), cache=_NOT_CACHED)
    chunk = await source.read(start)
    asked = None if request.start is None else start
    tag = etag(source.name, asked, chunk.next, closed=chunk.closed)
    headers = {**_said(source, chunk), "etag": tag}
    if matches(call.request.headers.get("if-none-match"), tag):
        headers.pop("content-type")
        return _response(b"", headers, status=304)
    return _response(_body(source, chunk.items), headers)


def _cursor(request: ReadRequest) -> str:
    return cursor_text(time.time(), request.cursor, random.uniform(1, 3600))


async def _long_poll(source: Source, request: ReadRequest, start: int, extent: Extent) -> Response:
    chunk = Chunk(items=(), next=start, up_to_date=True, closed=extent.closed and start >= extent.end)
    if request.start != "now":
        chunk = await source.read(start)
    if not chunk.items and not chunk.closed and chunk.up_to_date:
        chunk = await _next(source, chunk)
    headers = _said(source, chunk)
    if not chunk.closed:
        headers["stream-cursor"] = _cursor(request)
    if not chunk.items and chunk.up_to_date:
        headers.pop("content-type")
        return _response(b"", headers, status=204, cache=_NOT_CACHED)
    return _response(_body(source, chunk.items), headers)


async def _next(source: Source, seen: Chunk) -> Chunk:
    """What comes next, or the same place again if nothing does."""
    following = source.follow(seen.next)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONG_POLL_TIMEOUT_S):
                async for chunk in following:
                    return chunk
    finally:
        await following.aclose()
    return seen


async def _events(source: Source, request: ReadRequest, start: int, extent: Extent) -> AsyncIterator[bytes]:
    """``data`` and ``control`` by turns, from the position on."""
    chunk = Chunk(items=(), next=start, up_to_date=True, closed=extent.closed and start >= extent.end)
    if request.start == "now" or chunk.closed:
        yield _control(request, chunk)
    else:
        while True:
            chunk = await source.read(chunk.next)
            if told := _told(source, request, chunk, always=chunk.up_to_date or chunk.closed):
                yield told
            if chunk.up_to_date or chunk.closed:
                break
    if chunk.closed:
        return
    following = source.follow(chunk.next)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EVENTS_TIMEOUT_S) as limit:
                async for chunk in following:
                    when = limit.when()
                    limit.reschedule(None)  # what a reader takes its time for is no silence of ours
                    yield _told(source, request, chunk, always=True)
                    limit.reschedule(when)
    finally:
        await following.aclose()


def _told(source: Source, request: ReadRequest, chunk: Chunk, *, always: bool) -> bytes:
    """Messages and their position go out in one piece: no reader sees the one and waits for the other."""
    data = _data(source, chunk.items) if chunk.items else b""
    return data + _control(request, chunk) if data or always else b""


def _data(source: Source, items: tuple[bytes, ...]) -> bytes:
    """A text of several lines is one event of several lines: JSON never is."""
    lines = _body(source, items).decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return _event("data", lines)


def _control(request: ReadRequest, chunk: Chunk) -> bytes:
    told: dict[str, object] = {"streamNextOffset": offset_text(chunk.next)}
    if chunk.closed:
        told["streamClosed"] = True
    else:
        told["streamCursor"] = _cursor(request)
    if chunk.up_to_date:
        told["upToDate"] = True
    return _event("control", [json.dumps(told, separators=(",", ":"))])


def _event(name: str, lines: list[str]) -> bytes:
    """Without the blank that may follow the colon: the protocol's own tests have none."""
    return "".join((f"event: {name}\n", *(f"data:{line}\n" for line in lines), "\n")).encode()
