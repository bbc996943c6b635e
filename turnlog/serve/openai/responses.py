"""``/v1/responses``: a response is a turn. Any gateway tells of any of them, at any time, with the same numbers."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import Response

from turnlog.client.raw_requests import prepare
from turnlog.client.replies import ReplyFrame
from turnlog.errors import RequestRefusedError, TurnlogError
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.event_stream import DONE, event
from turnlog.serve.http_errors import HttpError, bad_request, error_fields, http_error_of, json_response, not_found
from turnlog.serve.openai.continuing import begun_behind
from turnlog.serve.openai.destination import owned_turn, response_destination
from turnlog.serve.openai.input_items import input_items, page_of
from turnlog.serve.openai.response_events import ResponseEvents
from turnlog.serve.openai.response_object import ECHO, ResponseSeed, packed_echo, unpacked_echo
from turnlog.serve.openai.responses_body import read_response_request
from turnlog.serve.request_records import TurnRequest
from turnlog.serve.told import stored_or_404, told
from turnlog.serve.turn_history import StoredTurn, is_hidden
from turnlog.serve.turn_ids import TurnRef
from turnlog.serve.turns import Begun

log = logging.getLogger(__name__)
_CANCEL_TIMEOUT_S = 30.0

Frames = AsyncGenerator[ReplyFrame, None]


async def _create(call: Call) -> Response:
    body = await call.json()
    asked = read_response_request(body)
    goes = await response_destination(call, asked, body)
    echo = {**asked.echo, "created_at": int(time.time())}
    packed = packed_echo(echo)

    async def begin(request_id: str) -> Begun:
        request = prepare(
            call.gateway.client,
            goes.chat,
            session_id=goes.session_id,
            request_id=request_id,
            metadata={ECHO: packed},
        )
        return await call.gateway.turns.begin(request)

    with contextlib.ExitStack() as held:
        held.callback(call.gateway.stream_limit.take(call.caller.name))
        behind = goes.behind
        begun = await (begin(goes.request_id) if behind is None else begun_behind(call, goes, behind, begin))
        if begun.replayed:
            known = await call.gateway.turns.records.request(begun.turn)
            again = await told(call.gateway, begun.turn, known)
            frames, seed = again.frames, _seed(begun.turn, known, again.stored)
        else:
            frames, seed = begun.frames, _seed_of(begun.turn, {ECHO: packed}, goes.chat.tools, 0)
        mapping = ResponseEvents(seed)
        if asked.stream:
            release = held.pop_all().close  # it is the stream's now
            return call.events(_stream(mapping, frames, -1), release=release)
        if asked.background:
            return json_response(await _begun_response(mapping, frames))
        return json_response(await call.unless_gone(_ended_response(mapping, frames)))


async def _begun_response(mapping: ResponseEvents, frames: Frames) -> dict[str, Any]:
    """What is known of it once it is accepted. It goes on by itself."""
    async with contextlib.aclosing(frames):
        async for frame in frames:
            mapping.feed(frame)
            break
    return mapping.response


async def _ended_response(mapping: ResponseEvents, frames: Frames) -> dict[str, Any]:
    async with contextlib.aclosing(frames):
        async for frame in frames:
            mapping.feed(frame)
    return mapping.response


async def _stream(mapping: ResponseEvents, frames: Frames, after: int) -> AsyncIterator[bytes]:
    """The events with a number above ``after``; those that one frame makes go out together."""
    number = after
    try:
        async with contextlib.aclosing(frames):
            async for frame in frames:
                made = [each for each in mapping.feed(frame) if each["sequence_number"] > after]
                if made:
                    number = made[-1]["sequence_number"]
                    yield b"".join(event(each, name=each["type"]) for each in made)
    except HttpError as error:
        yield _error_event(error, number)
        return
    except TurnlogError as error:
        yield _error_event(http_error_of(error), number)
        return
    yield DONE


def _error_event(error: HttpError, number: int) -> bytes:
    """The gateway cannot tell more; the turn goes on. It has no number of its own: the next event has that."""
    fields = error_fields(error)
    flat = {"code": fields["code"], "message": fields["message"], "param": fields["param"]}
    return event({"type": "error", "sequence_number": max(0, number), "error": fields, **flat}, name="error")


# ---- responses that are there


async def _owned(call: Call) -> tuple[TurnRef, TurnRequest | None]:
    """The turn of the path's response, and its request while that is kept. Raises 404."""
    turn = owned_turn(call, call.request.path_params["response_id"])
    if await is_hidden(call.gateway.client, turn):
        call.gateway.hidden.add(turn)
        raise not_found(f"response {turn.response_id!r}")
    return turn, await call.gateway.turns.records.request(turn)


async def _retrieve(call: Call) -> Response:
    turn, known = await _owned(call)
    query = call.request.query_params
    if query.get("stream") not in ("true", "1"):
        return json_response(await _now(call, turn, known))
    after = _starting_after(query.get("starting_after"))
    found = await told(call.gateway, turn, known)
    return call.events(_stream(ResponseEvents(_seed(turn, known, found.stored)), found.frames, after))


def _starting_after(text: str | None) -> int:
    if text is None:
        return -1
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise bad_request("invalid_value", "starting_after is the number of an event", "starting_after")
    return int(text)


async def _now(call: Call, turn: TurnRef, known: TurnRequest | None) -> dict[str, Any]:
    """The response as far as the frames that are there tell, else as the history does. Raises 404."""
    found = await told(call.gateway, turn, known, follow=False)
    return await _ended_response(ResponseEvents(_seed(turn, known, found.stored)), found.frames)


def _seed(turn: TurnRef, known: TurnRequest | None, stored: StoredTurn | None) -> ResponseSeed:
    """What the request said, while it is kept."""
    if known is not None:
        return _seed_of(turn, known.header.metadata, known.chat.tools, known.stored_at_ms // 1000)
    at_ms = stored.accepted_at_ms if stored is not None else None
    return ResponseSeed(turn=turn, created_at=(at_ms or 0) // 1000)


def _seed_of(turn: TurnRef, metadata: Any, tools: Any, stored_at_s: int) -> ResponseSeed:
    echo = unpacked_echo(metadata)
    return ResponseSeed(turn=turn, created_at=echo.get("created_at", stored_at_s), echo=echo, tools=tools)


async def _cancel(call: Call) -> Response:
    turn, known = await _owned(call)
    try:
        await call.gateway.client.cancel(turn.session_id, turn.turn_id)
    except RequestRefusedError as error:
        if error.code not in ("not_running", "not_found"):
            raise
        return json_response(await _now(call, turn, known))  # it has ended: this is how
    found = await told(call.gateway, turn, known)
    mapping = ResponseEvents(_seed(turn, known, found.stored))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CANCEL_TIMEOUT_S):
            await _ended_response(mapping, found.frames)
    return json_response(mapping.response)


async def _delete(call: Call) -> Response:
    """Hide it: an event. What models see of the session, and the log, stay as they are."""
    turn = owned_turn(call, call.request.path_params["response_id"], hidden_too=True)
    await call.gateway.client.hide_turn(turn.session_id, turn.turn_id, request_id=f"hide-{turn.turn_id}")
    call.gateway.hidden.add(turn)
    return json_response({"id": turn.response_id, "object": "response", "deleted": True})


async def _input_items(call: Call) -> Response:
    turn, known = await _owned(call)
    stored = None if known is not None else await stored_or_404(call.gateway, turn, known)
    items = input_items(turn, known.chat if known is not None else None, stored.said if stored is not None else ())
    return json_response(page_of(items, call.request.query_params))


_READ = ("chat", "read")
ENDPOINTS = (
    Endpoint(path="/v1/responses", handler=_create, methods=("POST",), scopes=("chat",)),
    Endpoint(path="/v1/responses/{response_id}", handler=_retrieve, scopes=_READ),
    Endpoint(path="/v1/responses/{response_id}", handler=_delete, methods=("DELETE",), scopes=("chat",)),
    Endpoint(path="/v1/responses/{response_id}/cancel", handler=_cancel, methods=("POST",), scopes=("chat",)),
    Endpoint(path="/v1/responses/{response_id}/input_items", handler=_input_items, scopes=_READ),
)
