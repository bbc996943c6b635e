"""How a model is asked to generate: from the protocols' fields to the parameters of a turn. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from turnlog.serve.http_errors import bad_request
from turnlog_schemas.generation import NO_PARAMS, GenerationParams, wrong_params

#: Passed on to the model's server by their names, where somebody says them.
_PASSED_ON = ("top_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias")


def params_of(body: Mapping[str, Any], *, max_tokens: Any, settings: Mapping[str, Any]) -> GenerationParams | None:
    """The parameters of a turn; ``None``: nothing is said. ``settings`` are more of a server's own. Raises 400."""
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise bad_request("invalid_type", "stop is a text or a list of texts", "stop")
    said = {name: body[name] for name in _PASSED_ON if body.get(name) is not None}
    said |= {name: value for name, value in settings.items() if value is not None}
    params = GenerationParams(
        temperature=_number(body.get("temperature"), "temperature"),
        max_tokens=_whole(max_tokens, "max_tokens"),
        stop=tuple(stops),
        settings={name: json.dumps(value, ensure_ascii=False) for name, value in said.items()},
    )
    if (wrong := wrong_params(params)) is not None:
        raise bad_request("invalid_value", wrong.replace("params.", ""))
    return None if params == NO_PARAMS else params


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad_request("invalid_type", f"{name} must be a number", name)
    try:
        return float(value)
    except OverflowError:
        raise bad_request("invalid_value", f"{name} is too large", name) from None


def _whole(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_request("invalid_type", f"{name} must be a whole number", name)
    return value
