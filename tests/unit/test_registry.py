"""The schemas: what the dataclasses say, what the files say and what two Avro packages make of them are one."""

import json
from pathlib import Path
from typing import Any

import avro.schema
import pytest
from fastavro.schema import to_parsing_canonical_form

import turnlog_schemas
from turnlog_schemas import events as ev
from turnlog_schemas.mapping import avro_fields
from turnlog_schemas.registry import (
    COMMANDS,
    EVENTS,
    FAMILIES,
    FRAMES,
    Family,
    Registry,
    Schema,
    derive,
    load,
    packaged,
)

AVSC = Path(turnlog_schemas.__file__).parent / "avro"
ALL = [(family, payload) for family in FAMILIES.values() for payload in family.payloads]
IDS = [f"{family.name}.{payload.__name__}" for family, payload in ALL]
CURRENT = packaged().all_current()


def is_of(schema: Schema) -> str:
    return f"{schema.family}.{schema.name}"


@pytest.mark.parametrize(("family", "payload"), ALL, ids=IDS)
def test_the_file_is_what_the_dataclasses_say(family: Family, payload: type) -> None:
    path = AVSC / f"{family.name}.{payload.__name__}.avsc"
    assert json.loads(path.read_text(encoding="utf-8")) == derive(family, payload), (
        "run: python -m turnlog_schemas.generate"
    )


def test_there_is_no_file_without_a_record_type() -> None:
    assert sorted(path.stem for path in AVSC.iterdir()) == sorted(IDS)


@pytest.mark.parametrize("schema", CURRENT, ids=is_of)
def test_both_packages_agree_on_canonical_form_and_fingerprint(schema: Schema) -> None:
    authority = avro.schema.parse(schema.text)
    assert to_parsing_canonical_form(schema.parsed) == authority.canonical_form
    assert schema.fingerprint == authority.fingerprint("CRC-64-AVRO")


def test_no_two_record_types_share_a_fingerprint() -> None:
    assert len({schema.fingerprint for schema in CURRENT}) == len(ALL)


@pytest.mark.parametrize("schema", CURRENT, ids=is_of)
def test_a_schema_is_found_by_its_fingerprint_and_by_its_name(schema: Schema) -> None:
    assert packaged().find(schema.fingerprint) is schema
    assert packaged().current(schema.family, schema.name) is schema
    assert load(schema.text).fingerprint == schema.fingerprint


def test_the_common_fields_come_first() -> None:
    for family, payload in ALL:
        common = avro_fields(family.header, set())
        assert derive(family, payload)["fields"][: len(common)] == common


def test_names_are_unique_within_a_family() -> None:
    for family in (COMMANDS, EVENTS, FRAMES):
        names = [payload.__name__ for payload in family.payloads]
        assert len(names) == len(set(names))


def test_a_payload_cannot_repeat_a_common_field() -> None:
    with pytest.raises(TypeError, match="EventHeader repeats a field of EventHeader"):
        derive(EVENTS, ev.EventHeader)


def test_what_is_not_known_is_not_found() -> None:
    assert packaged().find(bytes(8)) is None
    assert packaged().current("events", "Chat") is None
    assert Registry().all_current() == []


def test_an_older_schema_is_read_but_not_written() -> None:
    current = packaged().current("events", "RequestsLost")
    assert current is not None
    raw = json.loads(current.text)
    raw["fields"].append({"name": "later", "type": "string", "default": ""})
    newer = load(json.dumps(raw))
    registry = Registry()
    registry.add(current, current=True)
    registry.add(newer)
    assert registry.find(newer.fingerprint) is newer
    assert registry.current("events", "RequestsLost") is current


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "17",
        '"string"',
        "{}",
        '{"type": "record"}',
        '{"type": "record", "name": "turnlog.events.X"}',
        '{"type": "record", "name": "turnlog.events.X", "fields": [{"name": "a", "type": "no-such-type"}]}',
        '{"type": "record", "name": "elsewhere.events.X", "fields": []}',
        '{"type": "record", "name": "turnlog.nowhere.X", "fields": []}',
        '{"type": "record", "name": "turnlog.events", "fields": []}',
        '{"type": "enum", "name": "turnlog.events.X", "symbols": ["A"]}',
        '["null", {"type": "record", "name": "turnlog.events.X", "fields": []}]',
        '{"type": ' * 5000,
    ],
)
def test_what_is_not_one_of_our_schemas_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an Avro schema|not a record of this project"):
        load(text)


def _dance(*types: Any) -> str:
    """A command of somebody else's, with a field of each type."""
    fields = [{"name": f"f{n}", "type": kind} for n, kind in enumerate(types)]
    return json.dumps({"type": "record", "name": "turnlog.commands.Dance", "fields": fields})


def _record(name: str, *types: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"f{n}", "type": kind} for n, kind in enumerate(types)]}


def _nested(depth: int) -> Any:
    kind: Any = "string"
    for _ in range(depth):
        kind = {"type": "array", "items": kind}
    return kind


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ([_record("N", ["null", "N"])], "N contains itself"),
        ([_record("a.N", {"type": "map", "values": "a.N"})], "N contains itself"),
        ([_record("A", ["null", _record("B", ["null", "A"])])], "A contains itself"),
        (["string", {"type": "array", "items": "turnlog.commands.Dance"}], "Dance contains itself"),
        ([{"type": "array", "items": "null"}], "null stands by itself"),
        ([{"type": "array", "items": {"type": "null"}}], "null stands by itself"),
        ([{"type": "array", "items": _record("E")}], "E is a record of no bytes"),
        ([{"type": "array", "items": _record("M", "null")}], "null stands by itself"),
        ([{"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}], "F is a value of no bytes"),
        ([_nested(40)], "nested deeper"),
        ([_nested(450)], "nested deeper|not an Avro schema"),
        ([_record(f"R{n}", *["string"] * 50) for n in range(50)], "more than"),
        ([_record("R0", "string"), *(_record(f"R{n}", *[f"R{n - 1}"] * 4) for n in range(1, 12))], "more than"),
    ],
)
def test_a_schema_by_which_few_bytes_make_endless_work_is_not_read(types: list[Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load(_dance(*types))


def test_a_schema_may_use_all_of_avro_otherwise() -> None:
    part = _record("Part", "string", ["null", "bytes"], {"type": "enum", "name": "Kind", "symbols": ["A", "B"]})
    digest = {"type": "fixed", "name": "Digest", "size": 16}
    load(
        _dance(part, {"type": "array", "items": "Part"}, {"type": "map", "values": ["null", "Part"]}, digest, "Digest")
    )
    load(_dance({"type": "long", "logicalType": "timestamp-millis"}, ["null", {"type": "null"}], _nested(20)))
