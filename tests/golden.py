"""The bytes of every record type, kept in ``tests/data/golden``: they fail a test when the encoding changes.

``python -m tests.golden`` writes them anew from the examples below; then read the diff. A change to bytes that a
release has written is a broken log.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from turnlog_schemas.codec import Codec
from turnlog_schemas.registry import FAMILIES, Family

FOLDER = Path(__file__).parent / "data" / "golden"


def full(hint: Any, name: str) -> Any:
    """A value with everything in it, told by the field's name alone."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return full(next(arg for arg in args if arg is not types.NoneType), name)
    if origin is tuple:
        return (full(args[0], f"{name}.0"), full(args[0], f"{name}.1"))
    if origin in (dict, Mapping):
        return {f"{name} key": f"{name} värde ✓"}
    if hint is str:
        return f"{name} ✓ 𝛌"
    if hint is int:
        return -(2**63) + sum(name.encode())
    if hint is bool:
        return True
    if hint is float:
        return sum(name.encode()) / 7
    hints = typing.get_type_hints(hint)
    return hint(**{field.name: full(hints[field.name], field.name) for field in dataclasses.fields(hint)})


def bare(hint: Any) -> Any:
    """A value with as little as possible in it: defaults, nulls, empty lists and texts, zeros."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return None
    if origin is tuple:
        return ()
    if origin in (dict, Mapping):
        return {}
    if hint in (str, int, bool):
        return hint()
    hints = typing.get_type_hints(hint)
    required = [
        field
        for field in dataclasses.fields(hint)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return hint(**{field.name: bare(hints[field.name]) for field in required})


def examples(family: Family, payload: type) -> list[tuple[Any, Any]]:
    """The records whose bytes are kept."""
    return [(full(family.header, "header"), full(payload, "payload")), (bare(family.header), bare(payload))]


def expected(family: Family, payload: type) -> list[dict[str, Any]]:
    """What the kept file of a record type has to say today."""
    codec = Codec(family)
    return [
        {"avro": codec.encode(header, record).hex(), "json": codec.to_json(header, record)}
        for header, record in examples(family, payload)
    ]


def record_types() -> Iterator[tuple[Family, type, Path]]:
    """Every record type and its file."""
    for family in FAMILIES.values():
        for payload in family.payloads:
            yield family, payload, FOLDER / f"{family.name}.{payload.__name__}.json"


def main() -> None:
    """Write every file; those of types that are gone are removed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for family, payload, path in record_types():
        text = json.dumps(expected(family, payload), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
