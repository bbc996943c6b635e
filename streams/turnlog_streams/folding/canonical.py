"""A record's one text: equal records have equal texts, in every process and whatever the order they were built in.

JSON with sorted keys; a field that has its default is left out. ``shape_of`` tells one set of records from another.
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from immutables import Map

T = TypeVar("T")
Converter = Callable[[Any], Any]
_PLAIN = (str, int, float, bool)
_dumps = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode


def encode(record: Any) -> str:
    """The text of a frozen dataclass made of plain values, tuples, maps, sets of numbers and further dataclasses."""
    return _dumps(_to_plain(record.__class__)(record))


def decode(cls: type[T], text: str) -> T:
    """The record of a text."""
    return cast(T, _from_plain(cast(Any, cls))(json.loads(text)))


def shape_of(*classes: type) -> str:
    """A digest of the classes' fields, their types and defaults, all the way down."""
    seen: dict[str, list[str]] = {}
    for cls in classes:
        _describe(cls, seen)
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:8]


def _describe(hint: Any, seen: dict[str, list[str]]) -> None:
    for argument in typing.get_args(hint):
        _describe(argument, seen)
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)) or hint.__name__ in seen:
        return
    hints = typing.get_type_hints(hint)
    seen[hint.__name__] = [
        f"{field.name}: {hints[field.name]} = {_text_of_default(field)}" for field in dataclasses.fields(hint)
    ]
    for inner in hints.values():
        _describe(inner, seen)


def _text_of_default(field: "dataclasses.Field[Any]") -> str:
    default = _default(field)
    return "" if default is dataclasses.MISSING else f"{type(default).__name__} {_dumps(_loosely(default))}"


def _loosely(value: Any) -> Any:
    """A default for the digest."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _to_plain(type(value))(value)
    return dict(value) if isinstance(value, Mapping) else value


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@cache
def _to_plain(cls: type) -> Converter:
    """Compiled once for each class: states are written by the thousand."""
    names: dict[str, Any] = {}
    lines = []
    hints = typing.get_type_hints(cls)
    for index, field in enumerate(dataclasses.fields(cls)):
        convert = _encoder(hints[field.name])
        value = "v" if convert is None else f"convert_{index}(v)"
        names[f"convert_{index}"] = convert
        names[f"default_{index}"] = default = _default(field)
        condition = "" if default is dataclasses.MISSING else f"if v is not default_{index} and v != default_{index}: "
        lines += [f"    v = record.{field.name}", f"    {condition}plain[{field.name!r}] = {value}"]
    source = "\n".join(["def convert(record):", "    plain = {}", *lines, "    return plain"])
    exec(source, names)  # made of our own field names only
    return cast(Converter, names["convert"])


@cache
def _from_plain(cls: type) -> Converter:
    hints = typing.get_type_hints(cls)
    converters = {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(cls)}

    def convert(plain: dict[str, Any]) -> Any:
        values = {}
        for name, value in plain.items():
            converter = converters[name]
            values[name] = value if converter is None or value is None else converter(value)
        return cls(**values)

    return convert


def _is_plain(hint: Any) -> bool:
    return hint in _PLAIN


def _optional(hint: Any) -> Any | None:
    """The ``X`` of ``X | None``."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return None
    (inner,) = (argument for argument in typing.get_args(hint) if argument is not types.NoneType)
    return inner


def _unless_none(convert: Converter) -> Converter:
    return lambda value: None if value is None else convert(value)


def _each_in_list(convert: Converter) -> Converter:
    return lambda values: [convert(value) for value in values]


def _each_in_tuple(convert: Converter) -> Converter:
    return lambda values: tuple([convert(value) for value in values])


def _each_value(convert: Converter, kind: Converter) -> Converter:
    return lambda values: kind({key: convert(value) for key, value in values.items()})


def _encoder(hint: Any) -> Converter | None:
    """How a value of this type becomes plain; ``None``: it is."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_plain(hint):
        return None
    if (inner := _optional(hint)) is not None:
        convert = _encoder(inner)
        return None if convert is None else _unless_none(convert)
    if origin is tuple:
        convert = _encoder(arguments[0])
        return list if convert is None else _each_in_list(convert)
    if origin is frozenset:
        return sorted
    if origin in (Map, dict, Mapping) or origin is typing.get_origin(Mapping[str, str]):
        convert = _encoder(arguments[1])
        return dict if convert is None else _each_value(convert, dict)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _to_plain(hint)
    raise TypeError(f"no canonical text for {hint!r}")


def _decoder(hint: Any) -> Converter | None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if (inner := _optional(hint)) is not None:
        return _decoder(inner)
    if origin is tuple:
        convert = _decoder(arguments[0])
        return tuple if convert is None else _each_in_tuple(convert)
    if origin is frozenset:
        return frozenset
    if origin is Map:
        convert = _decoder(arguments[1])
        return Map if convert is None else _each_value(convert, Map)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _from_plain(hint)
    return None
