"""The examples of docs/analysts.md, run as they stand."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.event_logs import LogWriter, accepted_batches, random_log, write_on
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "analysts.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def write(file: AnalystsFile, log: LogWriter) -> LogPosition:
    for events, position in accepted_batches(log.records, 30, file.positions[log.partition]):
        file.write(events, {log.partition: position})
    return file.positions[log.partition]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    kind = analysts_kind("chat.events id", (0,))
    file = AnalystsFile(tmp_path / "turnlog-data" / "analytics.duckdb", kind)
    yield file
    file.close()


def test_a_notebook_that_stays_open_sees_what_is_new(file: AnalystsFile, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = Path("turnlog-data/snapshot.duckdb")
    log = random_log(1, 100)
    first = write(file, log)
    file.publish_now(snapshot)
    helper, snippet = code("python")
    exec(helper, {})
    assert "count_star()" in capsys.readouterr().out
    notebook: dict[str, Any] = {}
    exec(snippet, notebook)
    assert "count_star()" in capsys.readouterr().out
    connection = notebook["connection"]

    def position() -> Any:
        return connection.sql("SELECT next_offset FROM chats.partitions").fetchone()[0]

    held = duckdb.connect(str(snapshot), read_only=True)  # the old way, beside it
    seen = [position()]
    for _ in range(2):
        write_on(log, 100)
        write(file, log)
        file.publish_now(snapshot)
        assert position() == seen[-1], "not by itself"
        notebook["refresh"]()
        seen.append(position())
    assert seen[0] == first.next_offset
    assert seen[1] < seen[2] == len(log.records)
    assert duckdb.connect(str(snapshot), read_only=True).execute("SELECT next_offset FROM partitions").fetchone() == (
        first.next_offset,
    ), "what the page warns of"
    held.close()
    shutil.rmtree(connection.execute("SELECT current_setting('temp_directory')").fetchone()[0])


def test_statements_run(file: AnalystsFile) -> None:
    file.publish_now(Path("turnlog-data/snapshot.duckdb"))
    statements = code("sql") + [line[15:-1] for block in code("console") for line in block.splitlines()]
    assert len(statements) == 3
    for statement in statements:
        done = subprocess.run(
            [sys.executable, "-m", "turnlog", "sql", statement, "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
