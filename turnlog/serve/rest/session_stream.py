"""The frames of a session as server-sent events. An event's id is its position: to go on from."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from turnlog.client.raw_requests import partitions
from turnlog.client.replies import ReplyFrame
from turnlog.serve.endpoints import Call
from turnlog.serve.event_stream import EventStream, event
from turnlog.serve.http_errors import HttpError, bad_request
from turnlog.serve.rest.operations import Operation, Query
from turnlog.serve.session_frames import session_frames
from turnlog_schemas.codec import Codec, UnknownPayload
from turnlog_schemas.registry import FRAMES
from turnlog_schemas.type_names import snake
from turnlog_streams.topics import partition_of

_POSITION = re.compile(r"([0-9]{1,10})-([0-9]{1,19})")
_CODEC = Codec(FRAMES)


class StreamQuery(Query):
    """Where to begin, for a reader that cannot send ``Last-Event-ID``."""

    after: str | None = None
    beginning: bool = False


async def _events(call: Call, query: StreamQuery, body: None) -> EventStream:
    """All frames of the session, those that do not count too: the reader's rule of the wire says which do."""
    session_id = call.session()
    partition = partition_of(session_id.encode(), partitions(call.gateway.client))
    start = await _start(call, partition, call.request.headers.get("last-event-id") or query.after, query.beginning)
    opened = session_frames(call.gateway.client, session_id, start)
    frames = await opened.__aenter__()
    return call.events(_written(frames, opened))


async def _start(call: Call, partition: int, position: str | None, beginning: bool) -> int | None:
    """The offset to read from; ``None``: from now on. Raises 400 and 410."""
    if position is None:
        return 0 if beginning else None
    found = _POSITION.fullmatch(position)
    if found is None or int(found[1]) != partition:
        raise bad_request("invalid_position", "this is no position of the session's frames", "last-event-id")
    start = int(found[2]) + 1
    bounds = await call.gateway.turns.records.replies_at(partition, 0)
    if not bounds.first <= start <= bounds.end:
        raise HttpError(
            status=410,
            code="position_gone",
            message="no frame is there (any more; they are kept for a day): read the session's messages, begin anew",
        )
    return start


async def _written(frames: AsyncIterator[ReplyFrame], opened: AbstractAsyncContextManager[Any]) -> AsyncIterator[bytes]:
    try:
        yield b"retry: 2000\n: from here on\n\n"
        async for reply in frames:
            yield frame_event(reply)
    finally:
        await opened.__aexit__(None, None, None)


def frame_event(reply: ReplyFrame) -> bytes:
    """A frame in the form of the wire, under its type's name."""
    position = f"{reply.partition}-{reply.offset}"
    if isinstance(reply.frame, UnknownPayload):
        return event({"type": snake(reply.frame.name)}, name="unknown", event_id=position)
    data = _CODEC.to_json(reply.header, reply.frame)
    return event(data, name=snake(type(reply.frame).__name__), event_id=position)


OPERATIONS = (
    Operation(
        path="/v1/sessions/{session_id}/stream",
        method="GET",
        name="streamSession",
        summary="The session's reply frames as they come, as server-sent events; Last-Event-ID is a position",
        scopes=("read",),
        work=_events,
        gives=None,
        query=StreamQuery,
        refuses={410: "The position is older than what is kept."},
    ),
)
