"""The tool ``sql``: reads the published snapshot, and can do nothing else."""

from pathlib import Path

import duckdb
import pytest

from turnlog.sql_tool import MAX_ROWS, sql
from turnlog.tools import ToolError


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "snapshot.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE sessions AS SELECT 's-' || i AS session_id FROM range(500) t(i)")
    monkeypatch.setenv("TURNLOG_SNAPSHOT_PATH", str(path))
    return path


def test_it_answers_with_csv_and_says_when_there_is_more(snapshot: Path) -> None:
    assert sql("SELECT count(*) AS n FROM sessions") == "n\n500\n"
    lines = sql("SELECT * FROM sessions").splitlines()
    assert len(lines) == 1 + MAX_ROWS + 1
    assert lines[-1] == f"(the first {MAX_ROWS} rows; there are more)"


@pytest.mark.parametrize(
    "statement",
    [
        *("DELETE FROM sessions", "SELECT 1; SELECT 2", "", "nonsense", "SELECT * FROM nothing", "SET threads = 1"),
        *("COPY sessions TO 'out.csv'", "ATTACH 'x.duckdb'", "SELECT * FROM read_csv('other.csv')", "x" * 20_001),
    ],
)
def test_what_it_does_not_do_is_an_error_that_says_so(snapshot: Path, statement: str) -> None:
    before = snapshot.read_bytes()
    with pytest.raises(ToolError) as caught:
        sql(statement)
    assert str(snapshot) not in str(caught.value)
    assert snapshot.read_bytes() == before


def test_without_a_snapshot_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNLOG_SNAPSHOT_PATH", str(tmp_path / "none.duckdb"))
    with pytest.raises(ToolError, match="no snapshot"):
        sql("SELECT 1")
