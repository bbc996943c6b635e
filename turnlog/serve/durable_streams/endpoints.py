"""``/v1/stream/sessions/{id}`` and ``…/turns/{turn}``: GET and HEAD; writing is Kafka's."""

from starlette.responses import Response

from turnlog.serve.durable_streams.frames import FrameSource, ReplyStreams
from turnlog.serve.durable_streams.reading import answer
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.http_errors import HttpError, not_found

_READS = ("GET", "HEAD")
_WRITES = ("PUT", "POST", "DELETE")


async def _session(call: Call) -> Response:
    session_id = call.session()
    streams = ReplyStreams.of(call.gateway)
    return await answer(call, FrameSource(streams, session_id, await streams.session(session_id)))


async def _turn(call: Call) -> Response:
    session_id, turn_id = call.session(), call.request.path_params["turn_id"]
    streams = ReplyStreams.of(call.gateway)
    known = await streams.turn(session_id, turn_id)
    return await answer(call, FrameSource(streams, session_id, known, turn_id))


async def _read_only(call: Call) -> Response:
    """405 where a stream is, 404 where none is."""
    session_id = call.session()
    streams = ReplyStreams.of(call.gateway)
    await streams.session(session_id)
    if (turn_id := call.request.path_params.get("turn_id")) is not None:
        await streams.turn(session_id, turn_id)
    raise HttpError(
        status=405,
        code="read_only",
        message="these streams are written by way of Kafka; send a request instead",
        headers={"allow": "GET, HEAD, OPTIONS"},
    )


async def _nowhere(call: Call) -> Response:
    raise not_found("this stream")


_SESSION = "/v1/stream/sessions/{session_id}"
_TURN = "/v1/stream/sessions/{session_id}/turns/{turn_id}"
ENDPOINTS = (
    Endpoint(path=_SESSION, handler=_session, methods=_READS, scopes=("read",)),
    Endpoint(path=_TURN, handler=_turn, methods=_READS, scopes=("read",)),
    Endpoint(path=_SESSION, handler=_read_only, methods=_WRITES, scopes=("read",)),
    Endpoint(path=_TURN, handler=_read_only, methods=_WRITES, scopes=("read",)),
    Endpoint(path="/v1/stream/{name:path}", handler=_nowhere, methods=(*_READS, *_WRITES), scopes=("read",)),
)
