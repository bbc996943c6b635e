"""Exports: only what is new, nothing twice, nothing half, values unchanged; and killed at every step."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from tests.console_snapshot import make_snapshot
from tests.exported import ODD, GrowingSnapshot, folder_problems, lake_problems
from turnlog.cli.app import app
from turnlog.errors import MissingExtraError, TurnlogError, UsageError
from turnlog.export.files import Format, export_files
from turnlog.export.lake import export_to_lake
from turnlog.export.source import SnapshotIsOlderError
from turnlog.feed.comparison import compare
from turnlog.feed.conversations import Summary, read_conversations
from turnlog.snapshot.history import Histories

ROOT = Path(__file__).resolve().parents[2]
_EXPORT = (
    "import sys; from pathlib import Path; from turnlog.export.{module} import {name} as export; export({arguments})"
)


@pytest.fixture
def snapshot(tmp_path: Path) -> GrowingSnapshot:
    grown = GrowingSnapshot(tmp_path / "snapshot.duckdb")
    grown.grow()
    return grown


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_another_export_adds_what_is_new_and_nothing_else(
    snapshot: GrowingSnapshot, tmp_path: Path, form: Format
) -> None:
    folder = tmp_path / "out"
    first = export_files(snapshot.path, folder, form)
    assert folder_problems(snapshot.path, folder, form) == []
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert export_files(snapshot.path, folder, form).rows == 0
    assert {path: path.stat().st_mtime_ns for path in before} == {**before, folder / ".lock": _changed(folder)}
    snapshot.grow(5)
    second = export_files(snapshot.path, folder, form)
    assert folder_problems(snapshot.path, folder, form) == []
    events = sorted(path.name for path in folder.glob(f"events/*/*.{form}"))
    assert events == [f"000001.{form}", f"000001.{form}", f"000002.{form}"]
    assert second.positions == {0: 65, 1: 65}
    assert 0 < second.rows < first.rows


@pytest.mark.parametrize(
    ("form", "erased"),
    [("parquet", "SessionErased"), ("jsonl", "ChannelSessionErased"), ("openai", "SessionErased")],
)
def test_what_was_erased_since_is_in_no_file_of_the_next_export(
    snapshot: GrowingSnapshot, tmp_path: Path, form: Format, erased: str
) -> None:
    folder = tmp_path / "out"
    export_files(snapshot.path, folder, form)
    before = set(folder.rglob(f"*.{'parquet' if form == 'parquet' else 'jsonl'}"))
    _erase(snapshot.path, erased)
    stale = {path: path.read_bytes() for path in before}
    export_files(snapshot.path, folder, form)
    assert form == "openai" or folder_problems(snapshot.path, folder, form) == []
    left = [path for path in before if path.is_file() and path.read_bytes() == stale[path]]
    assert not any("messages" in str(path) or "conversations" in str(path) for path in left)


def test_a_lake_has_what_was_erased_since_in_no_table(snapshot: GrowingSnapshot, tmp_path: Path) -> None:
    address = f"ducklake:{tmp_path / 'chats.ducklake'}"
    export_to_lake(snapshot.path, address, data=str(tmp_path / "data"))
    _erase(snapshot.path, "ChannelSessionErased")
    export_to_lake(snapshot.path, address)
    assert lake_problems(snapshot.path, address) == []


def _erase(snapshot: Path, event: str) -> None:
    with duckdb.connect(str(snapshot)) as connection:
        connection.execute("UPDATE internal.messages SET content = NULL, content_parts = NULL")
        connection.execute(
            "INSERT INTO internal.events SELECT * REPLACE (1000 AS log_offset, $1 AS type) FROM internal.events "
            "WHERE partition = 0 LIMIT 1",
            [event],
        )


def _changed(folder: Path) -> int:
    return (folder / ".lock").stat().st_mtime_ns


def test_values_come_back_unchanged_and_no_path_says_anything(snapshot: GrowingSnapshot, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_files(snapshot.path, folder, "parquet")
    expected = [(f"s-{i}", ODD[i % len(ODD)]) for i in range(60)]
    files = sorted(str(path) for path in folder.glob("sessions/*/*.parquet"))
    assert len(files) == 2
    by_duckdb = duckdb.execute(
        f"FROM (SELECT session_id, channel, session_offset FROM read_parquet({files})) ORDER BY 3"
    )
    assert [row[:2] for row in by_duckdb.fetchall()] == expected
    by_arrow = pyarrow.dataset.dataset(str(folder / "sessions"), partitioning="hive").to_table()
    rows = sorted(by_arrow.to_pylist(), key=lambda row: row["session_offset"])
    assert [(row["session_id"], row["channel"]) for row in rows] == expected
    assert rows[0]["created_at"].isoformat() == "2026-11-26T23:15:00+00:00"
    assert rows[0]["metadata"] == '{"customer": "007"}'
    for path in folder.rglob("*"):
        assert "=" not in str(path.relative_to(folder))


def test_json_lines_have_the_same_values(snapshot: GrowingSnapshot, tmp_path: Path) -> None:
    export_files(snapshot.path, tmp_path / "out", "jsonl")
    lines = [json.loads(line) for path in sorted(tmp_path.glob("out/messages/*/*")) for line in path.open()]
    lines.sort(key=lambda line: line["session_offset"])
    assert [line["content"] for line in lines[:8:2]] == [None, "NULL", "", "two\nlines"]
    events = "".join(path.read_text() for path in tmp_path.glob("out/events/*/*"))
    assert events.count('"body":{"duration": 1.10, "n": [123456789012345678901234567890, null]}') == 60
    letter = json.loads(next(tmp_path.glob("out/dead_letters/*/*")).read_text())
    assert (letter["bytes"], letter["recorded_at"]) == ("/wA9", "2026-11-26T23:15:00.000000+00:00")


def test_only_a_folder_and_a_snapshot_that_fit_are_written(snapshot: GrowingSnapshot, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_files(snapshot.path, folder, "parquet")
    with pytest.raises(UsageError, match="format 'parquet'"):
        export_files(snapshot.path, folder, "jsonl")
    older = GrowingSnapshot(tmp_path / "older.duckdb")
    older.grow(10)
    with pytest.raises(SnapshotIsOlderError, match="up to offset 60"):
        export_files(older.path, folder, "parquet")
    (folder / "messages" / "2026-11-26" / "notes.parquet").write_text("mine")
    snapshot.grow()
    export_files(snapshot.path, folder, "parquet")
    assert (folder / "messages" / "2026-11-26" / "notes.parquet").read_text() == "mine"
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="no manifest"):
        export_files(snapshot.path, folder, "parquet")


@pytest.mark.parametrize("where", ["export.written:2", "export.renamed:7"])
def test_a_killed_export_leaves_nothing_twice_and_nothing_half(
    snapshot: GrowingSnapshot, tmp_path: Path, where: str
) -> None:
    folder = tmp_path / "out"
    export_files(snapshot.path, folder, "parquet")
    snapshot.grow()
    _killed(where, "files", "export_files", f"Path({str(snapshot.path)!r}), Path({str(folder)!r}), 'parquet'")
    assert folder_problems(snapshot.path, folder, whole=False) == []
    for path in folder.glob("*/*/*.parquet"):
        pyarrow.parquet.read_table(path)  # whole
    snapshot.grow(100)
    export_files(snapshot.path, folder, "parquet")
    assert folder_problems(snapshot.path, folder) == []


def test_a_killed_export_into_a_lake_is_all_or_nothing(snapshot: GrowingSnapshot, tmp_path: Path) -> None:
    address, data = f"ducklake:{tmp_path / 'chats.ducklake'}", str(tmp_path / "data")
    export_to_lake(snapshot.path, address, data=data)
    snapshot.grow()
    _killed("export.lake_commit", "lake", "export_to_lake", f"Path({str(snapshot.path)!r}), {address!r}")
    assert export_to_lake(snapshot.path, address).rows > 0
    assert lake_problems(snapshot.path, address) == []


def test_a_lake_does_not_move(snapshot: GrowingSnapshot, tmp_path: Path) -> None:
    address, data = f"ducklake:{tmp_path / 'chats.ducklake'}", tmp_path / "data"
    export_to_lake(snapshot.path, address, data=str(data))
    with pytest.raises(UsageError, match=f'in "{data}/": leave --data out, or begin another lake'):
        export_to_lake(snapshot.path, address, data=str(tmp_path / "elsewhere"))


def test_a_lake_whose_place_was_mistyped_says_how_it_can_begin_anew(snapshot: GrowingSnapshot, tmp_path: Path) -> None:
    catalog, place = tmp_path / "chats.ducklake", tmp_path / "a-file"
    place.touch()
    with pytest.raises(TurnlogError, match="nothing of this export is in it"):
        export_to_lake(snapshot.path, f"ducklake:{catalog}", data=str(place / "data"))
    with pytest.raises(UsageError, match="no export has succeeded yet can begin anew, once its catalog is deleted"):
        export_to_lake(snapshot.path, f"ducklake:{catalog}", data=str(tmp_path / "data"))
    catalog.unlink()
    assert export_to_lake(snapshot.path, f"ducklake:{catalog}", data=str(tmp_path / "data")).rows > 0


@pytest.mark.parametrize(
    "form", ["dbname=lake host=127.0.0.1 port={} password=geheim", "postgres://u:geheim@127.0.0.1:{}/l"]
)
def test_a_catalog_that_cannot_be_reached_leaves_its_password_untold(
    snapshot: GrowingSnapshot, tmp_path: Path, form: str
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = "ducklake:postgres:" + form.format(nobody.getsockname()[1])
        with pytest.raises(TurnlogError, match="Connection refused") as caught:
            export_to_lake(snapshot.path, address, data=str(tmp_path / "data"))
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def _killed(where: str, module: str, name: str, arguments: str) -> None:
    code = _EXPORT.format(module=module, name=name, arguments=arguments)
    environ = {**os.environ, "TURNLOG_CRASH_AT": where}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=False).returncode == -9


def test_conversations_are_what_feed_reads(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "snapshot.duckdb", marked=False)
    with duckdb.connect(str(snapshot)) as connection:
        parts = [{"kind": "text", "text": "a"}, {"kind": "text", "text": "b"}]
        connection.execute("UPDATE internal.messages SET content_parts = ? WHERE message_seq = 4", [json.dumps(parts)])
        connection.execute("UPDATE internal.messages SET tool_call_id = 'call-1', name = 'lookup' WHERE role = 'tool'")
    export_files(snapshot, tmp_path / "out", "openai")
    (path,) = tmp_path.glob("out/conversations/*/current.jsonl")
    fed = read_conversations(path)
    assert [each.conversation_id for each in fed.conversations] == ["web-1"]
    stored = Histories(snapshot, ["web-1"])
    whole: Any = {
        "title": "Where is order 17?",
        "summaries": [Summary(from_seq=1, to_seq=3, text="They ask for *order 17*.")],
    }
    assert compare(fed.conversations[0], None, stored.messages("web-1"), **whole) == []
    line = json.loads(path.read_text())
    assert line["history_compactions"][0]["summary"] == "They ask for *order 17*."
    with duckdb.connect(str(snapshot)) as connection:
        connection.execute("UPDATE internal.turns SET hidden = true WHERE turn_id = 't-0-8'")
    assert export_files(snapshot, tmp_path / "out", "openai").files == 1
    assert "Again" not in path.read_text()


def _command(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["export", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_says_what_it_did_and_what_it_cannot(
    snapshot: GrowingSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ("--data-dir", str(tmp_path))
    code, out, _ = _command(str(tmp_path / "out"), *here, "--json")
    assert (code, json.loads(out)["positions"]) == (0, {"0": 60, "1": 60})
    assert _command(str(tmp_path / "out"), *here) == (0, "Nothing is new.\n", "")
    code, out, _ = _command(str(tmp_path / "chats"), *here, "--format", "openai")
    assert (code, out) == (0, "60 lines in 2 files.\n")
    assert _command(*here)[0] == _command("out", "--into", "ducklake:x", *here)[0] == 2
    told = _command("--into", "postgres:password=geheim", *here)[2]
    assert "write ducklake:FILE" in told
    assert "geheim" not in told
    assert "letters, digits" in _command("--into", "ducklake:x", "--schema", "a-b", *here)[2]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'turnlog\[lake\]'"):
        export_to_lake(snapshot.path, "ducklake:x")
