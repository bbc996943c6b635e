"""What analysts find: every column says what it is, the page is of the same words, and its questions have answers."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.event_logs import accepted_batches, random_log
from tests.unit.test_cli_sessions import insert
from turnlog.snapshot.sql import open_snapshot, run
from turnlog_streams.projection.attempt_row_type import ATTEMPTS
from turnlog_streams.projection.history_row_types import COMPACTIONS
from turnlog_streams.projection.rows import MESSAGES, SESSIONS, TABLES, TOOL_CALLS, TURNS, USAGE
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.materializer.analysts_tables import ForReaders, all_views, create_analysts_tables
from turnlog_workers.materializer.prices import read_prices, store_prices
from turnlog_workers.materializer.tables_page import QUESTIONS, TOOL_ERRORS, page
from turnlog_workers.store.tables import table_hashes

ROOT = Path(__file__).resolve().parents[2]
CSV = "model,input_per_million,output_per_million,currency,valid_from\nm,1,10,EUR,\nm,2,20,EUR,2026-01-02\n"
DAY = 1_767_225_600_000  # 2026-01-01, UTC
PLACE: dict[str, Any] = {"session_id": "web-1", "partition": 0, "session_offset": 0}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two turns: one that needed a retry and a takeover, and one that is stuck; tools, a summary, texts."""
    path = tmp_path_factory.mktemp("tables") / "snapshot.duckdb"
    prices = path.with_name("prices.csv")
    prices.write_text(CSV)
    connection = duckdb.connect(str(path))
    create_analysts_tables(connection)
    assert store_prices(connection, read_prices(prices))
    assert not store_prices(connection, read_prices(prices))
    connection.execute("SET TimeZone = 'UTC'")
    session = {"channel": "web", "title": "A", "metadata": '{"user_id": "u-7"}', "turns": 2, "messages": 7}
    insert(connection, SESSIONS, **PLACE, **session, created_at=at(0), last_active_at=at(9_000))
    turn = {**PLACE, "turn_id": "t1", "request_id": "r1", "status": "failed", "text": "Hello", "answer_seq": 3}
    times = {"accepted_at": at(0), "started_at": at(500), "attempt_started_at": at(7_000), "ended_at": at(9_000)}
    tokens = {"input_tokens": 1_000_000, "output_tokens": 100_000}
    ended = {"code": "model_error", "reason": "it broke", "duration_ms": 1_900, "first_delta_ms": 300}
    offsets = {"accepted_offset": 1, "ended_offset": 9}
    insert(connection, TURNS, **turn, **times, **tokens, **ended, **offsets, attempt=3, model="m")
    stuck = {"turn_id": "t2", "request_id": "r2", "status": "accepted", "accepted_at": at(9_000), "accepted_offset": 10}
    insert(connection, TURNS, **PLACE, **stuck, text="and?")
    for number, (cause, after) in enumerate((("first", 500), ("retry", 2_000), ("takeover", 7_000)), start=1):
        attempt = {"turn_id": "t1", "attempt": number, "cause": cause, "model": "m", "log_offset": number + 1}
        error = "x: y" if cause == "retry" else None
        insert(connection, ATTEMPTS, **PLACE, **attempt, error=error, recorded_at=at(after))
    for price_day in (0, 1):
        usage = {"session_id": "web-1", "partition": 0, "turn_id": "t1", "model": "m", "status": "failed"}
        insert(connection, USAGE, **usage, **tokens, log_offset=9 + price_day, recorded_at=at(price_day * 86_400_000))
    texts: tuple[str, ...] = (
        "Flight HAT097 on 2026-01-02, order 4711",
        "注文番号は東京です",
        "ПРИВЕТ, Größe 100%",
        "a.b",
    )
    texts += ("Cafe\u0301 in A\u0308hre", "\u304b\u3099\u304f", "\u1112\u1161\u11ab")  # decomposed
    for seq, text in enumerate(texts, start=1):
        message = {"turn_id": "t1", "message_seq": seq, "role": "user", "content": text, "log_offset": seq}
        insert(connection, MESSAGES, **PLACE, **message, recorded_at=at(seq * 1_000))
    for position, outcome in enumerate(("ok", "error", None)):
        call = {"turn_id": "t1", "message_seq": 2, "position": position, "name": "book", "arguments": '{"seat": "12F"}'}
        result = {"result_message_seq": 3, "result_at": at(1_250)} if outcome else {}
        insert(connection, TOOL_CALLS, **PLACE, **call, **result, outcome=outcome, recorded_at=at(1_000), log_offset=2)
    summary = {"status": "compacted", "to_seq": 2, "tokens_before": 900, "tokens_after": 200, "input_tokens": 900}
    insert(connection, COMPACTIONS, **PLACE, **summary, log_offset=8)
    connection.close()
    return path


def at(after_ms: int) -> datetime:
    return datetime.fromtimestamp((DAY + after_ms) / 1000, UTC)


@pytest.fixture
def ask(snapshot: Path) -> Iterator[Any]:
    with open_snapshot(snapshot) as connection:
        yield lambda statement: run(connection, statement).records()


def test_the_page_is_written_of_the_declarations() -> None:
    written = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m turnlog_workers.materializer.tables_page"


def test_every_column_says_what_it_is_and_where_from(ask: Any) -> None:
    declared = {(v.name, c.name): c.comment for v in all_views() for c in v.columns}
    found = ask(
        "SELECT c.table_name, c.column_name, c.comment FROM duckdb_columns() c JOIN duckdb_views() v "
        "ON v.view_name = c.table_name AND v.schema_name = c.schema_name "
        "WHERE NOT v.internal AND c.schema_name = 'main'"
    )
    assert {(row["table_name"], row["column_name"]): row["comment"] for row in found} == declared
    assert {row["view_name"]: row["comment"] for row in ask("FROM duckdb_views() WHERE NOT internal")} == {
        view.name: view.about for view in all_views()
    }


@pytest.mark.parametrize("question", QUESTIONS, ids=[title for title, _ in QUESTIONS])
def test_each_question_is_a_line_with_an_answer(ask: Any, question: tuple[str, str]) -> None:
    title, statement = question
    assert f"{title}:\n\n```sql\n{statement}\n```" in (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert ask(statement), statement


def test_a_turn_is_measured_from_its_acceptance_through_all_attempts(ask: Any) -> None:
    (turn,) = ask("FROM turns WHERE turn_id = 't1'")
    assert (turn["queue_ms"], turn["first_delta_ms"], turn["total_ms"], turn["duration_ms"]) == (
        500,
        7_300,
        9_000,
        1_900,
    )
    assert (turn["text"], turn["answer"], turn["channel"], turn["user_id"]) == (
        *("Hello", "ПРИВЕТ, Größe 100%", "web", "u-7"),
    )
    assert turn["cost"] == pytest.approx(1 + 1)
    attempts = ask("SELECT cause, duration_ms, outcome, error FROM attempts ORDER BY attempt")
    assert [tuple(attempt.values()) for attempt in attempts] == [
        ("first", 1_500, "retry", "x: y"),
        ("retry", 5_000, "takeover", None),
        ("takeover", 2_000, "failed", "model_error: it broke"),
    ]


def test_a_price_holds_until_the_next_one(ask: Any) -> None:
    costs = ask("SELECT day::VARCHAR AS day, channel, user_id, model, cost, currency FROM costs")
    assert [tuple(row.values()) for row in costs] == [
        ("2026-01-01", "web", "u-7", "m", pytest.approx(2), "EUR"),
        ("2026-01-02", "web", "u-7", "m", pytest.approx(4), "EUR"),
    ]


def test_the_views_that_answer(ask: Any) -> None:
    (tool,) = ask("SELECT name, calls, answered, errors, error_rate, p50_ms FROM tool_error_rate")
    assert tuple(tool.values()) == ("book", 3, 2, 1, 0.5, 250)
    (stuck,) = ask("SELECT turn_id, status FROM stuck_turns")
    assert stuck == {"turn_id": "t2", "status": "accepted"}
    (saved,) = ask("SELECT session_id, tokens_saved, messages_covered FROM compaction_savings")
    assert saved == {"session_id": "web-1", "tokens_saved": 700, "messages_covered": 2}
    (day,) = ask("SELECT day::VARCHAR AS day, channel, turns, users, failed FROM daily_activity")
    assert tuple(day.values()) == ("2026-01-01", "web", 2, 1, 1)
    (latency,) = ask("SELECT model, turns, p50_first_delta_ms, p95_total_ms FROM latency_percentiles")
    assert tuple(latency.values()) == ("m", 1, 7_300, 9_000)


def test_every_turn_of_a_day_stands_in_one_column_and_currencies_are_not_added(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "mixed.duckdb")) as connection:
        create_analysts_tables(connection)
        prices = tmp_path / "prices.csv"
        prices.write_text("model,input_per_million,output_per_million,currency\ne,1,1,EUR\nu,1,1,USD\n")
        store_prices(connection, read_prices(prices))
        connection.execute("SET TimeZone = 'UTC'")
        said = ("completed", "e"), ("failed", "e"), ("cancelled", "u"), ("requires_action", "n"), ("started", "e")
        for day, models in ((0, "e"), (1, "eu")):
            for number, (status, model) in enumerate(said):
                names = {"turn_id": f"{day}-{number}", "request_id": f"{day}-{number}", "status": status}
                model = model if model in models else "n"
                accepted = at(day * 86_400_000)
                ended = {} if status == "started" else {"ended_at": accepted, "input_tokens": 1_000_000}
                row = {**PLACE, **names, **ended, "model": model, "accepted_at": accepted, "accepted_offset": number}
                insert(connection, TURNS, **row, output_tokens=0)
        days = connection.execute(
            "SELECT turns, completed, failed, cancelled, requires_action, open, cost, currency FROM daily_activity"
        ).fetchall()
    assert days == [(5, 1, 1, 1, 1, 1, 2.0, "EUR"), (5, 1, 1, 1, 1, 1, None, None)]


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "unknown.duckdb")) as connection:
        create_analysts_tables(connection)
        call = {**PLACE, "turn_id": "t", "message_seq": 2, "name": "old", "result_message_seq": 3, "log_offset": 2}
        insert(connection, TOOL_CALLS, **call, position=0, result_at=at(1), recorded_at=at(0))
        summary = {"status": "compacted", "to_seq": 2, "method": "given", "tokens_before": 0, "tokens_after": 0}
        insert(connection, COMPACTIONS, **PLACE, **summary, log_offset=8)
        insert(connection, TURNS, **PLACE, turn_id="t", request_id="r", status="completed", attempt=1, ended_offset=9)
        attempt = {"turn_id": "t", "attempt": 1, "cause": "first", "model": "m", "log_offset": 1}
        insert(connection, ATTEMPTS, **PLACE, **attempt, recorded_at=at(0))
        found = [
            connection.execute(f"SELECT {columns} FROM {view}").fetchall()
            for view, columns in (
                ("tool_error_rate", "answered, error_rate"),
                ("compaction_savings", "summaries, tokens_saved"),
                ("attempts", "outcome, error"),
            )
        ]
    assert found == [[(1, None)], [(1, None)], [("completed", None)]]


def test_what_a_tool_said_when_it_failed(ask: Any) -> None:
    assert TOOL_ERRORS in (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert ask(TOOL_ERRORS) == [{"name": "book", "outcome": "error", "content": "ПРИВЕТ, Größe 100%"}]


def test_a_history_is_in_order(ask: Any) -> None:
    assert [row["message_seq"] for row in ask("FROM history('web-1')")] == [1, 2, 3, 4, 5, 6, 7]
    assert ask("FROM history('web-2')") == []


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        *(("HAT097", [1]), ("hat097", [1]), ("4711", [1]), ("2026-01-02", [1]), ("東京", [2]), ("привет", [3])),
        *(("größe", [3]), ("Gro\u0308ße", [3]), ("100%", [3]), ("a.b", [4]), ("a_b", []), ("axb", [])),
        *(("12f", [2, 2, 2]), ("' OR true", [])),
        *(("café", [5]), ("CAFE\u0301", [5]), ("ähre", [5]), ("cafe", [5]), ("ahre", []), ("がく", [6]), ("한", [7])),
    ],
)
def test_search_finds_words_numbers_dates_and_any_script(snapshot: Path, wanted: str, seqs: list[int]) -> None:
    with open_snapshot(snapshot) as connection:
        found = run(connection, "SELECT message_seq FROM search(?) ORDER BY 1", [wanted]).rows
    assert [seq for (seq,) in found] == seqs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model,input_per_million\nm,1\n", "no column output_per_million"),
        ("model,input_per_million,output_per_million\nm,1,x\n", "line 2: output_per_million 'x' is no number"),
        ("model,input_per_million,output_per_million\nm,-1,1\n", "line 2: input_per_million -1 is no price"),
        ("model,input_per_million,output_per_million\nm,1,NaN\n", "is no price"),
        ("model,input_per_million,output_per_million\n,1,1\n", "line 2: no model"),
        ("model,input_per_million,output_per_million\nm,1,1\nm,2,2\n", "line 3: a second price of m"),
        ("model,input_per_million,output_per_million,valid_from\nm,1,1,1.2.2026\n", "is no day"),
        ("\xff", "no column model"),
    ],
)
def test_prices_that_cannot_be_are_named_by_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "prices.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="TURNLOG_PRICES") as raised:
        read_prices(file)
    assert says in str(raised.value)


def test_a_file_gets_other_views_and_prices_without_a_row_changing(tmp_path: Path) -> None:
    prices = tmp_path / "prices.csv"
    prices.write_text(CSV)
    path, kind = tmp_path / "analytics.duckdb", analysts_kind("chat.events id", (0,))
    hashes = []
    for readers in (ForReaders(), ForReaders(prices=read_prices(prices), user_key="who"), ForReaders()):
        file = AnalystsFile(path, kind, readers=readers)
        for events, position in accepted_batches(random_log(3, 60).records, 30, file.positions[0]):
            file.write(events, {0: position})
        file.close()
        with duckdb.connect(str(path), read_only=True) as connection:
            hashes.append(table_hashes(connection, TABLES))
            assert connection.execute("SELECT count(*) FROM prices").fetchone() == (2 * len(readers.prices) // 2,)
            sql = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'sessions'").fetchall()[0][0]
            assert f'"{readers.user_key}"' in sql
            for view in all_views():
                connection.execute(f"FROM {view.name}").fetchall()
    assert hashes[0] == hashes[1] == hashes[2]
