"""Pages that follow what happens: events when a snapshot is published, and the frames of a session as they come."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.responses import Response

from turnlog.client.replies import Position, ReplyFrame
from turnlog.errors import NotFoundError, TurnlogError
from turnlog.serve.console.answers import error_envelope, reading
from turnlog.serve.console.shared import Console, published
from turnlog.serve.console.turn_events import TurnEvents
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.event_stream import event
from turnlog.snapshot.sql import open_snapshot, run

_LOOK_EVERY_S = 0.5
_MAX_WAITING = 256  #: events that a reader has not taken; then nothing more is read for it
_EARLIEST_MS = 24 * 3600 * 1000  #: replies are kept no longer


async def sessions(call: Call) -> Response:
    """``snapshot`` whenever there is another one than the page has seen (``seen``)."""
    path = call.gateway.settings.snapshot
    return call.events(_publications(path, _seen(call, published(path))))


async def _publications(path: Path, seen: int) -> AsyncIterator[bytes]:
    while True:
        if (now := published(path)) != seen:
            seen = now
            yield event({}, name="snapshot")
        await asyncio.sleep(_LOOK_EVERY_S)


def _seen(call: Call, otherwise: int) -> int:
    text = call.request.query_params.get("seen", "")
    return int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else otherwise


async def session(call: Call) -> Response:
    """The frames of a session from where a page is, and ``snapshot`` when the snapshot tells something new of it.

    Where a page is: ``Last-Event-ID`` (or ``last``) PARTITION-OFFSET, else ``since``, milliseconds since 1970.
    ``seen``: the newest offset of the session's events that it shows.
    """
    session_id = call.session()
    console = Console.of(call.gateway)
    partition = console.partition(session_id)
    query = call.request.query_params
    last = query.get("last") or call.request.headers.get("last-event-id", "")
    start: Position | None = None
    if found := re.fullmatch(r"([0-9]{1,6})-([0-9]{1,18})", last):
        start = Position(partition=partition, offset=int(found[2])) if int(found[1]) == partition else None
    elif re.fullmatch(r"[0-9]{1,15}", since := query.get("since", "")):
        earliest = Console.now_ms() - _EARLIEST_MS
        start = await console.replies_since(partition, max(int(since), earliest))
    return call.events(_merged(call, session_id, start))


async def _merged(call: Call, session_id: str, start: Position | None) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes | TurnlogError] = asyncio.Queue(_MAX_WAITING)

    async def frames() -> None:
        told = TurnEvents()
        try:
            async for reply in _frames(call, session_id, start):
                if (found := told.of(reply)) is not None:
                    name, data = found
                    await queue.put(event(data, name=name, event_id=f"{reply.partition}-{reply.offset}"))
        except TurnlogError as error:
            await queue.put(error)

    async def news() -> None:
        path = call.gateway.settings.snapshot
        seen = _seen(call, await _last_offset(path, session_id))
        async for chunk in _publications(path, 0):
            if (now := await _last_offset(path, session_id)) != seen:
                seen = now
                await queue.put(chunk)

    tasks = [asyncio.create_task(frames()), asyncio.create_task(news())]
    try:
        while True:
            item = await queue.get()
            if isinstance(item, TurnlogError):
                raise item
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _frames(call: Call, session_id: str, start: Position | None) -> AsyncIterator[ReplyFrame]:
    """From a place on; what is not kept any more is passed over."""
    follow = call.gateway.client.follow
    try:
        async for reply in follow(session_id, from_position=start, deduplicate=False):
            yield reply
    except NotFoundError:
        async for reply in follow(session_id, from_position="beginning", deduplicate=False):
            yield reply


async def _last_offset(path: Path, session_id: str) -> int:
    """Of the session's newest event in the snapshot; -1: it does not have the session."""

    def look() -> int:
        with open_snapshot(path) as connection:
            rows = run(connection, "SELECT last_offset FROM sessions WHERE session_id = ?", [session_id]).rows
        return rows[0][0] if rows else -1

    try:
        return await reading(look)
    except TurnlogError:
        return -1


ENDPOINTS = (
    Endpoint(path="/console/live/sessions", handler=sessions, scopes=("read",), envelope=error_envelope),
    Endpoint(path="/console/live/sessions/{session_id}", handler=session, scopes=("read",), envelope=error_envelope),
)
