"""``/v1/models``: what may be asked for, as far as the settings say it by name."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.http_errors import json_response, not_found
from turnlog.serve.openai.response_object import UNKNOWN_MODEL
from turnlog_streams.runtime_settings import DEFAULT_MODEL

_STARTED = int(time.time())
_WILD = "*?["


def model_names(allowed: Sequence[str], default: str) -> list[str]:
    """``turnlog`` (whatever a session's model, or the default, is), the default, and what the patterns name.

    Of ``echo:*`` that is ``echo:``; other names that a pattern allows may be asked for without being listed.
    """
    names = [UNKNOWN_MODEL, default]
    for pattern in allowed:
        plain = pattern[:-1] if pattern.endswith(":*") else pattern
        if not any(character in plain for character in _WILD):
            names.append(plain)
    return list(dict.fromkeys(names))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "turnlog"}


async def _names(call: Call) -> list[str]:
    settings = call.gateway.settings
    run_time: Mapping[str, str] = await call.gateway.client.get_settings()
    return model_names(settings.allow_models, run_time.get(DEFAULT_MODEL) or settings.default_model)


async def _list(call: Call) -> Response:
    return json_response({"object": "list", "data": [_model(name) for name in await _names(call)]})


async def _one(call: Call) -> Response:
    name = call.request.path_params["model"]
    if name not in await _names(call) and not call.gateway.settings.policy().allows(name):
        raise not_found(f"model {name[:200]!r}")
    return json_response(_model(name))


ENDPOINTS = (
    Endpoint(path="/v1/models", handler=_list),
    Endpoint(path="/v1/models/{model:path}", handler=_one),
)
