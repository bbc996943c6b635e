"""Channels and run-time settings over REST."""

import re
from typing import Annotated, Any

from pydantic import Field

from turnlog.client.session_info import SessionInfo
from turnlog.serve.endpoints import Call
from turnlog.serve.http_errors import HttpError, not_found
from turnlog.serve.rest.operations import Body, NoQuery, Operation
from turnlog_schemas.commands import ID_PATTERN


class OpenBody(Body):
    """How a session of the channel is made."""

    title: str | None = None
    instructions: str | None = None
    model: str | None = None
    metadata: dict[str, str] | None = None
    history_max_tokens: int | None = None
    history_keep_tail: int | None = None
    request_id: Annotated[str | None, Field(max_length=256)] = None

    def arguments(self) -> dict[str, Any]:
        """Of the client's verbs."""
        return self.model_dump(exclude={"session_id"})


class CreateBody(OpenBody):
    """How a session is made, and what it is called."""

    session_id: str | None = None


def _channel(call: Call) -> str:
    name = call.caller.own(call.request.path_params["channel"])
    if not re.fullmatch(ID_PATTERN, name):
        raise not_found(f"channel {name[:128]!r}")
    return name


async def _active(call: Call, query: NoQuery, body: None) -> SessionInfo:
    return await call.gateway.client.active(_channel(call))


async def _create(call: Call, query: NoQuery, body: CreateBody) -> SessionInfo:
    session_id = call.session(body.session_id) if body.session_id is not None else None
    # A name that the channel makes begins with the channel's: it is in the caller's namespace, too.
    return await call.gateway.client.create(_channel(call), session_id=session_id, **body.arguments())


async def _resolve(call: Call, query: NoQuery, body: OpenBody) -> SessionInfo:
    return await call.gateway.client.resolve(_channel(call), **body.arguments())


async def _rotate(call: Call, query: NoQuery, body: OpenBody) -> SessionInfo:
    return await call.gateway.client.rotate(_channel(call), **body.arguments())


async def _settings(call: Call, query: NoQuery, body: None) -> dict[str, str]:
    _everybody(call)
    return await call.gateway.client.get_settings()


class SettingBody(Body):
    """A run-time setting."""

    value: str


async def _set(call: Call, query: NoQuery, body: SettingBody) -> dict[str, str]:
    _everybody(call)
    await call.gateway.client.set_setting(call.request.path_params["name"], body.value)
    return {call.request.path_params["name"]: body.value}


async def _unset(call: Call, query: NoQuery, body: None) -> dict[str, str]:
    _everybody(call)
    await call.gateway.client.set_setting(call.request.path_params["name"], None)
    return {}


def _everybody(call: Call) -> None:
    """403 for a key with a namespace: settings are everybody's."""
    if call.caller.namespace:
        message = "settings are those of the whole deployment; this key has a namespace"
        raise HttpError(status=403, code="missing_scope", message=message)


_PATH = "/v1/channels/{channel}"
_SETTING = "/v1/settings/{name:path}"
_EXISTS = {409: "There is a session of that id, or the request id was used for something else."}
OPERATIONS = (
    Operation(
        path=_PATH,
        method="GET",
        name="getActiveSession",
        summary="The channel's active session",
        scopes=("read",),
        work=_active,
        gives=SessionInfo,
        refuses={404: "It has none."},
    ),
    Operation(
        path=f"{_PATH}/sessions",
        method="POST",
        name="createSession",
        summary="Open a session in the channel; it becomes the active one",
        scopes=("admin",),
        work=_create,
        gives=SessionInfo,
        body=CreateBody,
        status=201,
        refuses=_EXISTS,
    ),
    Operation(
        path=f"{_PATH}/resolve",
        method="POST",
        name="resolveSession",
        summary="The channel's active session; a new one if there is none",
        scopes=("admin",),
        work=_resolve,
        gives=SessionInfo,
        body=OpenBody,
    ),
    Operation(
        path=f"{_PATH}/rotate",
        method="POST",
        name="rotateSession",
        summary="Archive the channel's active session, if any, and open a new one",
        scopes=("admin",),
        work=_rotate,
        gives=SessionInfo,
        body=OpenBody,
    ),
    Operation(
        path="/v1/settings",
        method="GET",
        name="getSettings",
        summary="The run-time settings that are set",
        scopes=("admin",),
        work=_settings,
        gives=dict[str, str],
    ),
    Operation(
        path=_SETTING,
        method="PUT",
        name="setSetting",
        summary="Change a run-time setting; every worker follows within a second",
        scopes=("admin",),
        work=_set,
        gives=dict[str, str],
        body=SettingBody,
    ),
    Operation(
        path=_SETTING,
        method="DELETE",
        name="unsetSetting",
        summary="As the workers were started with",
        scopes=("admin",),
        work=_unset,
        gives=dict[str, str],
    ),
)
