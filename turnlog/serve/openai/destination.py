"""Where a request goes: into which session, as which request, and with what of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from turnlog.client.session_info import SessionInfo
from turnlog.serve.endpoints import Call
from turnlog.serve.http_errors import HttpError, bad_request, not_found
from turnlog.serve.openai.responses_body import ResponseRequest, canonical
from turnlog.serve.openai.said import Said
from turnlog.serve.retries import digest
from turnlog.serve.session_lookups import session_info
from turnlog.serve.turn_ids import TurnRef, response_ref
from turnlog_schemas.commands import Chat
from turnlog_schemas.parts import NewSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A session, and the id of the request to it. ``behind``: only if that is its newest turn."""

    session_id: str
    request_id: str
    chat: Chat
    behind: TurnRef | None = None


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
    chat = opening_chat(asked)
    if not _says_no_more_than_new(asked):
        info = await session_info(call.gateway.client, session_id)
        chat = chat if info is None else _next_chat(asked, info)
    return Destination(session_id=session_id, request_id=request_id, chat=chat)


def _says_no_more_than_new(asked: ResponseRequest) -> bool:
    """Is it the same chat whether the conversation is there or not? Then nobody needs to be asked before."""
    said = asked.said
    return not (asked.instructions or said.instructions or said.history or len(said.users) > 1)


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
    """A session goes on behind its newest turn: its owner says whether this is it. Only one request can follow it."""
    previous = owned_turn(call, previous_id)
    key = call.request.headers.get("idempotency-key") or ""
    request_id = f"http-{digest(call.caller.name, previous_id, key, canonical(body))}"
    info = None
    if asked.instructions or asked.said.instructions:
        info = await session_info(call.gateway.client, previous.session_id)
    chat = replace(_next_chat(asked, info), after_turn=previous.turn_id, on_busy="reject")
    return Destination(session_id=previous.session_id, request_id=request_id, chat=chat, behind=previous)


def owned_turn(call: Call, response_id: str, *, hidden_too: bool = False) -> TurnRef:
    """The turn of a response that is the caller's. Raises 404 for any other."""
    turn = response_ref(response_id)
    if turn is None or not call.caller.owns(turn.session_id) or (turn in call.gateway.hidden and not hidden_too):
        raise no_response(response_id)
    return turn


def no_response(response_id: str) -> HttpError:
    """404: there is none of this id for the caller."""
    return not_found(f"response {response_id[:200]!r}")


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


def _next_chat(asked: ResponseRequest, info: SessionInfo | None) -> Chat:
    """A chat to a session that is there, as far as that is known."""
    said = asked.said
    wanted = "\n\n".join(text for text in (asked.instructions, said.instructions) if text)
    if info is not None and wanted and wanted != (info.instructions or ""):
        raise bad_request(
            "instructions_fixed",
            "a conversation keeps the instructions that it began with; begin another one for others",
            "instructions",
        )
    check_only_new(said)
    return Chat(
        content=said.content,
        model=asked.model,
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
