"""How a model is asked to generate: parameters of a deployment, a session and a request; the narrower one decides."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

MAX_TEMPERATURE = 2.0
MAX_TOKENS = 1_000_000
MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_SETTINGS = 32
MAX_SETTINGS_BYTES = 8 * 1024  #: names and values together
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
#: What a runner says itself: in the settings it would be another request than the one that is answered for.
RESERVED = frozenset(
    (
        *("model", "messages", "system", "prompt", "input", "stream", "stream_options", "n", "best_of"),
        *("tools", "tool_choice", "functions", "function_call", "max_tokens", "max_completion_tokens", "temperature"),
        *("stop", "stop_sequences", "max_retries", "timeout", "extra_body", "extra_headers", "id_slot", "slot_id"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """What is said of it; the rest is left to the wider ones, and in the end to the model's server."""

    temperature: float | None = None  #: 0 to 2
    max_tokens: int | None = None  #: of one answer
    stop: tuple[str, ...] = ()  #: texts at which an answer ends
    settings: Mapping[str, str] = field(default_factory=dict)  #: a provider's own, by name; each value is JSON


NO_PARAMS = GenerationParams()


def copied(params: GenerationParams | None) -> GenerationParams:
    """The same for somebody who may write into the settings."""
    return GenerationParams() if params is None else replace(params, settings=dict(params.settings))


def wrong_params(params: GenerationParams) -> str | None:
    """What no model could be asked with, as a sentence; ``None``: nothing."""
    temperature = params.temperature
    if temperature is not None and not (math.isfinite(temperature) and 0 <= temperature <= MAX_TEMPERATURE):
        return f"params.temperature is not between 0 and {MAX_TEMPERATURE:g}"
    if params.max_tokens is not None and not 1 <= params.max_tokens <= MAX_TOKENS:
        return f"params.max_tokens is not between 1 and {MAX_TOKENS}"
    if len(params.stop) > MAX_STOPS:
        return f"params.stop has {len(params.stop)} texts; at most {MAX_STOPS} are accepted"
    if not all(0 < len(text.encode(errors="replace")) <= MAX_STOP_BYTES for text in params.stop):
        return f"a text of params.stop is empty or longer than {MAX_STOP_BYTES} bytes"
    return _wrong_settings(params.settings)


def _wrong_settings(settings: Mapping[str, str]) -> str | None:
    if len(settings) > MAX_SETTINGS:
        return f"params.settings has {len(settings)} entries; at most {MAX_SETTINGS} are accepted"
    size = sum(
        len(name.encode(errors="replace")) + len(text.encode(errors="replace")) for name, text in settings.items()
    )
    if size > MAX_SETTINGS_BYTES:
        return f"params.settings has {size} bytes; at most {MAX_SETTINGS_BYTES} are accepted"
    for name, text in settings.items():
        if not _NAME.fullmatch(name):
            return f"params.settings: {name[:64]!r} is no name of a setting"
        if name in RESERVED:
            return f"params.settings: {name!r} is not for a request to set"
        try:
            json.loads(text, parse_constant=_refused)
        except (ValueError, RecursionError):
            return f'params.settings: the value of {name!r} is no JSON (a text is "in quotes")'
    return None


def _refused(name: str) -> None:
    raise ValueError(name)


def merged(*layers: GenerationParams | None) -> GenerationParams | None:
    """From the widest to the narrowest; settings are merged one by one. ``None``: nothing is said."""
    said = [layer for layer in layers if layer is not None and layer != NO_PARAMS]
    if len(said) <= 1:
        return said[0] if said else None
    settings: dict[str, str] = {}
    for layer in said:
        settings |= layer.settings
    return GenerationParams(
        temperature=next((layer.temperature for layer in reversed(said) if layer.temperature is not None), None),
        max_tokens=next((layer.max_tokens for layer in reversed(said) if layer.max_tokens is not None), None),
        stop=next((layer.stop for layer in reversed(said) if layer.stop), ()),
        settings=settings,
    )
