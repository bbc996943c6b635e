"""The newest snapshot in a program that stays open, and the notebook that uses it."""

import json
import os
from pathlib import Path

import duckdb
import pytest

import turnlog
from tests.console_snapshot import make_snapshot
from turnlog.errors import NotFoundError

ROOT = Path(__file__).resolve().parents[2]


def publish(path: Path, sessions: int) -> None:
    new = path.with_name("new")
    with duckdb.connect(str(new)) as connection:
        connection.execute(
            f"CREATE TABLE sessions AS SELECT '007' AS channel, TIMESTAMPTZ '2026-11-28 23:30:00+00' AS created_at "
            f"FROM range({sessions})"
        )
    os.replace(new, path)


def test_every_question_sees_the_newest_snapshot_and_an_answer_stays_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "it's.duckdb"
    publish(path, 3)
    with turnlog.open_snapshot(path) as chats, turnlog.open_snapshot(path) as other:
        first = chats.sql("SELECT count(*) FROM sessions")
        publish(path, 5)
        assert chats.sql("SELECT count(*) FROM sessions WHERE channel = ?", ["007"]).fetchall() == [(5,)]
        assert first.fetchall() == [(3,)]
        assert other.sql("FROM sessions").count("*").fetchall() == [(5,)]
        assert chats.sql("SELECT DISTINCT CAST(created_at AS DATE)::VARCHAR FROM sessions").fetchall() == [
            ("2026-11-28",)
        ]
        drawn = chats.chart("SELECT channel || '<b>' AS channel, count(*) AS n FROM sessions GROUP BY 1")._repr_html_()
        assert "007&lt;b&gt;: 5 n" in drawn
        assert "needs a first column" in chats.chart("SELECT 1")._repr_html_()
        with pytest.raises(duckdb.Error, match="read-only"):
            chats.sql("CREATE TABLE mine (i INTEGER)")


def test_without_a_snapshot_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNLOG_DATA_DIR", str(tmp_path))
    with pytest.raises(NotFoundError, match="snapshot"):
        turnlog.open_snapshot()


def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNLOG_SNAPSHOT_PATH", str(make_snapshot(tmp_path / "snapshot.duckdb", marked=False)))
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        exec(compile(cell, "cell", "exec"), names)
    assert names["newest"] is not None
    assert len(cells) == 6
    assert not [cell for cell in notebook["cells"] if cell.get("outputs")]
