"""Where a chat completion goes: a session by name, a fork of it, or one of its own."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from turnlog.client.request_sender import PreparedRequest
from turnlog.serve.endpoints import Call
from turnlog.serve.openai.chat_body import ChatRequest
from turnlog.serve.openai.destination import request_id_of
from turnlog.serve.openai.history_match import mark, same_history, spoken
from turnlog.serve.openai.side_requests import is_alone, is_named_task, looks_like_task
from turnlog.serve.retries import digest
from turnlog.serve.session_lookups import session_info, whole_history
from turnlog.serve.turn_ids import turn_ref
from turnlog_schemas.commands import ID_PATTERN, Chat
from turnlog_schemas.parts import HistoryEntry, InitialMessage, NewSession

SESSION_HEADER = "x-turnlog-session"
_MAX_FORK_LOOKUPS = 12
_MAX_ALIKE = 8  #: forks that began with the same words


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDestination:
    """A session and what is sent to it. ``again``: the request as it was sent before, which this is a retry of."""

    session_id: str
    request_id: str
    chat: Chat
    again: PreparedRequest | None = None
    forked_from: str | None = None
    side: bool = False  #: of no chat: its session is over with it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    session_id: str
    resends_history: bool  #: it always sends all that was said: a lone message is a beginning


async def chat_destination(call: Call, asked: ChatRequest, content: bytes) -> ChatDestination:
    """Where a completion goes. Raises 400 and 404."""
    named = _named(call, asked)
    place = named.session_id if named is not None else "chat"
    request_id = request_id_of(call, place, content)
    side = is_named_task(call.request.headers, asked.metadata) or (named is not None and looks_like_task(asked))
    if named is None or side:
        return _one_off(call, asked, request_id, side=side)
    history = await _history(call, named.session_id)
    if history is None:
        return ChatDestination(session_id=named.session_id, request_id=request_id, chat=_opening(asked, named))
    if (again := await _again(call, named.session_id, history, request_id)) is not None:
        return again
    if _goes_on(asked, history, named):
        return ChatDestination(session_id=named.session_id, request_id=request_id, chat=_next(asked, history, named))
    if named.resends_history and is_alone(asked):
        return _one_off(call, asked, request_id, side=True)  # the same rule for tasks that nothing gives away
    return await _fork(call, asked, named, request_id)


def _named(call: Call, asked: ChatRequest) -> _Named | None:
    headers = call.request.headers
    explicit = headers.get(SESSION_HEADER) or asked.metadata.get("session_id")
    if isinstance(explicit, str) and explicit:
        return _Named(session_id=call.session(explicit), resends_history=False)
    header = call.gateway.settings.http_chat_id_header
    chat_id = headers.get(header, "").strip() if header else ""
    if not chat_id or chat_id.startswith("{{"):  # a template that was not filled
        return None
    return _Named(session_id=call.caller.own(_as_id(chat_id)), resends_history=True)


def _as_id(chat_id: str) -> str:
    """As an id of a session: what does not fit is hashed."""
    plain = f"chat-{chat_id}"
    return plain if re.fullmatch(ID_PATTERN, plain) and len(plain) <= 60 else f"chat-{digest(chat_id)}"


def _one_off(call: Call, asked: ChatRequest, request_id: str, *, side: bool) -> ChatDestination:
    session_id = call.caller.own(f"{'task' if side else 'chat'}-{digest(request_id)}")
    chat = _opening(asked, None)
    return ChatDestination(session_id=session_id, request_id=request_id, chat=chat, side=side)


async def _history(call: Call, session_id: str) -> list[HistoryEntry] | None:
    client = call.gateway.client
    if await session_info(client, session_id) is None:
        return None
    return await whole_history(client, session_id)


async def _again(
    call: Call, session_id: str, history: Sequence[HistoryEntry], request_id: str
) -> ChatDestination | None:
    """The request itself, if its session has it already as its newest."""
    newest = turn_ref(session_id, history[-1].turn_id) if history else None
    known = await call.gateway.turns.records.request(newest) if newest is not None else None
    if known is None or known.request_id != request_id:
        return None
    return ChatDestination(session_id=session_id, request_id=request_id, chat=known.chat, again=known.prepared)


def _goes_on(asked: ChatRequest, history: Sequence[HistoryEntry], named: _Named) -> bool:
    if not _compares(asked, named):
        return True  # it sends what is new alone
    return same_history(spoken(asked.said.history), spoken(history))


async def _fork(call: Call, asked: ChatRequest, named: _Named, request_id: str) -> ChatDestination:
    """The fork whose history was sent, else a new one that begins with it."""
    lookups = 0
    for beginning in _beginnings(asked.said.history):
        for number in range(_MAX_ALIKE):
            if lookups >= _MAX_FORK_LOOKUPS:
                break
            lookups += 1
            session_id = _fork_id(named.session_id, beginning, number)
            history = await _history(call, session_id)
            if history is None:
                break
            if _goes_on(asked, history, named):
                return ChatDestination(
                    session_id=session_id,
                    request_id=request_id,
                    chat=_next(asked, history, named),
                    forked_from=named.session_id,
                )
    everything = (*asked.said.history, *asked.said.users)
    for number in range(_MAX_ALIKE):
        session_id = _fork_id(named.session_id, everything, number)
        history = await _history(call, session_id)
        if history is None:
            break
        if (again := await _again(call, session_id, history, request_id)) is not None:
            return again
    else:
        session_id = call.caller.own(f"chat-{digest(request_id)}")
    return ChatDestination(
        session_id=session_id, request_id=request_id, chat=_opening(asked, named), forked_from=named.session_id
    )


def _beginnings(history: Sequence[InitialMessage]) -> Iterator[Sequence[InitialMessage]]:
    """What a fork may have begun with: up to each message of the user, the newest first."""
    for index in range(len(history) - 1, -1, -1):
        if history[index].role == "user":
            yield history[: index + 1]


def _fork_id(base: str, beginning: Sequence[InitialMessage], number: int) -> str:
    return f"{base[:100]}-{mark(beginning, number)}"


def _opening(asked: ChatRequest, named: _Named | None) -> Chat:
    """A chat that opens its session. Two at a time do not both: what the second one sent is no history of the first."""
    said = asked.said
    return Chat(
        content=said.opening_content,
        model=asked.model,
        new_session=NewSession(instructions=said.instructions, messages=said.before),
        params=asked.params,
        tools=asked.tools,
        tool_outputs=said.outputs,
        name=said.opening_name,
        after_turn="" if named is not None and _compares(asked, named) else None,
    )


def _compares(asked: ChatRequest, named: _Named) -> bool:
    """Does it say what it goes on from? Else what is new comes behind whatever is there."""
    return bool(asked.said.history) or named.resends_history


def _next(asked: ChatRequest, history: Sequence[HistoryEntry], named: _Named) -> Chat:
    return Chat(
        content=asked.said.content,
        model=asked.model,
        params=asked.params,
        tools=asked.tools,
        tool_outputs=asked.said.outputs,
        name=asked.said.name,
        after_turn=(history[-1].turn_id if history else "") if _compares(asked, named) else None,
    )
