"""``/v1/conversations``: a conversation is a session, and its items are the history."""

import time
import uuid
from typing import Any

from starlette.responses import Response

from turnlog.client.raw_requests import ask
from turnlog.client.session_info import SessionInfo
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.http_errors import HttpError, bad_request, json_response, not_found
from turnlog.serve.openai.input_items import history_items, page_of
from turnlog.serve.openai.responses_body import read_items, read_metadata
from turnlog.serve.session_lookups import session_info, whole_history
from turnlog_schemas.commands import CreateSession
from turnlog_schemas.frames import SessionInfo as SessionInfoFrame
from turnlog_schemas.parts import NewSession

#: The channel of those that are made here: a session that nothing was said in yet must belong to one.
CHANNEL = "conversations"
_CREATED_AT = "created_at"
_MAX_ITEMS = 20


async def _create(call: Call) -> Response:
    body = await call.json()
    metadata = read_metadata(body.get("metadata"))
    items = body.get("items") or []
    if not isinstance(items, list) or len(items) > _MAX_ITEMS:
        raise bad_request("invalid_value", f"items is a list of at most {_MAX_ITEMS}", "items")
    messages = read_items(items) if items else []
    created_at = int(time.time())
    session_id = call.caller.own(f"conv_{uuid.uuid4().hex}")
    new = NewSession(messages=tuple(messages), metadata={**metadata, f"turnlog.{_CREATED_AT}": str(created_at)})
    await ask(
        call.gateway.client,
        CreateSession(new_session=new),
        SessionInfoFrame,
        session_id=session_id,
        channel=call.caller.own(CHANNEL),
    )
    return json_response(_conversation(session_id, created_at, metadata))


def _conversation(session_id: str, created_at: int, metadata: Any) -> dict[str, Any]:
    return {"id": session_id, "object": "conversation", "created_at": created_at, "metadata": metadata}


async def _found(call: Call) -> SessionInfo:
    session_id = call.session()
    info = await session_info(call.gateway.client, session_id)
    if info is None or info.archived:
        raise not_found(f"conversation {session_id!r}")
    return info


async def _retrieve(call: Call) -> Response:
    info = await _found(call)
    metadata = dict(info.metadata)
    created = metadata.pop(f"turnlog.{_CREATED_AT}", "0")
    created_at = int(created) if created.isascii() and created.isdigit() else 0
    return json_response(_conversation(info.session_id, created_at, metadata))


async def _delete(call: Call) -> Response:
    """It is archived: it takes no more messages, and stays in the log."""
    info = await _found(call)
    await call.gateway.client.archive(info.session_id)
    return json_response({"id": info.session_id, "object": "conversation.deleted", "deleted": True})


async def _items(call: Call) -> Response:
    info = await _found(call)
    items = history_items(await whole_history(call.gateway.client, info.session_id))
    return json_response(page_of(items, call.request.query_params))


async def _item(call: Call) -> Response:
    info = await _found(call)
    wanted = call.request.path_params["item_id"]
    for item in history_items(await whole_history(call.gateway.client, info.session_id)):
        if item["id"] == wanted:
            return json_response(item)
    raise not_found(f"item {wanted[:100]!r}")


async def _fixed(call: Call) -> Response:
    raise HttpError(
        status=400,
        code="unsupported",
        message="what is in a conversation's log stays as it is: its items and its metadata are not changed here; "
        "items come with responses",
    )


_PATH, _READ = "/v1/conversations/{session_id}", ("chat", "read")
ENDPOINTS = (
    Endpoint(path="/v1/conversations", handler=_create, methods=("POST",), scopes=("chat",)),
    Endpoint(path=_PATH, handler=_retrieve, scopes=_READ),
    Endpoint(path=_PATH, handler=_fixed, methods=("POST",), scopes=("chat",)),
    Endpoint(path=_PATH, handler=_delete, methods=("DELETE",), scopes=("chat",)),
    Endpoint(path=f"{_PATH}/items", handler=_items, scopes=_READ),
    Endpoint(path=f"{_PATH}/items", handler=_fixed, methods=("POST",), scopes=("chat",)),
    Endpoint(path=f"{_PATH}/items/{{item_id}}", handler=_item, scopes=_READ),
    Endpoint(path=f"{_PATH}/items/{{item_id}}", handler=_fixed, methods=("DELETE",), scopes=("chat",)),
)
