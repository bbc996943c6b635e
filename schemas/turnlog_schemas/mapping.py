"""Dataclass <-> plain dict <-> Avro schema, for the closed set of types that our records use.

Types understood: ``str``, ``int`` (long), ``float``, ``bool``, ``bytes``, ``X | None``, ``tuple[X, ...]``,
``Mapping[str, str]`` / ``dict[str, str]`` and nested record dataclasses.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_PRIMITIVES: dict[type, str] = {str: "string", int: "long", float: "double", bool: "boolean", bytes: "bytes"}
Converter = Callable[[Any], Any]


def optional_of(hint: Any) -> Any | None:
    """The ``X`` of ``X | None``, else ``None``."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        inner = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
        if len(inner) != 1:
            raise TypeError(f"only 'X | None' unions are supported, got {hint}")
        return inner[0]
    return None


def is_mapping(hint: Any) -> bool:
    """Is this the type of a map of strings?"""
    return typing.get_origin(hint) in (dict, Mapping) or typing.get_origin(hint) is typing.get_origin(Mapping[str, str])


def avro_type(hint: Any, seen: set[str]) -> Any:
    """The Avro type of a Python type hint; ``seen`` names the records already spelled out in this schema."""
    if hint in _PRIMITIVES:
        return _PRIMITIVES[hint]
    inner = optional_of(hint)
    if inner is not None:
        return ["null", avro_type(inner, seen)]
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": avro_type(typing.get_args(hint)[0], seen)}
    if is_mapping(hint):
        return {"type": "map", "values": "string"}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        name = f"turnlog.parts.{hint.__name__}"
        if name in seen:
            return name
        seen.add(name)
        return {"type": "record", "name": name, "fields": avro_fields(hint, seen)}
    raise TypeError(f"no Avro type for {hint!r}")


def avro_fields(cls: type, seen: set[str]) -> list[dict[str, Any]]:
    """The Avro fields of a dataclass, defaults included (a later reader needs them)."""
    hints = typing.get_type_hints(cls)
    out: list[dict[str, Any]] = []
    for field in dataclasses.fields(cls):
        entry: dict[str, Any] = {"name": field.name, "type": avro_type(hints[field.name], seen)}
        if dataclasses.is_dataclass(field.default):
            entry["default"] = to_dict(hints[field.name])(field.default)
        elif field.default is not dataclasses.MISSING:
            entry["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
        elif field.default_factory is not dataclasses.MISSING:
            entry["default"] = field.default_factory()
        out.append(entry)
    return out


def _nullable(convert: Converter | None) -> Converter | None:
    if convert is None:
        return None
    known = convert
    return lambda v: None if v is None else known(v)


def _to_plain(hint: Any) -> Converter | None:
    """How a value of this type becomes plain; ``None`` when it already is."""
    inner = optional_of(hint)
    if inner is not None:
        return _nullable(_to_plain(inner))
    if typing.get_origin(hint) is tuple:
        convert = _to_plain(typing.get_args(hint)[0])
        return list if convert is None else lambda v: [convert(x) for x in v]
    if is_mapping(hint):
        return dict
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return to_dict(hint)
    return None


def _from_plain(hint: Any) -> Converter | None:
    inner = optional_of(hint)
    if inner is not None:
        return _nullable(_from_plain(inner))
    if typing.get_origin(hint) is tuple:
        convert = _from_plain(typing.get_args(hint)[0])
        return tuple if convert is None else lambda v: tuple([convert(x) for x in v])
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint)
    return None


def _literal(cls: type, source: str, converters: dict[str, Any]) -> str:
    """The items of a dict literal that reads every field of ``source``, an instance of ``cls``."""
    hints = typing.get_type_hints(cls)
    items = []
    for field in dataclasses.fields(cls):
        convert = _to_plain(hints[field.name])
        value = f"{source}.{field.name}"
        if convert is not None:
            name = f"{source}_{field.name}"
            converters[name] = convert
            value = f"{name}({value})"
        items.append(f"{field.name!r}: {value}")
    return ", ".join(items)


def _compiled(source: str, names: dict[str, Any]) -> Any:
    """Evaluate a function's source. It is made of our own field names only."""
    return eval(source, names)


@cache
def to_dict(cls: type) -> Callable[[Any], dict[str, Any]]:
    """A converter from an instance of ``cls`` to a plain dict.

    The hot path: compiled once per class, as a dict literal is several times faster than a loop over fields.
    """
    names: dict[str, Any] = {}
    return typing.cast(Callable[[Any], dict[str, Any]], _compiled(f"lambda o: {{{_literal(cls, 'o', names)}}}", names))


@cache
def from_dict(cls: type) -> Callable[[Mapping[str, Any]], Any]:
    """A converter from a dict that holds at least the fields of ``cls`` (others are ignored)."""
    hints = typing.get_type_hints(cls)
    names: dict[str, Any] = {"cls": cls}
    arguments = []
    for field in dataclasses.fields(cls):
        convert = _from_plain(hints[field.name])
        value = f"d[{field.name!r}]"
        if convert is not None:
            names[f"c_{field.name}"] = convert
            value = f"c_{field.name}({value})"
        arguments.append(f"{field.name}={value}")
    return typing.cast(Callable[[Mapping[str, Any]], Any], _compiled(f"lambda d: cls({', '.join(arguments)})", names))


def jsonable(value: Any) -> Any:
    """A value of a foreign schema as JSON can hold it: bytes as Avro's JSON writes them, what JSON lacks as text."""
    match value:
        case bytes():
            return value.decode("latin-1")
        case dict():
            return {str(key): jsonable(part) for key, part in value.items()}
        case list() | tuple():
            return [jsonable(part) for part in value]
        case float() if not math.isfinite(value):
            return str(value)
        case None | str() | int() | float():
            return value
        case _:
            return str(value)
