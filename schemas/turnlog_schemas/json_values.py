"""JSON values -> records. Strict: a value has the type that its field says, or the field is named as wrong.

No ``"5"`` or ``5.0`` for a whole number, no ``true`` for 1, no number for a text: a producer that means something else
than it writes must hear of it. Compiled once per record type; reasons never quote a value.
"""

import dataclasses
import math
import typing
from collections.abc import Callable
from functools import cache
from typing import Any

from turnlog_schemas.mapping import is_mapping, optional_of

_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1
_MAX_KEY_CHARS = 64
Reader = Callable[[Any], Any]


class MisfitError(ValueError):
    """A value that its field cannot have; ``path`` leads to it."""

    def __init__(self, reason: str, *path: str) -> None:
        super().__init__(reason)
        self.path = path
        self._reason = reason

    def within(self, name: str) -> "MisfitError":
        """The same, as seen from one level above."""
        self.path = (name[:_MAX_KEY_CHARS], *self.path)
        return self

    def __str__(self) -> str:
        return f"{'.'.join(self.path) or 'record'}: {self._reason}"


class UnknownFieldError(MisfitError):
    """A key that is no field."""

    def __init__(self, name: str) -> None:
        super().__init__("unknown", name[:_MAX_KEY_CHARS])

    def __str__(self) -> str:
        return f"unknown field {'.'.join(self.path)!r}"


def _text(value: Any) -> str:
    if value.__class__ is not str:
        raise MisfitError("Input should be a valid string")
    text: str = value
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise MisfitError("a text is not valid Unicode (half of a surrogate pair)") from None
    return text


def _whole(value: Any) -> int:
    if value.__class__ is not int:
        raise MisfitError("Input should be a valid integer")
    number: int = value
    if not _LONG_MIN <= number <= _LONG_MAX:
        raise MisfitError("a number has more than 64 bits")
    return number


def _float(value: Any) -> float:
    try:
        if value.__class__ in (int, float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number of more digits than a float can say
        pass
    raise MisfitError("Input should be a valid number")


def _boolean(value: Any) -> bool:
    if value.__class__ is not bool:
        raise MisfitError("Input should be a valid boolean")
    return bool(value)


def _map(value: Any) -> dict[str, str]:
    if value.__class__ is not dict:
        raise MisfitError("Input should be a valid dictionary")
    given: dict[str, str] = value
    for key, item in given.items():
        _text(key)
        try:
            _text(item)
        except MisfitError as error:
            raise error.within(key) from None
    return given


def _tuple(read: Reader) -> Reader:
    def items(value: Any) -> tuple[Any, ...]:
        if value.__class__ is not list:
            raise MisfitError("Input should be a valid tuple")
        index = 0
        try:
            for index, item in enumerate(value):
                value[index] = read(item)
        except MisfitError as error:
            raise error.within(str(index)) from None
        return tuple(value)

    return items


_PRIMITIVES: dict[Any, Reader] = {str: _text, int: _whole, float: _float, bool: _boolean}


def _reader(hint: Any, *, closed: bool) -> Reader:
    """How a JSON value becomes a value of this type."""
    if hint in _PRIMITIVES:
        return _PRIMITIVES[hint]
    inner = optional_of(hint)
    if inner is not None:
        read = _reader(inner, closed=closed)
        return lambda value: None if value is None else read(value)
    if typing.get_origin(hint) is tuple:
        return _tuple(_reader(typing.get_args(hint)[0], closed=closed))
    if is_mapping(hint):
        return _map
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return record_reader(hint, closed=closed)
    raise TypeError(f"no JSON form for {hint!r}")


@cache
def field_readers(cls: type, *, closed: bool = True) -> dict[str, Reader]:
    """By field of a record: how its JSON value is read. Each raises :class:`MisfitError`."""
    hints = typing.get_type_hints(cls)
    return {field.name: _reader(hints[field.name], closed=closed) for field in dataclasses.fields(cls)}


@cache
def record_reader(cls: type, *, closed: bool = True) -> Reader:
    """A function from a JSON object to a record; ``closed``: a key that is no field is wrong, else it is ignored.

    Raises :class:`MisfitError`.
    """
    readers = field_readers(cls, closed=closed)
    required = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]

    def read(value: Any) -> Any:
        if value.__class__ is not dict:
            raise MisfitError("Input should be a dictionary")
        given: dict[str, Any] = {}
        name = ""
        try:
            for name, item in value.items():
                reader = readers.get(name)
                if reader is not None:
                    given[name] = reader(item)
                elif closed:
                    break
            else:
                for name in required:
                    if name not in given:
                        raise MisfitError("Field required")
                return cls(**given)
        except MisfitError as error:
            raise error.within(name) from None
        raise UnknownFieldError(name)

    return read


def misfit(record: Any) -> str | None:
    """Which field of a record that somebody made by hand has a value of a wrong type; ``None``: none that we find."""
    try:
        cls: type = type(record)
        record_reader(cls)(_plain(record))
    except MisfitError as error:
        return str(error)
    return None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
