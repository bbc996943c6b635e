"""Times in DuckDB files are the same moments for readers in every zone."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests import preloaded
from turnlog_streams.projection.rows import SESSIONS, TABLES, SessionRow
from turnlog_streams.table_types import MOMENT, Json, Millis
from turnlog_workers.materializer.analysts_tables import create_analysts_tables
from turnlog_workers.store.tables import insert, table_hashes

ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati")
#: 23:30 UTC: another day than this in Asia, and in UTC another than half an hour later.
LATE = Millis(1_767_223_800_123)
CONNECTED = (
    "import sys, duckdb; c = duckdb.connect(sys.argv[1], read_only=True); print(c.execute(sys.argv[2]).fetchall())"
)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    connection = duckdb.connect(str(tmp_path / "snapshot.duckdb"))
    create_analysts_tables(connection)
    now = Millis(int(time.time() * 1000))
    ages_ms = {"an-hour": 3_600_000, "half-an-hour": 1_800_000, "a-minute": 60_000}
    moments = {"late": LATE} | {name: Millis(now - age) for name, age in ages_ms.items()}
    insert(connection, SESSIONS, [session(name, number, at) for number, (name, at) in enumerate(moments.items())])
    connection.close()
    return tmp_path


def session(name: str, number: int, at: Millis) -> SessionRow:
    return SessionRow(
        session_id=name,
        partition=0,
        session_offset=number,
        channel="web",
        active=True,
        title="",
        instructions=None,
        model=None,
        metadata=Json("{}"),
        created_at=at,
        last_active_at=at,
        stream_version=1,
        last_offset=number,
    )


def run(zone: str, *argv: str) -> str:
    done = preloaded.run([sys.executable, *argv], env=os.environ | {"TZ": zone})  # "-c": a fresh one
    assert done.returncode == 0, done.stderr
    return done.stdout


def turnlog(zone: str, data_dir: Path, *argv: str) -> Any:
    return json.loads(run(zone, "-m", "turnlog", *argv, "--data-dir", str(data_dir), "--json"))


def test_every_time_is_a_moment_and_the_file_says_so(data_dir: Path) -> None:
    connection = duckdb.connect(str(data_dir / "snapshot.duckdb"), read_only=True)
    found = connection.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE schema_name = 'internal' AND table_name <> 'prices' AND data_type LIKE 'TIMESTAMP%'"
    ).fetchall()
    moments = {(t.name, column.name) for t in TABLES for column in t.columns if column.sql_type == MOMENT}
    assert {(table, column) for table, column, _, _ in found} == moments
    assert {kind for _, _, kind, _ in found} == {"TIMESTAMP WITH TIME ZONE"}
    assert all("UTC" in comment for *_, comment in found)
    public = connection.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE NOT internal AND schema_name = 'main' AND data_type LIKE 'TIMESTAMP%' AND comment IS NOT NULL"
    ).fetchall()
    assert {kind for _, _, kind, _ in public} == {"TIMESTAMP WITH TIME ZONE"}
    assert all("UTC" in comment for *_, comment in public)
    tables = connection.execute(
        "SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal AND table_name <> 'prices'"
    ).fetchall()
    assert all(comment for _, comment in tables), tables


@pytest.mark.parametrize("zone", ZONES)
def test_questions_have_the_same_answers_everywhere(data_dir: Path, zone: str) -> None:
    statement = (
        "SELECT session_id, last_active_at > now() - INTERVAL 45 MINUTE AS recent, "
        "last_active_at > CURRENT_TIMESTAMP AS future, last_active_at FROM sessions ORDER BY session_offset"
    )
    rows = turnlog(zone, data_dir, "sql", statement)
    assert [row["recent"] for row in rows] == [False, False, True, True]
    assert not any(row["future"] for row in rows)
    assert rows[0]["last_active_at"] == "2025-12-31T23:30:00.123+00:00"
    days = "SELECT date_trunc('day', last_active_at) AS a, last_active_at::DATE AS b, hour(last_active_at) AS c"
    (day,) = turnlog(zone, data_dir, "sql", f"{days} FROM sessions WHERE session_id = 'late'")
    assert day == {"a": "2025-12-31T00:00:00+00:00", "b": "2025-12-31", "c": 23}


@pytest.mark.parametrize("zone", ZONES)
def test_any_duckdb_compares_with_now(data_dir: Path, zone: str) -> None:
    """Without a word about zones, as an analyst would on a machine anywhere."""
    statement = "SELECT session_id FROM sessions WHERE last_active_at > now() - INTERVAL 45 MINUTE ORDER BY 1"
    assert run(zone, "-c", CONNECTED, str(data_dir / "snapshot.duckdb"), statement) == (
        "[('a-minute',), ('half-an-hour',)]\n"
    )


@pytest.mark.parametrize("zone", ZONES)
def test_lists_and_filters_are_in_utc(data_dir: Path, zone: str) -> None:
    listed = turnlog(zone, data_dir, "sessions", "list", "--before", "2025-12-31T23:30:01")
    assert [(row["session_id"], row["last_active_at"]) for row in listed["sessions"]] == [
        ("late", "2025-12-31T23:30:00.123000+00:00")
    ]
    assert turnlog(zone, data_dir, "sessions", "list", "--before", "2025-12-31T23:30:00")["sessions"] == []
    shown = turnlog(zone, data_dir, "sessions", "show", "late")
    assert shown["session"]["created_at"] == "2025-12-31T23:30:00.123000+00:00"


def test_a_hash_does_not_depend_on_the_zone(data_dir: Path) -> None:
    connection = duckdb.connect(str(data_dir / "snapshot.duckdb"), read_only=True)
    hashes = []
    for zone in ZONES:
        connection.execute(f"SET TimeZone = '{zone}'")
        hashes.append(table_hashes(connection, TABLES))
    assert hashes == [hashes[0]] * len(ZONES)
