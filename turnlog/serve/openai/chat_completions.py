"""``/v1/chat/completions``: a completion is a turn of a session that its request names, or of one of its own."""

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator

from starlette.responses import Response

from turnlog.client.raw_requests import prepare
from turnlog.client.replies import ReplyFrame
from turnlog.errors import TurnlogError
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.event_stream import DONE, event
from turnlog.serve.http_errors import HttpError, error_fields, http_error_of, json_response
from turnlog.serve.openai.chat_body import ChatRequest, read_chat_request
from turnlog.serve.openai.chat_chunks import ChatChunks
from turnlog.serve.openai.chat_destination import ChatDestination, chat_destination
from turnlog.serve.openai.response_object import UNKNOWN_MODEL
from turnlog.serve.openai.responses_body import canonical
from turnlog.serve.told import told
from turnlog.serve.turns import Begun

log = logging.getLogger(__name__)
_MAX_LOOKS = 3

Frames = AsyncGenerator[ReplyFrame, None]


async def _create(call: Call) -> Response:
    body = await call.json()
    asked = read_chat_request(body)
    with contextlib.ExitStack() as held:
        held.callback(call.gateway.stream_limit.take(call.caller.name))
        begun, goes = await _begun(call, asked, canonical(body))
        frames: Frames = begun.frames
        if begun.replayed:
            frames = (await told(call.gateway, begun.turn, await call.gateway.turns.records.request(begun.turn))).frames
        chunks = _chunks_of(begun, asked)
        headers = _headers(begun, goes)
        if asked.stream:
            release = held.pop_all().close  # it is the stream's now
            return call.events(_stream(call, chunks, frames, goes), headers=headers, release=release)
        await call.unless_gone(_ended(call, chunks, frames, goes))
        if chunks.failed is not None:
            raise _failed(chunks)
        return json_response(chunks.completion(), headers=headers)


async def _begun(call: Call, asked: ChatRequest, content: bytes) -> tuple[Begun, ChatDestination]:
    """The turn, and where it went. A session that went on while it was looked at is looked at again."""
    for look in range(_MAX_LOOKS):
        goes = await chat_destination(call, asked, content)
        request = goes.again or prepare(
            call.gateway.client,
            goes.chat,
            session_id=goes.session_id,
            request_id=goes.request_id,
        )
        try:
            return await call.gateway.turns.begin(request), goes
        except HttpError as error:
            if error.code != "not_newest" or look == _MAX_LOOKS - 1:
                raise
    raise AssertionError("the last look raises")


def _chunks_of(begun: Begun, asked: ChatRequest) -> ChatChunks:
    return ChatChunks(
        completion_id=f"chatcmpl-{begun.turn.response_id.removeprefix('resp_')}",
        created=int(time.time()),
        model=asked.named_model or UNKNOWN_MODEL,
        include_usage=asked.include_usage,
    )


def _headers(begun: Begun, goes: ChatDestination) -> dict[str, str]:
    """Which session it went to, and that it is another one than was named, where it is."""
    headers = {"x-turnlog-session": goes.session_id, "x-turnlog-turn": begun.turn.turn_id}
    if goes.forked_from is not None:
        headers["x-turnlog-forked-from"] = goes.forked_from
    return headers


async def _ended(call: Call, chunks: ChatChunks, frames: Frames, goes: ChatDestination) -> None:
    async with contextlib.aclosing(frames):
        async for frame in frames:
            chunks.feed(frame)
    await _over(call, goes)


async def _stream(call: Call, chunks: ChatChunks, frames: Frames, goes: ChatDestination) -> AsyncIterator[bytes]:
    try:
        async with contextlib.aclosing(frames):
            async for frame in frames:
                if made := b"".join(map(event, chunks.feed(frame))):
                    yield made
        if chunks.failed is not None:
            raise _failed(chunks)
    except HttpError as error:
        yield event({"error": error_fields(error)})
        return
    except TurnlogError as error:
        yield event({"error": error_fields(http_error_of(error))})
        return
    yield DONE
    await _over(call, goes)


async def _over(call: Call, goes: ChatDestination) -> None:
    """A session for one request of a chat program is put away, so that lists show chats."""
    if not goes.side:
        return
    try:
        await call.gateway.client.archive(goes.session_id)
    except TurnlogError as error:
        log.info("the session of a side request is not archived: %s", type(error).__name__)


def _failed(chunks: ChatChunks) -> HttpError:
    """A turn that failed would fail again: clients are told not to send it once more by themselves."""
    assert chunks.failed is not None
    return HttpError(
        status=500, code=chunks.failed.code, message=chunks.failed.reason, headers={"x-should-retry": "false"}
    )


ENDPOINTS = (Endpoint(path="/v1/chat/completions", handler=_create, methods=("POST",), scopes=("chat",)),)
