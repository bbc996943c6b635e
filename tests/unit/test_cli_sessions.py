"""``turnlog sessions``: the list and the transcript, from a snapshot with the real tables."""

import json
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from turnlog.cli.app import app
from turnlog_streams.projection.rows import MESSAGES, SESSIONS, TABLES, TOOL_CALLS, TURNS
from turnlog_streams.table_types import MOMENT, Table
from turnlog_workers.materializer.analysts_tables import create_analysts_tables


def insert(connection: duckdb.DuckDBPyConnection, table: Table, **values: Any) -> None:
    """A row: the given values, defaults of the row's class, else something of the column's type."""
    fillers = {"VARCHAR": "", "BIGINT": 0, "BOOLEAN": False, MOMENT: datetime(2026, 1, 1, tzinfo=UTC), "JSON": "{}"}
    defaults = (
        {f.name: f.default for f in fields(table.row) if f.default is not MISSING} if is_dataclass(table.row) else {}
    )
    row = [values.get(c.name, defaults.get(c.name, None if c.nullable else fillers[c.sql_type])) for c in table.columns]
    assert not set(values) - {column.name for column in table.columns}
    connection.execute(f"INSERT INTO {table.place} VALUES ({', '.join('?' * len(row))})", row)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    connection = duckdb.connect(str(tmp_path / "snapshot.duckdb"))
    create_analysts_tables(connection)
    for number in range(3):
        insert(
            connection,
            SESSIONS,
            session_id=f"web-{number}",
            session_offset=number,
            title=f"Title {number}",
            turns=2,
            messages=4,
            failed_turns=1,
            input_tokens=10,
            output_tokens=20,
            instructions="Be kind.",
            metadata='{"k": "v"}',
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            last_active_at=datetime(2026, 1, 1, 12, number, tzinfo=UTC),
        )
    turn = {"session_id": "web-1", "session_offset": 1}
    insert(connection, TURNS, **turn, turn_id="t1", request_id="r1", status="completed", attempt=1, text="Look")
    insert(
        connection,
        TURNS,
        **turn,
        turn_id="t2",
        request_id="r2",
        status="failed",
        attempt=3,
        text="Again",
        accepted_offset=9,
        code="runner_failed",
        reason="gave up",
    )
    insert(
        connection, TURNS, **turn, turn_id="t3", request_id="r3", status="accepted", text="Later", accepted_offset=10
    )
    for seq, turn_id, role, content in (
        (1, "t1", "user", "Look"),
        (2, "t1", "assistant", None),
        (3, "t1", "tool", "found " + "x" * 1000),
        (4, "t1", "assistant", "Here\x1b[2J it is"),
        (5, "t2", "user", "Again"),
    ):
        insert(
            connection,
            MESSAGES,
            session_id="web-1",
            message_seq=seq,
            turn_id=turn_id,
            role=role,
            content=content,
            log_offset=seq,
            tool_call_id="c1" if role == "tool" else None,
        )
    call = {"session_id": "web-1", "message_seq": 2, "call_id": "c1", "name": "search", "arguments": '{"q":  1}'}
    insert(connection, TOOL_CALLS, **call)
    connection.close()
    return tmp_path


@pytest.fixture
def compacted(data_dir: Path) -> Path:
    """Session web-1 with three of its five messages covered, after runs that came to less."""
    connection = duckdb.connect(str(data_dir / "snapshot.duckdb"))
    connection.execute("UPDATE internal.sessions SET covered_to = 3, history_keep_tail = 2 WHERE session_id = 'web-1'")
    (table,) = (table for table in TABLES if table.name == "compactions")
    outcomes: tuple[tuple[str, int | None, str | None, str | None], ...] = (
        ("compacted", 3, "model", "They look\x1b for it."),
        ("failed", None, None, None),
        ("compacted", 3, "truncation", "Look ..."),  # what a model wrote of the same messages stands
        ("compacted", 1, "model", "One message."),  # of a run that was overtaken, and came late
        ("skipped", None, None, None),
    )
    for offset, (status, to_seq, method, summary) in enumerate(outcomes):
        values = {"from_seq": 1, "to_seq": to_seq, "method": method, "summary": summary} if to_seq else {}
        insert(
            connection,
            table,
            session_id="web-1",
            session_offset=1,
            stream_version=20 + offset,
            log_offset=20 + offset,
            status=status,
            trigger="manual",
            **values,
        )
    connection.close()
    return data_dir


def run(data_dir: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sessions", *arguments, "--data-dir", str(data_dir)])
    return result.exit_code, result.stdout, result.stderr


def test_the_most_recently_active_come_first(data_dir: Path) -> None:
    code, out, err = run(data_dir, "list", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    page = json.loads(out)
    sessions = page["sessions"]
    assert (page["total"], page["next_after"]) == (3, None)
    assert 0 <= page["snapshot_age_s"] < 60
    assert [session["session_id"] for session in sessions] == ["web-2", "web-1", "web-0"]
    assert sessions[0]["title"] == "Title 2"
    assert datetime.fromisoformat(sessions[0]["last_active_at"]).replace(tzinfo=UTC).minute == 2


def test_the_list_says_how_old_it_is_and_what_it_left_out(data_dir: Path) -> None:
    code, out, err = run(data_dir, "list", "--limit", "2")
    assert code == 0
    assert "web-2" in out
    assert "web-0" not in out
    assert "1 failed" in out
    assert err.startswith("2 of 3 sessions; more: --after 2026-01-01T12:01:00/web-1; last change published ")
    assert run(data_dir, "list", "--limit", "0")[2].startswith("3 sessions; ")


def test_show_has_messages_with_their_calls_as_json(data_dir: Path) -> None:
    code, out, err = run(data_dir, "show", "web-1", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    document = json.loads(out)
    assert document["session"]["metadata"] == {"k": "v"}
    assert [message["role"] for message in document["messages"]] == ["user", "assistant", "tool", "assistant", "user"]
    assert document["messages"][1]["content"] is None
    assert document["messages"][1]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q":  1}'}}
    ]
    assert [turn["status"] for turn in document["turns"]] == ["completed", "failed", "accepted"]
    assert document["summary"] is None
    assert not any(message["covered"] for message in document["messages"])


def test_show_is_a_transcript_for_people(data_dir: Path) -> None:
    code, out, err = run(data_dir, "show", "web-1")
    assert code == 0
    assert "\x1b" not in out
    assert '-> search({"q":  1})' in out
    assert "x" * 500 not in out
    assert "--full" in out
    assert "turn failed, attempt 3; runner_failed: gave up" in out
    assert "(turn waits) Later" in out
    assert err.startswith("last change published ")
    assert "x" * 1000 in run(data_dir, "show", "web-1", "--full")[1]


def test_show_marks_what_is_covered_and_has_the_summary_where_it_stands(compacted: Path) -> None:
    code, out, _ = run(compacted, "show", "web-1")
    assert code == 0
    heads = ["1 user [covered]", "2 assistant [covered]", "3 tool [covered]", "summary of", "4 assistant\n", "5 user\n"]
    places = [out.index(f"\n{head}") for head in heads]
    assert places == sorted(places)
    assert "  They look\u241b for it.\n" in out
    assert "One message." not in out
    assert "turn failed, attempt 3" in out


def test_show_has_the_summary_instead_of_what_is_covered(compacted: Path) -> None:
    code, out, _ = run(compacted, "show", "web-1", "--skip-covered")
    assert code == 0
    places = [out.index(f"\n{head}") for head in ("summary of", "4 assistant\n", "5 user\n")]
    assert places == sorted(places)
    assert out.count("[covered]") == out.count("Look\n") == out.count("search(") == 0
    assert "turn failed, attempt 3" in out
    assert "(turn waits) Later" in out
    assert "(turn completed" not in out


def test_show_as_json_says_what_is_covered(compacted: Path) -> None:
    document = json.loads(run(compacted, "show", "web-1", "--json")[1])
    assert [message["covered"] for message in document["messages"]] == [True, True, True, False, False]
    session, summary = document["session"], document["summary"]
    assert (session["covered_to"], session["history_max_tokens"], session["history_keep_tail"]) == (3, None, 2)
    assert (summary["from_seq"], summary["to_seq"], summary["method"]) == (1, 3, "model")
    assert summary["summary"] == "They look\x1b for it."
    short = json.loads(run(compacted, "show", "web-1", "--skip-covered", "--json")[1])
    assert [message["message_seq"] for message in short["messages"]] == [4, 5]
    assert {**short, "messages": document["messages"]} == document
    listed = json.loads(run(compacted, "list", "--json")[1])["sessions"]
    assert [session["covered_to"] for session in listed] == [0, 3, 0]


def test_a_session_that_does_not_exist_is_4(data_dir: Path) -> None:
    code, out, err = run(data_dir, "show", "web-9", "--json")
    assert (code, out) == (4, "")
    assert "web-9" in err
    assert "turnlog sessions list" in err
