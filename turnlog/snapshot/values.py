"""Values of a query's result as text that gives them back: SQL that asks DuckDB for exact text, and JSON made of it.

DuckDB's own conversion to Python loses some: nanoseconds, months of an interval, infinite dates, digits. So leaves of
such types leave DuckDB as text, wherever they stand in a nested value.

=========================== ==========================================================================================
type                        in JSON (in CSV the same, a text without its quotes; nested values as JSON)
=========================== ==========================================================================================
BOOLEAN                     true, false
integers                    a number with all its digits; BIGNUM: a text
FLOAT, DOUBLE               a number that reads back as the same one; "NaN", "Infinity", "-Infinity"
DECIMAL                     up to 15 digits a number, else a text: readers that take numbers for doubles lose digits
VARCHAR, ENUM, UUID, BIT    a text
times of all kinds          a text that DuckDB casts back: ISO 8601 from year 0 to 9999, else DuckDB's ("infinity")
INTERVAL                    DuckDB's text: 1 month 2 days 00:00:00.000003
BLOB                        Base64
JSON                        itself, digit by digit; as a text where readers would fail on it (see below)
LIST, ARRAY                 an array
STRUCT                      an object; without names an array
MAP                         an object with the keys as text; with nested keys an array of {"key": ..., "value": ...}
UNION                       {"tag": value}
anything else               DuckDB's text, and a note: VARIANT and GEOMETRY do not come back exactly
=========================== ==========================================================================================

JSON becomes a text when it is nested too deep, has a number of too many digits, or is JSON to DuckDB alone (NaN).
"""

import base64
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any

from turnlog_workers.base.counted import counted

MAX_JSON_DEPTH = 200  #: more than any event has; parsers give up at 256 to 1,000
MAX_JSON_DIGITS = 4_000  #: Python's own limit is 4,300
_EXACT_DOUBLE_DIGITS = 15
_INTEGERS = frozenset(
    ("tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger", "ubigint", "uhugeint")
)
_TEXTS = frozenset(("varchar", "enum"))
_AS_TEXT = frozenset(("uuid", "bit", "bignum", "interval", "date", "time", "time with time zone", "time_ns"))
_MOMENTS = frozenset(("timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone"))
_NOT_FINITE = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


@dataclass(slots=True)
class Notes:
    """What could not be given as it is, by kind of note."""

    told: dict[str, int] = field(default_factory=dict)

    def add(self, note: str) -> None:
        self.told[note] = self.told.get(note, 0) + 1

    def sentences(self) -> list[str]:
        return [f"{note} ({counted(count, 'value')})" for note, count in self.told.items()]


class Form:
    """How values of one type leave DuckDB and become text. Not ``None``: NULL is for the caller."""

    numeric = False
    plain = False  #: its text has neither commas nor quotes, blanks at its ends, or line ends, and is never empty

    def sql(self, value: str, depth: int) -> str:
        """The expression that asks for it, given the expression of the value; ``depth`` numbers the lambdas."""
        return value

    def json(self, value: Any) -> str:
        """JSON text of what came."""
        raise AssertionError(type(self))

    def cell(self, value: Any) -> str:
        """CSV text of what came."""
        return self.json(value)

    def or_null(self, value: Any) -> str:
        return "null" if value is None else self.json(value)


class _Bool(Form):
    plain = True

    def json(self, value: Any) -> str:
        return "true" if value else "false"


class _Integer(Form):
    plain = True
    numeric = True

    def json(self, value: Any) -> str:
        return str(value)


class _Double(Form):
    plain = True
    numeric = True

    def json(self, value: Any) -> str:
        text = self.cell(value)
        return text if math.isfinite(value) else f'"{text}"'

    def cell(self, value: Any) -> str:
        if math.isfinite(value):
            return float.__repr__(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class _Text(Form):
    def json(self, value: Any) -> str:
        return encode_basestring(self.cell(value))

    def cell(self, value: Any) -> str:
        return str(value)


class _Blob(_Text):
    def cell(self, value: Any) -> str:
        return base64.b64encode(value).decode("ascii")


class _Cast(_Text):
    """DuckDB's own text."""

    plain = True

    def sql(self, value: str, depth: int) -> str:
        return f"CAST({value} AS VARCHAR)"


class _Float(_Cast):
    """A FLOAT's own shortest digits, not those of the double that Python would make of it."""

    numeric = True

    def json(self, value: Any) -> str:
        return f'"{self.cell(value)}"' if value in _NOT_FINITE else str(value)

    def cell(self, value: Any) -> str:
        return _NOT_FINITE.get(value, str(value))


class _ShortDecimal(_Cast):
    numeric = True

    def json(self, value: Any) -> str:
        return str(value)


class _LongDecimal(_Cast):
    numeric = True


class _Moment(_Cast):
    def cell(self, value: Any) -> str:
        text = str(value)
        if text[4:5] != "-" or text[10:11] != " " or text[11:12] == "(":  # a longer year, infinity, before our time
            return text
        zone = ":00" if text.endswith("+00") else ""  # the connection's is UTC
        return f"{text[:10]}T{text[11:]}{zone}"


class _Unsure(_Cast):
    """A type of which nobody here knows whether its text gives the value back."""

    plain = False

    def __init__(self, name: str, notes: Notes) -> None:
        self._note = f"{name} is given as DuckDB's text, which may not give the value back"
        self._notes = notes

    def cell(self, value: Any) -> str:
        self._notes.add(self._note)
        return str(value)


class _Json(_Text):
    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def json(self, value: Any) -> str:
        note = _unsuitable(value)
        if note is None:
            return str(value).replace("\r", " ").replace("\n", " ")  # only between tokens can they be
        self._notes.add(f"JSON {note} is given as a text")
        return encode_basestring(value)


class _List(Form):
    def __init__(self, item: Form) -> None:
        self._item = item

    def sql(self, value: str, depth: int) -> str:
        name = f"turnlog_{depth}"
        inner = self._item.sql(name, depth + 1)
        return value if inner == name else f"list_transform({value}, lambda {name}: {inner})"

    def json(self, value: Any) -> str:
        return f"[{', '.join(map(self._item.or_null, value))}]"


class _Struct(Form):
    """DuckDB hands one without names to Python as a tuple."""

    def __init__(self, fields: list[tuple[str, Form]]) -> None:
        self._fields = fields
        self._named = any(name for name, _ in fields)

    def sql(self, value: str, depth: int) -> str:
        parts = [f"struct_extract_at({value}, {number})" for number in range(1, len(self._fields) + 1)]
        inner = [form.sql(part, depth) for part, (_, form) in zip(parts, self._fields, strict=True)]
        if inner == parts:
            return value
        if self._named:
            packed = ", ".join(f"{_name(name)} := {part}" for (name, _), part in zip(self._fields, inner, strict=True))
            made = f"struct_pack({packed})"
        else:
            made = f"row({', '.join(inner)})"
        return f"CASE WHEN {value} IS NULL THEN NULL ELSE {made} END"

    def json(self, value: Any) -> str:
        if not self._named:
            items = [form.or_null(item) for (_, form), item in zip(self._fields, value, strict=True)]
            return f"[{', '.join(items)}]"
        return _object((name, form.or_null(value[name])) for name, form in self._fields)


class _Map(Form):
    def __init__(self, key: Form, item: Form) -> None:
        self._key = key
        self._item = item
        self._nested_keys = isinstance(key, _List | _Struct | _Map | _Union | _Json | _Unsure)

    def sql(self, value: str, depth: int) -> str:
        name = f"turnlog_{depth}"
        pair = f"row({self._key.sql(f'{name}.key', depth + 1)}, {self._item.sql(f'{name}.value', depth + 1)})"
        return f"list_transform(map_entries({value}), lambda {name}: {pair})"

    def json(self, value: Any) -> str:
        if not self._nested_keys:
            return _object((self._key.cell(key), self._item.or_null(item)) for key, item in value)
        pairs = (_object([("key", self._key.or_null(k)), ("value", self._item.or_null(v))]) for k, v in value)
        return f"[{', '.join(pairs)}]"


class _Union(Form):
    def __init__(self, members: list[tuple[str, Form]]) -> None:
        self._members = members

    def sql(self, value: str, depth: int) -> str:
        parts = [form.sql(f"union_extract({value}, {_literal(name)})", depth) for name, form in self._members]
        made = f"row(CAST(union_tag({value}) AS VARCHAR), {', '.join(parts)})"
        return f"CASE WHEN {value} IS NULL THEN NULL ELSE {made} END"

    def json(self, value: Any) -> str:
        tag, *parts = value
        number = next(number for number, (name, _) in enumerate(self._members) if name == tag)
        return _object([(tag, self._members[number][1].or_null(parts[number]))])


def form_of(kind: Any, notes: Notes) -> Form:
    """The form of a DuckDB type (``DuckDBPyType``)."""
    name = str(kind.id)
    if str(kind) == "JSON":
        return _Json(notes)
    if name in _INTEGERS:
        return _Integer()
    if name in _TEXTS:
        return _Text()
    if name in _AS_TEXT:
        return _Cast()
    if name in _MOMENTS:
        return _Moment()
    match name:
        case "boolean":
            return _Bool()
        case "double":
            return _Double()
        case "float":
            return _Float()
        case "blob":
            return _Blob()
        case "decimal":
            return _ShortDecimal() if dict(kind.children)["precision"] <= _EXACT_DOUBLE_DIGITS else _LongDecimal()
        case "list" | "array":
            return _List(form_of(dict(kind.children)["child"], notes))
        case "struct":
            return _Struct([(child, form_of(of, notes)) for child, of in kind.children])
        case "map":
            children = dict(kind.children)
            return _Map(form_of(children["key"], notes), form_of(children["value"], notes))
        case "union":  # its first child is the tag
            return _Union([(child, form_of(of, notes)) for child, of in kind.children[1:]])
        case _:
            return _Unsure(str(kind), notes)


def _object(members: Iterable[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{encode_basestring(name)}: {text}" for name, text in members) + "}"


def _name(text: str) -> str:
    escaped = text.replace('"', '""')
    return f'"{escaped}"'


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def _unsuitable(text: str) -> str | None:
    """What is wrong with JSON text for readers; ``None``: nothing."""
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _depth(text) > MAX_JSON_DEPTH:
        return f"nested deeper than {MAX_JSON_DEPTH} levels"
    try:
        _STRICT.decode(text)
    except _TooLongError:
        return f"with a number of more than {MAX_JSON_DIGITS} digits"
    except ValueError:
        return "that other readers refuse"
    return None


def _depth(text: str) -> int:
    deepest = depth = 0
    for match in _STRINGS_AND_BRACKETS.finditer(text):
        if match.group() in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif match.group() in "]}":
            depth -= 1
    return deepest


class _TooLongError(ValueError):
    """A number that Python, for one, does not read."""


def _integer(text: str) -> int:
    if len(text) > MAX_JSON_DIGITS:
        raise _TooLongError
    return 0


def _refuse(text: str) -> None:
    raise ValueError(text)


_STRICT = json.JSONDecoder(parse_int=_integer, parse_float=len, parse_constant=_refuse)
