"""The compatibility gate: what it refuses, and why it says so."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnlog_schemas import gate

Raw = dict[str, Any]
RECORD_TYPE = "events.TurnFailed"
CURRENT = gate.read_schemas(gate.CURRENT)


def with_change(change: Callable[[Raw], None], record_type: str = RECORD_TYPE) -> dict[str, str]:
    """The current schemas, one of them changed."""
    raw = json.loads(CURRENT[record_type])
    change(raw)
    return CURRENT | {record_type: json.dumps(raw)}


def field(raw: Raw, name: str) -> Raw:
    found: Raw = next(entry for entry in raw["fields"] if entry["name"] == name)
    return found


def without(raw: Raw, name: str) -> None:
    raw["fields"] = [entry for entry in raw["fields"] if entry["name"] != name]


def add(raw: Raw, entry: Raw) -> None:
    raw["fields"].append(entry)


def found(change: Callable[[Raw], None], record_type: str = RECORD_TYPE) -> list[gate.Finding]:
    return gate.check(with_change(change, record_type), {"1.0.0": CURRENT})


def test_the_schemas_of_this_version_go_together_with_every_release() -> None:
    assert gate.check(CURRENT, gate.read_released()) == []


def test_nothing_changed_is_compatible() -> None:
    assert gate.check(CURRENT, {"1.0.0": CURRENT, "1.1.0": CURRENT}) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda raw: add(raw, {"name": "hint", "type": "string", "default": ""}), id="new defaulted field"),
        pytest.param(lambda raw: without(raw, "duration_ms"), id="removed field that had a default"),
        pytest.param(lambda raw: raw.update(doc="In other words."), id="other words"),
        pytest.param(lambda raw: raw["fields"].reverse(), id="another order"),
        pytest.param(
            lambda raw: add(field(raw, "usage")["type"], {"name": "cached", "type": "long", "default": 0}),
            id="new defaulted field in a part",
        ),
    ],
)
def test_what_may_change(change: Callable[[Raw], None]) -> None:
    assert found(change) == []


OLD_READER = "released reader, new writer"
NEW_READER = "new reader, released writer"


@pytest.mark.parametrize(
    ("change", "reader", "reason", "path"),
    [
        pytest.param(
            lambda raw: without(raw, "code"),
            OLD_READER,
            "reader_field_missing_default_value: code",
            "/fields/10",
            id="removed field without default",
        ),
        pytest.param(
            lambda raw: add(raw, {"name": "hint", "type": "string"}),
            NEW_READER,
            "reader_field_missing_default_value: hint",
            "/fields/15",
            id="new field without default",
        ),
        pytest.param(
            lambda raw: field(raw, "code").update(type="long"),
            NEW_READER,
            "type_mismatch: reader type: long not compatible with writer type: string",
            "/fields/10/type",
            id="another type",
        ),
        pytest.param(
            lambda raw: field(raw, "duration_ms").update(type="double"),
            OLD_READER,
            "type_mismatch: reader type: long not compatible with writer type: double",
            "/fields/13/type",
            id="a wider type, which a released reader cannot narrow",
        ),
        pytest.param(
            lambda raw: field(raw, "code").update(type=["null", "string"]),
            OLD_READER,
            "type_mismatch: reader type: string not compatible with writer type: null",
            "/",
            id="a text that may be absent",
        ),
        pytest.param(
            lambda raw: field(raw, "reason").update(type="bytes"),
            OLD_READER,
            "type_mismatch: reader type: string not compatible with writer type: bytes",
            "/reason",
            id="bytes for text, which the judge lets pass and no reader can",
        ),
        pytest.param(
            lambda raw: field(raw, "code").update(name="error_code"),
            NEW_READER,
            "reader_field_missing_default_value: error_code",
            "/fields/10",
            id="renamed field",
        ),
        pytest.param(
            lambda raw: raw.update(name="turnlog.facts.TurnFailed"),
            NEW_READER,
            "name_mismatch: expected: turnlog.events.TurnFailed",
            "/name",
            id="another namespace, which the judge does not look at",
        ),
        pytest.param(
            lambda raw: raw.update(name="turnlog.events.TurnBroken"),
            NEW_READER,
            "name_mismatch: expected: turnlog.events.TurnFailed",
            "/name",
            id="another name",
        ),
        pytest.param(
            lambda raw: add(field(raw, "usage")["type"], {"name": "cached", "type": "long"}),
            NEW_READER,
            "reader_field_missing_default_value: cached",
            "/fields/12/type/fields/4",
            id="new field without default in a part",
        ),
    ],
)
def test_what_may_not_change(change: Callable[[Raw], None], reader: str, reason: str, path: str) -> None:
    expected = gate.Finding(record_type=RECORD_TYPE, version="1.0.0", reader=reader, reason=reason, path=path)
    assert expected in found(change), "\n".join(map(str, found(change)))


def test_a_record_type_never_goes_away() -> None:
    current = {name: text for name, text in CURRENT.items() if name != RECORD_TYPE}
    (finding,) = gate.check(current, {"1.0.0": CURRENT})
    assert str(finding) == (
        "events.TurnFailed against 1.0.0: new reader, released writer: "
        "this record type is gone, and the logs hold its records (a rename is a removal) at /"
    )


def test_a_new_record_type_is_fine() -> None:
    new = json.dumps({"type": "record", "name": "turnlog.events.SessionPinned", "fields": []})
    assert gate.check(CURRENT | {"events.SessionPinned": new}, {"1.0.0": CURRENT}) == []


def test_every_release_counts_not_only_the_last() -> None:
    """Defaulted in between: each neighbour goes together, the first and the third do not."""

    def first(raw: Raw) -> None:
        add(raw, {"name": "hint", "type": "string"})

    def second(raw: Raw) -> None:
        add(raw, {"name": "hint", "type": "string", "default": ""})

    released = {"1.0.0": with_change(first), "1.1.0": with_change(second)}
    assert gate.check(released["1.1.0"], {"1.0.0": released["1.0.0"]}) == []
    assert {finding.version for finding in gate.check(CURRENT, released)} == {"1.0.0"}


def test_a_release_is_kept_once_and_then_guards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    current, released = tmp_path / "avro", tmp_path / "released"
    current.mkdir()
    for name, text in CURRENT.items():
        (current / f"{name}.avsc").write_text(text, encoding="utf-8")

    assert gate.main([], released, current) == 0
    assert "no release yet" in capsys.readouterr().out
    assert gate.main(["--release", "1.0.0"], released, current) == 0
    assert gate.read_released(released) == {"1.0.0": CURRENT}
    assert gate.main(["--release", "1.0.0"], released, current) == 1
    assert "1.0.0 is released already" in capsys.readouterr().err
    assert gate.main([], released, current) == 0
    assert capsys.readouterr().out == f"{len(CURRENT)} schemas are compatible with: 1.0.0\n"

    broken = with_change(lambda raw: without(raw, "code"))
    (current / f"{RECORD_TYPE}.avsc").write_text(broken[RECORD_TYPE], encoding="utf-8")
    assert gate.main([], released, current) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "events.TurnFailed against 1.0.0: released reader, new writer: reader_field_missing" in output.err
    assert gate.main(["--release", "1.1.0"], released, current) == 1
    assert not (released / "1.1.0").exists()


def test_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "turnlog_schemas.gate"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{len(CURRENT)} schemas are compatible with" in done.stdout
