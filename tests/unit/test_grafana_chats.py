"""deploy/grafana/chats.sql and chats.json: what is copied for a Grafana, and what its panels ask of a real Postgres.

Grafana's macros are written out here as its data source for Postgres does it.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.postgres import Postgres
from tests.unit.test_cli_sessions import insert
from turnlog.export.lake import load_extensions
from turnlog.export.source import literal
from turnlog_streams.projection.rows import SESSIONS, TOOL_CALLS, TURNS, USAGE
from turnlog_workers.materializer.analysts_tables import create_analysts_tables
from turnlog_workers.materializer.prices import Price, store_prices

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
COPY = (FOLDER / "chats.sql").read_text(encoding="utf-8")
DASHBOARD = json.loads((FOLDER / "chats.json").read_text(encoding="utf-8"))
QUERIES = {panel["title"]: panel["targets"][0]["rawSql"] for panel in DASHBOARD["panels"]}
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = 3600


@pytest.fixture
def connection(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> duckdb.DuckDBPyConnection:
    """One that has made the copy."""
    (tmp_path / "turnlog-data").mkdir()
    with duckdb.connect(str(tmp_path / "turnlog-data" / "snapshot.duckdb")) as snapshot:
        _fill(snapshot)
    monkeypatch.chdir(tmp_path)
    for name, value in postgres.environ.items():
        monkeypatch.setenv(name, value)
    return _copied()


def _copied() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    load_extensions(connection, "ducklake:postgres:")
    connection.execute(COPY)
    return connection


def _fill(snapshot: duckdb.DuckDBPyConnection) -> None:
    price = Price(model="echo:", input_per_million=1e6, output_per_million=2e6, currency="EUR", valid_from=None)
    create_analysts_tables(snapshot)
    store_prices(snapshot, [price])
    insert(snapshot, SESSIONS, session_id="s", channel="shop", metadata='{"user_id": "u\\u0000"}', stream_version=1)
    for number in range(40):
        at = NOW - timedelta(hours=number * 24 + 1)  # ten of them too old
        row = {"session_id": "s", "turn_id": f"t-{number}", "accepted_offset": number}
        failed = {"status": "failed", "code": "model_error"} if number % 4 == 0 else {"status": "completed"}
        times = {"accepted_at": at, "started_at": at, "attempt_started_at": at}
        end = {"ended_offset": number, "ended_at": at + timedelta(milliseconds=100 * number), "first_delta_ms": number}
        insert(snapshot, TURNS, **row, **times, **failed, **end, model="echo:", attempt=1, text="geheim")
        insert(snapshot, USAGE, turn_id=f"t-{number}", **_usage(number, at))
        outcome = ("ok", "error")[number % 2]
        insert(snapshot, TOOL_CALLS, log_offset=number, name="clock", outcome=outcome, recorded_at=at)


def _usage(number: int, at: datetime) -> dict[str, Any]:
    said = {"session_id": "s", "model": "echo:", "log_offset": number, "recorded_at": at}
    return {**said, "input_tokens": 1, "output_tokens": 2}


def _asked(connection: duckdb.DuckDBPyConnection, title: str, days: int = 7) -> list[tuple[Any, ...]]:
    """What a panel gets, with Grafana's macros written out."""
    since, until = (moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (NOW - timedelta(days=days), NOW))
    query = QUERIES[title].replace("$__interval", "1h")
    query = re.sub(r"\$__timeFilter\(([^)]*)\)", rf"\1 BETWEEN '{since}' AND '{until}'", query)
    group = rf'floor(extract(epoch from \1)/{HOUR})*{HOUR} AS "time"'
    query = re.sub(r"\$__timeGroupAlias\(([^,)]*), 1h\)", group, query)
    assert "$" not in query
    return connection.execute(f"FROM postgres_query('grafana', {literal(query)})").fetchall()


def test_the_panels_show_what_the_snapshot_says(connection: duckdb.DuckDBPyConnection) -> None:
    hours = [(NOW - timedelta(hours=24 * number + 1)).timestamp() // HOUR * HOUR for number in reversed(range(7))]
    shown = {title: _asked(connection, title) for title in QUERIES}
    assert shown.pop("Turns") == [(7,)]
    assert shown.pop("Sessions") == shown.pop("Users") == [(1,)]
    assert shown.pop("Failed") == [(pytest.approx(2 / 7),)]
    assert 0 <= shown.pop("Age of the copy")[0][0] < 300
    assert shown.pop("Turns, by channel") == [(hour, "shop", 1) for hour in hours]
    assert shown.pop("Failed turns, by reason") == [(hours[2], "model_error", 1), (hours[6], "model_error", 1)]
    assert shown.pop("To the first words") == [(hour, 6 - n, 6 - n) for n, hour in enumerate(hours)]
    assert shown.pop("Whole turns, by model") == [(hour, "echo:", 600 - 100 * n) for n, hour in enumerate(hours)]
    assert shown.pop("Tokens, by model") == [(hour, "echo:", 1, 2) for hour in hours]
    assert shown.pop("Cost, by model") == [(hour, "echo: (EUR)", pytest.approx(5)) for hour in hours]
    assert shown.pop("Tools") == [("clock", 7, 3, None)]
    assert [row[2] for row in shown.pop("Slowest turns")] == [f"t-{number}" for number in reversed(range(7))]
    assert shown == {}, "each panel's answer was looked at"
    assert _asked(connection, "Turns", days=60) == [(30,)]


def test_another_copy_replaces_the_last_one_and_readers_keep_their_rights(
    connection: duckdb.DuckDBPyConnection, postgres: Postgres
) -> None:
    connection.execute("CALL postgres_execute('grafana', 'CREATE ROLE reader LOGIN')")
    connection.execute("CALL postgres_execute('grafana', 'GRANT USAGE ON SCHEMA turnlog TO reader')")
    connection.execute("CALL postgres_execute('grafana', 'GRANT SELECT ON ALL TABLES IN SCHEMA turnlog TO reader')")
    connection.close()
    with duckdb.connect("turnlog-data/snapshot.duckdb") as snapshot:
        snapshot.execute("UPDATE internal.sessions SET metadata = '{}'")  # as an erasure leaves it
        snapshot.execute("DELETE FROM internal.turns WHERE turn_id = 't-3'")
    _copied().close()
    with duckdb.connect() as reader:
        load_extensions(reader, "ducklake:postgres:")
        as_reader = postgres.parameters.replace("user=turnlog", "user=reader")
        reader.execute(f"ATTACH {literal(as_reader)} AS grafana (TYPE postgres, READ_ONLY)")
        assert (_asked(reader, "Turns"), _asked(reader, "Users")) == ([(6,)], [(0,)])


def test_no_text_is_copied(connection: duckdb.DuckDBPyConnection) -> None:
    named = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'turnlog' ORDER BY 1"
    tables = [row[0] for row in connection.execute(f"FROM postgres_query('grafana', {literal(named)})").fetchall()]
    assert tables == ["copied", "tool_calls", "turns", "usage"]
    for table in tables:
        assert "geheim" not in str(connection.execute(f"FROM grafana.turnlog.{table}").fetchall())
