"""The bytes of a JSON record to an object, and a reason for whatever is none.

RFC 8259: UTF-8, and blanks may come first. A byte order mark, which it lets a parser pass over, is ignored.
"""

import json
from typing import Any

from turnlog_schemas.errors import UndecodableError

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
_OTHER_ENCODINGS = (
    *((start, "UTF-32") for start in (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff", b"{\x00\x00\x00", b"\x00\x00\x00{")),
    *((start, "UTF-16") for start in (b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{\x00")),
)
#: Objects, lists and items of one text: reading so many takes about 10 ms of an event loop. The largest request that is
#: within its other bounds has a third of them.
MAX_VALUES = 50_000


class RepeatedKeyError(ValueError):
    """An object has a key twice: nobody knows which one its writer means."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class TooManyValuesError(ValueError):
    """More values than anything that we read may have."""


def is_json(data: bytes) -> bool:
    """Is it meant as JSON (and to be answered in JSON)?"""
    if data[:1] == b"{":
        return not _encoding(data)
    return data.removeprefix(_BOM).lstrip(_BLANKS)[:1] in (b"{", b"[")


def json_object(data: bytes | str, *, repeated_keys: bool = False) -> dict[str, Any]:
    """The object that the text is. With ``repeated_keys`` the last value of a key counts.

    Raises :class:`UndecodableError`; before any work that is out of bounds :class:`TooManyValuesError`; and
    :class:`RepeatedKeyError`.
    """
    try:
        if isinstance(data, bytes):
            _check_values(data)
            data = data.removeprefix(_BOM).decode("utf-8", "surrogatepass")  # what is no text is its field's fault
        top = json.loads(data) if repeated_keys else _without_repeated_keys(data)
    except (RepeatedKeyError, TooManyValuesError):
        raise
    except json.JSONDecodeError as error:
        raise UndecodableError(f"not JSON: {error.msg} (character {error.pos})") from error
    except UnicodeDecodeError as error:
        raise UndecodableError(f"not JSON in UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise UndecodableError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise UndecodableError(f"not JSON: {type(error).__name__}") from error
    if not isinstance(top, dict):
        raise UndecodableError("the JSON is not an object")
    return top


def check_encoding(data: bytes) -> None:
    """Raises :class:`UndecodableError` for JSON in another encoding than UTF-8."""
    if encoding := _encoding(data):
        raise UndecodableError(f"this looks like JSON in {encoding}: send it in UTF-8")


def _encoding(data: bytes) -> str | None:
    return next((name for start, name in _OTHER_ENCODINGS if data.startswith(start)), None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RepeatedKeyError(key)
            seen.add(key)
    return made


_without_repeated_keys = json.JSONDecoder(object_pairs_hook=_object).decode


def _check_values(data: bytes) -> None:
    """Count what opens or divides, outside of strings; only where there may be many of them."""
    if _count(data) <= MAX_VALUES:
        return
    outside = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    if sum(map(_count, outside)) > MAX_VALUES:
        raise TooManyValuesError(f"more than {MAX_VALUES} objects, lists and items")


def _count(data: bytes) -> int:
    return data.count(b"{") + data.count(b"[") + data.count(b",")
