"""The prompt of ``turnlog sql``: statements of several lines, completion, history; and once on a terminal."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from turnlog.cli.sql_prompt import Completer, Prompt

COLUMNS = {"sessions": ["session_id", "channel"], "turns": ["turn_id", "session_id"]}


def said(*lines: str | type[BaseException]) -> Prompt:
    waiting: Iterator[str | type[BaseException]] = iter(lines)

    def read(prompt: str) -> str:
        line = next(waiting, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return Prompt(COLUMNS, read=read)


def test_a_statement_ends_with_its_semicolon() -> None:
    lines = ("SELECT 1;", "", "SELECT ';", "' AS x", "FROM y ; ", "half", KeyboardInterrupt, "SELECT 2;;", "unfinished")
    assert list(said(*lines).statements()) == ["SELECT 1", "SELECT ';\n' AS x\nFROM y", "SELECT 2"]


def test_commands_begin_with_a_dot(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = said(".tables", ".columns turns", ".mode csv", ".mode xml", ".help", "SELECT 1;", ".quit", "SELECT 2;")
    assert list(prompt.statements()) == ["SELECT 1"]
    assert prompt.mode == "csv"
    out, err = capsys.readouterr()
    assert out.startswith("sessions\nturns\nturn_id\nsession_id\n")
    assert err.startswith(".mode xml is not known here")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sess", ["session_id", "sessions"]),
        ("turns.", ["turns.session_id", "turns.turn_id"]),
        ("t.turn", ["t.turn_id"]),
        ("SEL", ["SELECT"]),
        ("wher", ["where"]),
        ("zzz", []),
    ],
)
def test_tables_columns_and_words_are_completed(text: str, found: list[str]) -> None:
    completer = Completer(COLUMNS)
    assert completer.completions(text) == found
    assert [completer(text, state) for state in range(len(found) + 1)] == [*found, None]


def test_on_a_terminal_a_tab_completes_and_the_history_is_kept(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "snapshot.duckdb")) as connection:
        connection.execute("CREATE TABLE sessions AS SELECT 'web-0' AS session_id, '007' AS channel")
    leader, follower = pty.openpty()
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "dumb"}
    command = [sys.executable, "-m", "turnlog", "sql", "--data-dir", str(tmp_path)]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environ)
    os.close(follower)
    try:
        shown = _until(leader, "turnlog> ")
        os.write(leader, b"SELECT sessions.chan\t FROM sessions WHERE true;\n")
        shown = _until(leader, "007")
        assert "SELECT sessions.channel FROM" in shown
        os.write(leader, b"SELECT nothing;\n")
        _until(leader, "Binder Error")
        os.write(leader, b".quit\n")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    kept = tmp_path / "state" / "turnlog" / "sql_history"
    assert kept.read_text().splitlines()[0] == "SELECT sessions.channel FROM sessions WHERE true;"
    assert kept.stat().st_mode & 0o077 == 0


def _until(leader: int, text: str, within_s: float = 60.0) -> str:
    """What is shown up to a text."""
    shown, deadline = "", time.monotonic() + within_s
    while text not in shown:
        ready, _, _ = select.select([leader], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, shown
        shown += os.read(leader, 4096).decode(errors="replace")
    return shown
