"""Servers by name, from the JSON object of a setting."""

import json
import re
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)

#: What pydantic calls a problem, and what we say.
_PROBLEMS = {
    "value_error": "{error}",
    "extra_forbidden": "there is no such field; known are {known}",
    "missing": "it is missing",
    "string_pattern_mismatch": "it is no name of an environment variable",
    "literal_error": "it must be {expected}",
    "string_too_long": "it has more than {max_length} characters",
}


class Rules(NamedTuple):
    """What a setting takes."""

    example: str  #: one server, as JSON
    most: int
    name: re.Pattern[str]
    name_in_words: str


def read_named_servers(text: str, kind: type[M], rules: Rules) -> dict[str, M]:
    """The servers by name. Raises ``ValueError`` with a sentence, without any value."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise ValueError(f"this is no JSON object of servers, such as {rules.example}")
    if len(raw) > rules.most:
        raise ValueError(f"{len(raw)} servers; at most {rules.most} may be named")
    return {name: _server(name, described, kind, rules) for name, described in raw.items()}


def _server(name: str, described: object, kind: type[M], rules: Rules) -> M:
    if not rules.name.fullmatch(name):
        raise ValueError(f"{name[:70]!r} is no name of a server: {rules.name_in_words}")
    if not isinstance(described, Mapping):
        raise ValueError(f"server {name!r} is no JSON object")
    try:
        return kind.model_validate(described)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part)[:70] for part in first["loc"])
        words = _PROBLEMS.get(first["type"])
        known = ", ".join(kind.model_fields)
        what = first["msg"] if words is None else words.format(known=known, **first.get("ctx", {}))
        raise ValueError(f"server {name!r}{f', {field}' if field else ''}: {what}") from None
