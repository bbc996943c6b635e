"""Sessions over REST: listed, read, spoken to, stopped, compacted, put away."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from turnlog.client.raw_requests import prepare
from turnlog.client.session_info import HistoryCompaction, HistoryPage, SessionInfo
from turnlog.serve.endpoints import Call
from turnlog.serve.http_errors import HttpError, bad_request, not_found
from turnlog.serve.rest.operations import Body, NoQuery, Operation, Query
from turnlog.serve.rest.shapes import GenerationBody, NewSessionBody, TurnBegun, TurnEnded, UsageShape
from turnlog.serve.retries import digest
from turnlog.serve.turn_ids import turn_ref
from turnlog.snapshot.listing import SessionFilter, SessionList, list_sessions
from turnlog_schemas.commands import Chat
from turnlog_schemas.frames import TurnAccepted
from turnlog_schemas.parts import text_content

RequestId = Annotated[str | None, Field(max_length=256, description="The idempotency key: the same again is the same.")]
_MISSING = {404: "No such session, or none of this key's."}


class ListQuery(Query):
    """Which sessions."""

    channel: str | None = None
    no_channel: bool = False
    include_archived: bool = False
    metadata: Annotated[str | None, Field(description="NAME=VALUE that the session has.")] = None
    active_since: datetime | None = None
    active_before: datetime | None = None
    after: Annotated[str | None, Field(description="`next_after` of the page before.")] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


async def _list(call: Call, query: ListQuery, body: None) -> SessionList:
    metadata = None
    if query.metadata is not None:
        name, equals, value = query.metadata.partition("=")
        if not name or not equals:
            raise bad_request("invalid_query", "metadata is NAME=VALUE", "metadata")
        metadata = {name: value}
    which = SessionFilter(
        include_archived=query.include_archived,
        channel=call.caller.own(query.channel) if query.channel is not None else None,
        no_channel=query.no_channel,
        metadata=metadata,
        active_since=query.active_since,
        active_before=query.active_before,
        id_prefix=call.caller.namespace,
    )
    path = call.gateway.settings.snapshot
    if not path.is_file():
        raise HttpError(
            status=404, code="no_snapshot", message="no snapshot is published yet, or none for this gateway"
        )
    return await asyncio.to_thread(list_sessions, path, which, after=query.after, limit=query.limit)


async def _get(call: Call, query: NoQuery, body: None) -> SessionInfo:
    return await call.gateway.client.get(call.session())


class HistoryQuery(Query):
    """Which messages."""

    after: Annotated[int, Field(ge=0, description="The message number behind which the page begins.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    skip_covered: Annotated[bool, Field(description="Without those that a summary stands for.")] = False


async def _history(call: Call, query: HistoryQuery, body: None) -> HistoryPage:
    return await call.gateway.client.history(
        call.session(), after=query.after, limit=query.limit, skip_covered=query.skip_covered
    )


class TurnBody(Body):
    """A message to a session."""

    text: str
    model: str | None = None
    on_busy: Literal["enqueue", "reject", "interrupt"] = "enqueue"
    params: GenerationBody | None = None
    new_session: Annotated[NewSessionBody | None, Field(description="Used only if this message opens the session.")] = (
        None
    )
    request_id: RequestId = None
    after_turn: Annotated[
        str | None, Field(description="Only directly behind this turn, else 409 `not_newest`; empty: as the first one.")
    ] = None
    name: Annotated[str | None, Field(description="Of who says it, where several people speak.")] = None


async def _send(call: Call, query: NoQuery, body: TurnBody) -> TurnBegun:
    """Accepted, and not waited for: its frames come by the stream of the session."""
    chat = Chat(
        content=text_content(body.text),
        model=body.model,
        on_busy=body.on_busy,
        params=body.params.params() if body.params is not None else None,
        new_session=body.new_session.new_session(call.caller) if body.new_session is not None else None,
        after_turn=body.after_turn,
        name=body.name,
    )
    key = call.request.headers.get("idempotency-key")
    request_id = body.request_id or (f"http-{digest(call.caller.name, key)}" if key else None)
    request = prepare(call.gateway.client, chat, session_id=call.session(), request_id=request_id)
    begun = await call.gateway.turns.begin(request)
    await begun.aclose()
    first = begun.first.frame
    return TurnBegun(
        session_id=request.key,
        turn_id=begun.turn.turn_id,
        request_id=request.request_id,
        response_id=begun.turn.response_id,
        queued_turns=first.queued_turns if isinstance(first, TurnAccepted) else 0,
        opened_session=begun.opened_session,
    )


class CancelBody(Body):
    """Which turn."""

    turn_id: Annotated[str | None, Field(max_length=256, description="Absent: the running one.")] = None
    request_id: RequestId = None


async def _cancel(call: Call, query: NoQuery, body: CancelBody) -> TurnEnded:
    ended = await call.gateway.client.cancel(call.session(), body.turn_id, request_id=body.request_id)
    return TurnEnded(
        session_id=ended.session_id,
        turn_id=ended.turn_id or "",
        status=ended.status,
        text=ended.text,
        reason=ended.reason,
        usage=UsageShape.of(ended.usage),
    )


class CompactBody(Body):
    """How."""

    instructions: Annotated[str | None, Field(description="What the summary must take care of.")] = None
    summary: Annotated[str | None, Field(description="One that you have, with `to_seq`: no model is asked.")] = None
    to_seq: Annotated[int | None, Field(description="The last message that `summary` covers.")] = None
    request_id: RequestId = None


async def _compact(call: Call, query: NoQuery, body: CompactBody) -> HistoryCompaction:
    compacting = call.gateway.client.compact(
        call.session(),
        instructions=body.instructions,
        summary=body.summary,
        to_seq=body.to_seq,
        request_id=body.request_id,
    )
    return await call.unless_gone(compacting)


class RequestBody(Body):
    """Nothing but the request's own id."""

    request_id: RequestId = None


async def _archive(call: Call, query: NoQuery, body: RequestBody) -> SessionInfo:
    return await call.gateway.client.archive(call.session(), request_id=body.request_id)


async def _reset(call: Call, query: NoQuery, body: RequestBody) -> SessionInfo:
    return await call.gateway.client.reset_runner(call.session(), request_id=body.request_id)


async def _hide(call: Call, query: NoQuery, body: None) -> dict[str, Any]:
    turn_id = call.request.path_params["turn_id"]
    if len(turn_id) > 256:
        raise not_found("the turn")
    session_id = call.session()
    hidden = await call.gateway.client.hide_turn(session_id, turn_id, request_id=f"hide-{turn_id}"[:256])
    if (turn := turn_ref(session_id, hidden)) is not None:
        call.gateway.hidden.add(turn)
    return {"session_id": session_id, "turn_id": hidden, "hidden": True}


_PATH = "/v1/sessions/{session_id}"
OPERATIONS = (
    Operation(
        path="/v1/sessions",
        method="GET",
        name="listSessions",
        summary="Sessions, the most recently active first; out of the snapshot, some seconds late",
        scopes=("read",),
        work=_list,
        gives=SessionList,
        query=ListQuery,
        refuses={404: "There is no snapshot."},
    ),
    Operation(
        path=_PATH,
        method="GET",
        name="getSession",
        summary="A session as it is now",
        scopes=("read",),
        work=_get,
        gives=SessionInfo,
        refuses=_MISSING,
    ),
    Operation(
        path=f"{_PATH}/messages",
        method="GET",
        name="getHistory",
        summary="A page of a session's messages, in turn order",
        scopes=("read",),
        work=_history,
        gives=HistoryPage,
        query=HistoryQuery,
        refuses=_MISSING,
    ),
    Operation(
        path=f"{_PATH}/turns",
        method="POST",
        name="beginTurn",
        summary="A message to a session, which it opens if there is none; answered once it is accepted",
        scopes=("chat",),
        work=_send,
        gives=TurnBegun,
        body=TurnBody,
        status=202,
        refuses={409: "Busy, archived, or a request id that was used for something else.", 413: "Too long."},
    ),
    Operation(
        path=f"{_PATH}/cancel",
        method="POST",
        name="cancelTurn",
        summary="End a turn on purpose; what it had said is kept",
        scopes=("chat",),
        work=_cancel,
        gives=TurnEnded,
        body=CancelBody,
        refuses={409: "There is no such turn that has not ended."},
    ),
    Operation(
        path=f"{_PATH}/turns/{{turn_id}}",
        method="DELETE",
        name="hideTurn",
        summary="Hide a turn: nothing is erased, and models see it as before",
        scopes=("admin",),
        work=_hide,
        gives=dict[str, Any],
        refuses=_MISSING,
    ),
    Operation(
        path=f"{_PATH}/compact",
        method="POST",
        name="compactHistory",
        summary="Have a model summarise the messages before the newest; answered when that is done",
        scopes=("admin",),
        work=_compact,
        gives=HistoryCompaction,
        body=CompactBody,
        refuses={**_MISSING, 409: "Archived, or too many such requests wait.", 502: "No summary could be had."},
    ),
    Operation(
        path=f"{_PATH}/archive",
        method="POST",
        name="archiveSession",
        summary="Archive a session: it stays readable, later messages are refused",
        scopes=("admin",),
        work=_archive,
        gives=SessionInfo,
        body=RequestBody,
        refuses=_MISSING,
    ),
    Operation(
        path=f"{_PATH}/reset",
        method="POST",
        name="resetRunner",
        summary="Close the session's runner; its next turn makes a new one",
        scopes=("admin",),
        work=_reset,
        gives=SessionInfo,
        body=RequestBody,
        refuses=_MISSING,
    ),
)
