"""The schemas of all records: read from the packaged ``.avsc`` files, found by name and by fingerprint.

Fingerprints are CRC-64-AVRO of the canonical form, as the Avro specification's single-object encoding wants them.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from turnlog_schemas import commands, events, frames
from turnlog_schemas.mapping import avro_fields
from turnlog_schemas.schema_shape import check_shape

NAMESPACE = "turnlog"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of record: a common header and a set of payload types, flat in one Avro record each."""

    name: str
    header: type
    payloads: tuple[type, ...]
    json_key: str  #: where the payload sits in the JSON form


COMMANDS = Family(name="commands", header=commands.RequestHeader, payloads=commands.COMMANDS, json_key="command")
EVENTS = Family(name="events", header=events.EventHeader, payloads=events.EVENTS, json_key="event")
FRAMES = Family(name="frames", header=frames.FrameHeader, payloads=frames.FRAMES, json_key="frame")
FAMILIES = {family.name: family for family in (COMMANDS, EVENTS, FRAMES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A parsed schema. ``fingerprint`` is the 8 header bytes, in wire order."""

    family: str
    name: str
    text: str
    parsed: Any
    fingerprint: bytes


def derive(family: Family, payload: type) -> dict[str, Any]:
    """The Avro schema that the dataclasses say (the committed ``.avsc`` must equal it; a test holds them together)."""
    seen: set[str] = set()
    fields = avro_fields(family.header, seen) + avro_fields(payload, seen)
    names = [field["name"] for field in fields]
    if len(names) != len(set(names)):
        raise TypeError(f"{payload.__name__} repeats a field of {family.header.__name__}")
    doc = (payload.__doc__ or "").strip().split("\n")[0]
    return {
        "type": "record",
        "name": f"{NAMESPACE}.{family.name}.{payload.__name__}",
        "doc": doc,
        "fields": fields,
    }


def load(text: str) -> Schema:
    """Parse a schema's JSON text. Raises ``ValueError`` when it is not a record of one of our families.

    Also when it is none to read records by (see :mod:`turnlog_schemas.schema_shape`).
    """
    try:
        raw = json.loads(text)
        is_record = isinstance(raw, dict) and raw.get("type") == "record" and isinstance(raw.get("fields"), list)
        full_name = str(raw.get("name", "")) if is_record else ""
        # Each schema gets its own table of named types: the shared parts are spelled out in every file.
        parsed = parse_schema(raw, named_schemas={})
        digest = bytes.fromhex(fingerprint(to_parsing_canonical_form(parsed), "CRC-64-AVRO"))
    except Exception as error:  # the parser raises whatever a wrong schema drives it into
        raise ValueError(f"not an Avro schema: {type(error).__name__}") from error
    space, _, rest = full_name.partition(".")
    family, _, name = rest.partition(".")
    if space != NAMESPACE or family not in FAMILIES or not name:
        raise ValueError(f"not a record of this project: {full_name[:200]!r}")
    check_shape(raw)
    return Schema(family=family, name=name, text=text, parsed=parsed, fingerprint=digest)


class Registry:
    """Schemas by fingerprint (every version ever seen) and the current one of each record type."""

    def __init__(self) -> None:
        self._by_fingerprint: dict[bytes, Schema] = {}
        self._current: dict[tuple[str, str], Schema] = {}

    def add(self, schema: Schema, *, current: bool = False) -> None:
        """Make a schema known; ``current`` makes it the one that we write."""
        self._by_fingerprint.setdefault(schema.fingerprint, schema)
        if current:
            self._current[schema.family, schema.name] = schema

    def find(self, digest: bytes) -> Schema | None:
        """The schema with this fingerprint, if it is known."""
        return self._by_fingerprint.get(digest)

    def current(self, family: str, name: str) -> Schema | None:
        """The schema that this version writes for a record type; ``None`` for types it does not know."""
        return self._current.get((family, name))

    def all_current(self) -> list[Schema]:
        """Every schema that this version writes, in a stable order."""
        return [self._current[key] for key in sorted(self._current)]


@cache
def packaged() -> Registry:
    """The registry of the ``.avsc`` files in this package, those of every release included."""
    registry = Registry()
    root = resources.files("turnlog_schemas")
    for family in FAMILIES.values():
        for payload in family.payloads:
            text = root.joinpath("avro", f"{family.name}.{payload.__name__}.avsc").read_text(encoding="utf-8")
            registry.add(load(text), current=True)
    released = root.joinpath("released")
    for version in released.iterdir() if released.is_dir() else ():
        for file in version.iterdir() if version.is_dir() else ():
            registry.add(load(file.read_text(encoding="utf-8")))
    return registry


__all__ = ["COMMANDS", "EVENTS", "FAMILIES", "FRAMES", "Family", "Registry", "Schema", "derive", "load", "packaged"]
