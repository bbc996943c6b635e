"""What a schema that somebody publishes must not be: one by which a few bytes make a reader work without end.

Anybody may put a schema into the schemas topic, and every worker reads records by it. An Avro reader follows a type
that contains itself as deep as the data says, and reads as many items as a list claims, whether or not they have
bytes. So each value of a record must take a byte at least, and its types must end.
"""

from typing import Any

MAX_DEPTH = 32
_MAX_TYPES = 2_000  #: of all that one schema spells out, each use of a named type counted


class SchemaShapeError(ValueError):
    """The schema is of a shape that is not read."""


def check_shape(schema: Any) -> None:
    """Raises :class:`SchemaShapeError` for a schema (as ``json.loads`` gives it) that is not safe to read by."""
    _Shape().check(schema, 0)


class _Shape:
    """One look through a schema, into named types at each use of them."""

    def __init__(self) -> None:
        self._named: dict[str, Any] = {}
        self._within: set[str] = set()
        self._types = 0

    def check(self, schema: Any, depth: int, *, in_union: bool = False) -> None:
        self._types += 1
        if depth > MAX_DEPTH or self._types > _MAX_TYPES:
            raise SchemaShapeError(f"its types are nested deeper than {MAX_DEPTH}, or more than {_MAX_TYPES}")
        if isinstance(schema, list):
            for branch in schema:
                self.check(branch, depth + 1, in_union=True)
        elif isinstance(schema, str):
            self._name(schema, depth, in_union)
        elif isinstance(schema, dict):
            self._complex(schema, depth, in_union)

    def _name(self, name: str, depth: int, in_union: bool) -> None:
        if name == "null" and not in_union:
            raise SchemaShapeError("null stands by itself, as a value of no bytes")
        known = self._named.get(name.rpartition(".")[2])
        if known is not None:
            self._complex(known, depth, in_union)

    def _complex(self, schema: dict[str, Any], depth: int, in_union: bool) -> None:
        kind = schema.get("type")
        name = str(schema.get("name", "")).rpartition(".")[2]
        if kind not in ("record", "error", "fixed", "enum"):
            inner = {"array": "items", "map": "values"}.get(kind if isinstance(kind, str) else "")
            self.check(schema.get(inner) if inner else kind, depth + 1, in_union=in_union and inner is None)
            return
        if name in self._within:
            raise SchemaShapeError(f"{name} contains itself")
        self._named[name] = schema
        if kind == "fixed" and not schema.get("size"):
            raise SchemaShapeError(f"{name} is a value of no bytes")
        if kind in ("record", "error"):
            fields = schema.get("fields") or []
            if not fields:
                raise SchemaShapeError(f"{name} is a record of no bytes")
            self._within.add(name)
            for field in fields:
                self.check(field.get("type"), depth + 1)
            self._within.discard(name)
