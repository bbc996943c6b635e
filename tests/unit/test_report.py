"""The report: one file that shows what is there, and runs and fetches nothing."""

import re
import xml.etree.ElementTree as Tree
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from tests.console_snapshot import MARKERS, make_snapshot
from tests.unit.test_cli_sessions import insert
from turnlog.cli.app import app
from turnlog.report.figures import QUESTIONS, figures_of
from turnlog.report.page import page
from turnlog_streams.projection.rows import TURNS, USAGE

ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "em", "dl", "div", "dt", "dd", "section"),
    *("svg", "line", "text", "rect", "polyline", "circle"),
    *("details", "summary", "table", "thead", "tbody", "tr", "th", "td"),
}
NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = make_snapshot(tmp_path / "snapshot.duckdb")
    with duckdb.connect(str(path)) as connection:
        for number, marker in enumerate(MARKERS):
            text = marker.format(n=number)
            at = {"accepted_at": NOW, "ended_at": NOW, "recorded_at": NOW}
            failed = {"status": "failed", "code": text, "reason": text, "model": text, "session_id": text}
            times = {name: at[name] for name in ("accepted_at", "ended_at")}
            insert(connection, TURNS, turn_id=f"m-{number}", accepted_offset=1000 + number, **failed, **times)
            insert(connection, USAGE, model=text, log_offset=number, input_tokens=7, output_tokens=1, recorded_at=NOW)
        connection.execute("UPDATE internal.tool_calls SET recorded_at = ?", [NOW])
    return path


def test_a_page_has_every_section_and_no_text_becomes_an_element(snapshot: Path) -> None:
    figures = figures_of(snapshot, 30)
    text = page(figures, days=30, made_at=NOW)
    root = Tree.fromstring(
        re.sub(r"<meta ([^>]*)>", r"<meta \1/>", text.removeprefix("<!doctype html>\n")).replace("&ndash;", "-")
    )
    assert [heading.text for heading in root.iter("h2")] == [question.title for question in QUESTIONS]
    assert {element.tag for element in root.iter()} <= ELEMENTS
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert len(list(root.iter("svg"))) >= 6
    shown = {figure.question.title: figure for figure in figures.figures}
    assert shown["Newest failures"].rows[0][1].startswith(("<", "[", '"', "'", "-", "`", "!", "{", "|", " "))
    assert dict(figures.totals)["failed turns"] == str(sum(1 for _ in MARKERS) + _failed_before(snapshot))


def _failed_before(snapshot: Path) -> int:
    with duckdb.connect(str(snapshot)) as connection:
        found = connection.execute("SELECT count(*) FROM turns WHERE status = 'failed' AND turn_id NOT LIKE 'm-%'")
        return int(found.fetchall()[0][0])


def test_the_command_writes_it_and_an_empty_snapshot_has_a_page_too(tmp_path: Path) -> None:
    path = make_snapshot(tmp_path / "snapshot.duckdb", marked=False)
    with duckdb.connect(str(path)) as connection:
        for table in ("sessions", "turns", "messages", "usage", "tool_calls", "compactions"):
            connection.execute(f"DELETE FROM internal.{table}")
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(out), "--data-dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert out.read_text(encoding="utf-8").count("Nothing.") == len(QUESTIONS)
    result = CliRunner().invoke(app, ["report", str(tmp_path / "no" / "report.html"), "--data-dir", str(tmp_path)])
    assert result.exit_code == 1


def test_a_page_that_cannot_be_written_leaves_nothing_behind(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    done = CliRunner().invoke(
        app, ["report", str(tmp_path / "page.html")], env={"TURNLOG_SNAPSHOT_PATH": str(snapshot)}
    )
    assert done.exit_code == 1
    assert f"{tmp_path / 'page.html'} cannot be written: Is a directory" in done.stderr
    assert not list(tmp_path.glob("*.tmp"))
