"""Who sent a JSON request that is too long to be read: a walk over its top level with bounded work."""

import json
import re
from collections.abc import Collection
from typing import Any

from turnlog_schemas.errors import UndecodableError

_MAX_BYTES = 16 * 1024 * 1024
_MAX_STEPS = 20_000  #: about 10 ms
_BLANKS = re.compile(r"[ \t\r\n]*")
_value = json.JSONDecoder().raw_decode
_OPENS_OR_CLOSES = re.compile(r'["\[\]{}]')


class _TooMuchError(Exception):
    """The walk took more steps than it may."""


def json_address(data: bytes, wanted: Collection[str]) -> dict[str, Any]:
    """The wanted texts of the top level, each there once: those that come before the work is too much.

    Raises :class:`UndecodableError` for what is no JSON up to there.
    """
    if len(data) > _MAX_BYTES:
        raise UndecodableError("too long to be searched")
    found: dict[str, Any] = {}
    try:
        _walk(data.decode("utf-8-sig"), wanted, found)
    except _TooMuchError:
        return found
    except (ValueError, IndexError) as error:
        raise UndecodableError("no address in its top level") from error
    return found


def _walk(text: str, wanted: Collection[str], found: dict[str, Any]) -> None:
    steps = 0
    at = _after(text, 0, "{")
    while True:
        steps += 1
        if steps > _MAX_STEPS:
            raise _TooMuchError
        name, at = _value(text, _after(text, at, '"') - 1)
        at = _blank(text, _after(text, at, ":"))
        if text[at] in "{[":
            value = None
            at, steps = _skip(text, at, steps)
        else:
            value, at = _value(text, at)
        if name in wanted:
            if name in found:
                raise ValueError(name)
            found[name] = value
        at = _blank(text, at)
        if text[at] == "}":
            return
        at = _after(text, at, ",")


def _skip(text: str, at: int, steps: int) -> tuple[int, int]:
    """Behind the object or list that begins here."""
    depth = 0
    while True:
        steps += 1
        found = _OPENS_OR_CLOSES.search(text, at)
        if found is None or steps > _MAX_STEPS:
            raise _TooMuchError
        at = found.end()
        match found.group():
            case '"':
                _, at = _value(text, at - 1)
            case "{" | "[":
                depth += 1
            case _:
                depth -= 1
                if not depth:
                    return at, steps


def _after(text: str, at: int, expected: str) -> int:
    at = _blank(text, at)
    if text[at] != expected:
        raise ValueError(expected)
    return at + 1


def _blank(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return at if found is None else found.end()
