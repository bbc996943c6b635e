"""Where a request goes: into which session, as which request, and with what of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from turnlog.serve.endpoints import Call
from turnlog.serve.http_errors import HttpError, bad_request, not_found
from turnlog.serve.openai.responses_body import ResponseRequest, canonical
from turnlog.serve.openai.said import Said
from turnlog.serve.retries import digest
from turnlog.serve.session_lookups import SessionNow, session_now
from turnlog.serve.turn_ids import TurnRef, response_ref, turn_ref
from turnlog_schemas.commands import Chat
from turnlog_schemas.parts import NewSession

_FORK = "fork"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A session, and the id of the request to it."""

    session_id: str
    request_id: str
    chat: Chat


async def response_destination(call: Call, asked: ResponseRequest, body: Mapping[str, object]) -> Destination:
    """Where a response goes. Raises 400, 404 and 409."""
    if asked.previous_response_id is not None:
        return await _after_response(call, asked, body, asked.previous_response_id)
    content = canonical(body)
    if asked.conversation is None:
        request_id = request_id_of(call, "responses", content)
        session_id = call.caller.own(f"resp-{digest(request_id)}")
        return Destination(session_id=session_id, request_id=request_id, chat=opening_chat(asked))
    session_id = call.session(asked.conversation)
    request_id = request_id_of(call, session_id, content)
    now = await session_now(call.gateway.client, session_id)
    if now is None:
        return Destination(session_id=session_id, request_id=request_id, chat=opening_chat(asked))
    return Destination(session_id=session_id, request_id=request_id, chat=_next_chat(asked, now, on_busy="enqueue"))


def request_id_of(call: Call, place: str, content: bytes) -> str:
    """The request's id: see :class:`turnlog.serve.retries.RecentRequests`."""
    headers = call.request.headers
    return call.gateway.recent.request_id(
        caller=call.caller.name,
        place=place,
        body=content,
        idempotency_key=headers.get("idempotency-key"),
        retry=headers.get("x-stainless-retry-count", "0") not in ("", "0"),
    )


async def _after_response(
    call: Call, asked: ResponseRequest, body: Mapping[str, object], previous_id: str
) -> Destination:
    """A session goes on behind its newest turn. Only one request can follow it, so the id needs no header."""
    previous = owned_turn(call, previous_id)
    key = call.request.headers.get("idempotency-key") or ""
    request_id = f"http-{digest(call.caller.name, previous_id, key, canonical(body))}"
    now = await session_now(call.gateway.client, previous.session_id)
    if now is None:
        raise _no_response(previous_id)
    if now.newest_turn_id == previous.turn_id:
        if now.open_turns:
            raise bad_request(
                "response_in_progress", "the previous response has not ended: wait for it", "previous_response_id"
            )
    elif not await _is_retry(call, now, request_id):
        await _check_exists(call, now, previous, previous_id)
        raise bad_request(
            _FORK,
            "the previous response is not the newest of its conversation; to fork one is not possible yet: go on from "
            "the newest, or send what it should begin with as input",
            "previous_response_id",
        )
    chat = _next_chat(asked, now, on_busy="reject")
    return Destination(session_id=previous.session_id, request_id=request_id, chat=chat)


def owned_turn(call: Call, response_id: str, *, hidden_too: bool = False) -> TurnRef:
    """The turn of a response that is the caller's. Raises 404 for any other."""
    turn = response_ref(response_id)
    if turn is None or not call.caller.owns(turn.session_id) or (turn in call.gateway.hidden and not hidden_too):
        raise _no_response(response_id)
    return turn


def _no_response(response_id: str) -> HttpError:
    return not_found(f"response {response_id[:200]!r}")


async def _is_retry(call: Call, now: SessionNow, request_id: str) -> bool:
    newest = turn_ref(now.info.session_id, now.newest_turn_id or "")
    known = await call.gateway.turns.records.request(newest) if newest is not None else None
    return known is not None and known.request_id == request_id


async def _check_exists(call: Call, now: SessionNow, turn: TurnRef, response_id: str) -> None:
    """404 for a turn that there never was. One whose request is gone from its topic may have been."""
    newest = turn_ref(turn.session_id, now.newest_turn_id or "")
    if newest is None or newest.partition != turn.partition or turn.offset > newest.offset:
        raise _no_response(response_id)
    if await call.gateway.turns.records.request(turn) is not None:
        return
    page = await call.gateway.client.history(turn.session_id, limit=1)
    first = turn_ref(turn.session_id, page.messages[0].turn_id) if page.messages else None
    if first is not None and turn.offset <= first.offset:
        raise _no_response(response_id)


# ---- the command


def opening_chat(asked: ResponseRequest) -> Chat:
    """A chat that opens its session."""
    said = asked.said
    instructions = "\n\n".join(text for text in (asked.instructions, said.instructions) if text) or None
    return chat_of(asked, said, instructions=instructions)


def chat_of(asked: ResponseRequest, said: Said, *, instructions: str | None) -> Chat:
    """The command of a session that begins with what was said before."""
    return Chat(
        content=said.opening_content,
        model=asked.model,
        new_session=NewSession(instructions=instructions, messages=said.before),
        params=asked.params,
        tools=asked.tools,
        tool_outputs=said.outputs,
    )


def _next_chat(asked: ResponseRequest, now: SessionNow, *, on_busy: str) -> Chat:
    said = asked.said
    wanted = "\n\n".join(text for text in (asked.instructions, said.instructions) if text)
    if wanted and wanted != (now.info.instructions or ""):
        raise bad_request(
            "instructions_fixed",
            "a conversation keeps the instructions that it began with; begin another one for others",
            "instructions",
        )
    check_only_new(said)
    return Chat(
        content=said.content,
        model=asked.model,
        on_busy=on_busy,
        params=asked.params,
        tools=asked.tools,
        tool_outputs=said.outputs,
    )


def check_only_new(said: Said) -> None:
    """400 for what a session that is there would not take: it has its history. Calls may stand beside their outputs."""
    answered = {output.call_id for output in said.outputs}
    for message in said.history:
        if message.content or not {call.call_id for call in message.tool_calls} <= answered:
            raise bad_request(
                "history_in_conversation",
                "a conversation that is there takes what is new: the user's message, or the outputs of calls",
                "input",
            )
