"""What may be done from the pages: forms that come back, each with a request id or to one and the same end."""

from typing import Protocol

from starlette.responses import Response

from turnlog.errors import TurnlogError, UsageError
from turnlog.serve.console import saved_queries, views
from turnlog.serve.console.answers import error_envelope, form, only_everywhere, see
from turnlog.serve.console.pages import address_of
from turnlog.serve.console.shared import Console
from turnlog.serve.endpoints import Call, Endpoint, Handler
from turnlog.serve.http_errors import http_error_of
from turnlog_schemas.parts import NewSession

_TIMEOUT_S = 20.0


class _View(Protocol):
    async def __call__(self, call: Call, *, problems: tuple[str, ...], status: int) -> Response: ...


async def _failed(call: Call, view: _View, error: TurnlogError) -> Response:
    """The page that the form was on, with what went wrong; for who may not read it, that alone."""
    failed = http_error_of(error)
    if not call.caller.may(("sql",) if view is views.sql else ("read",)):
        return error_envelope(failed)
    return await view(call, problems=(str(error),), status=failed.status)


async def send(call: Call) -> Response:
    """A message to a session."""
    fields = await form(call)
    session_id = call.session()
    busy = fields.get("on_busy", "enqueue")
    try:
        if not fields.get("text", "").strip():
            raise UsageError("Write a message first.")
        await call.gateway.client.enqueue(
            session_id,
            fields["text"],
            request_id=fields.get("request_id") or None,
            model=fields.get("model", "").strip() or None,
            on_busy="interrupt" if busy == "interrupt" else "reject" if busy == "reject" else "enqueue",
        )
    except TurnlogError as error:
        return await _failed(call, views.session, error)
    return see(f"{address_of(session_id)}?done=sent")


async def begin(call: Call) -> Response:
    """A message to a session that is not there yet."""
    fields = await form(call)
    channel = fields.get("channel", "").strip()
    try:
        if not fields.get("text", "").strip():
            raise UsageError("Write a message first.")
        session_id = call.session(fields.get("session_id", "").strip())
        new = NewSession(channel=call.caller.own(channel)) if channel else None
        await call.gateway.client.enqueue(
            session_id,
            fields["text"],
            request_id=fields.get("request_id") or None,
            model=fields.get("model", "").strip() or None,
            new_session=new,
        )
    except TurnlogError as error:
        return await _failed(call, views.sessions, error)
    return see(f"{address_of(session_id)}?done=sent")


async def cancel(call: Call) -> Response:
    """End a turn."""
    fields = await form(call)
    session_id = call.session()
    try:
        await call.gateway.client.cancel(session_id, fields.get("turn_id") or None, timeout_s=_TIMEOUT_S)
    except TurnlogError as error:
        return await _failed(call, views.session, error)
    return see(f"{address_of(session_id)}?done=cancelled")


async def compact(call: Call) -> Response:
    """Have the history summarised. It may take minutes: nobody waits for it longer than a moment."""
    fields = await form(call)
    session_id = call.session()
    asked = call.gateway.client.compact(session_id, instructions=fields.get("instructions", "").strip() or None)
    try:
        made = await Console.of(call.gateway).answer_soon(asked)
    except TurnlogError as error:
        return await _failed(call, views.session, error)
    done = "compacting" if made is None else "compacted" if made.changed else "unchanged"
    return see(f"{address_of(session_id)}?done={done}")


async def archive(call: Call) -> Response:
    """Archive a session."""
    await form(call)
    session_id = call.session()
    try:
        await call.gateway.client.archive(session_id, timeout_s=_TIMEOUT_S)
    except TurnlogError as error:
        return await _failed(call, views.session, error)
    return see(f"{address_of(session_id)}?done=archived")


async def save_query(call: Call) -> Response:
    """Keep a query."""
    only_everywhere(call)
    fields = await form(call)
    try:
        await saved_queries.save(call.gateway, fields.get("name", "").strip(), fields.get("statement", "").strip())
    except TurnlogError as error:
        return await _failed(call, views.sql, error)
    return see("/console/sql?done=saved")


async def delete_query(call: Call) -> Response:
    """Forget a query."""
    only_everywhere(call)
    fields = await form(call)
    try:
        await saved_queries.delete(call.gateway, fields.get("name", "").strip())
    except TurnlogError as error:
        return await _failed(call, views.sql, error)
    return see("/console/sql?done=deleted")


def _post(path: str, handler: Handler, scope: str) -> Endpoint:
    return Endpoint(path=path, handler=handler, methods=("POST",), scopes=(scope,), envelope=error_envelope)


ENDPOINTS = (
    _post("/console/sessions", begin, "chat"),
    _post("/console/sessions/{session_id}/send", send, "chat"),
    _post("/console/sessions/{session_id}/cancel", cancel, "chat"),
    _post("/console/sessions/{session_id}/compact", compact, "admin"),
    _post("/console/sessions/{session_id}/archive", archive, "admin"),
    _post("/console/sql/save", save_query, "sql"),
    _post("/console/sql/delete", delete_query, "sql"),
)
