"""Settings of how models are asked to generate, and of how much they take, from the JSON of their variables."""

import json
from typing import Any

from turnlog_schemas.generation import GenerationParams, wrong_params
from turnlog_schemas.json_values import MisfitError, record_reader

MAX_WINDOWS = 100
_MIN_WINDOW_TOKENS = 512
_MAX_WINDOW_TOKENS = 100_000_000


def read_params(text: str) -> GenerationParams:
    """Such as ``{"temperature": 0.2, "settings": {"top_p": "0.9"}}``. Raises ``ValueError`` with a sentence."""
    try:
        params: GenerationParams = record_reader(GenerationParams)(_object(text, '{"temperature": 0.2}'))
    except MisfitError as error:
        raise ValueError(str(error)) from error
    if (wrong := wrong_params(params)) is not None:
        raise ValueError(wrong.replace("params.", ""))
    return params


def read_windows(text: str) -> tuple[tuple[str, int], ...]:
    """Such as ``{"http:local#*": 8192}``: what fits first counts. Raises ``ValueError`` with a sentence."""
    raw = _object(text, '{"http:local#*": 8192}')
    if len(raw) > MAX_WINDOWS:
        raise ValueError(f"{len(raw)} patterns; at most {MAX_WINDOWS} may be named")
    for pattern, tokens in raw.items():
        if type(tokens) is not int or not _MIN_WINDOW_TOKENS <= tokens <= _MAX_WINDOW_TOKENS:
            raise ValueError(
                f"the window of {pattern[:100]!r} is not between {_MIN_WINDOW_TOKENS} and {_MAX_WINDOW_TOKENS} tokens"
            )
    return tuple(raw.items())


def _object(text: str, example: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise ValueError(f"this is no JSON object, such as {example}")
    return raw
