"""``session_as_of`` and ``history_as_of`` say what a file says that was made of the log up to there."""

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from tests.checker.stores import expected_tables
from tests.event_logs import LogWriter, accepted_batches, random_log
from turnlog.snapshot.sql import open_snapshot, run
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind

KIND = analysts_kind("chat.events id", (0, 1))


@pytest.fixture(scope="module")
def log() -> LogWriter:
    return random_log(11, 60, newer=False)


@pytest.fixture(scope="module")
def snapshot(log: LogWriter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = tmp_path_factory.mktemp("as-of")
    file = AnalystsFile(folder / "analytics.duckdb", KIND)
    for written in (log, random_log(12, 10, partition=1, newer=False)):
        for events, position in accepted_batches(written.records, 100):
            file.write(events, {written.partition: position})
    file.publish_now(folder / "snapshot.duckdb")
    file.close()
    with open_snapshot(folder / "snapshot.duckdb") as connection:
        yield connection


def records(connection: duckdb.DuckDBPyConnection, statement: str, *values: object) -> list[dict[str, Any]]:
    return run(connection, statement, values).records()


def as_stored(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value.timestamp() * 1000) if hasattr(value, "timestamp") else value for name, value in row.items()
    }


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_session_at_a_position(snapshot: duckdb.DuckDBPyConnection, log: LogWriter, part: float) -> None:
    offset = int(part * (len(log.records) - 1))
    expected = expected_tables(0, log.records[: offset + 1])
    sessions = {row["session_id"]: row for row in expected["sessions"]}
    assert sessions
    for session_id in {row["session_id"] for row in expected_tables(0, log.records)["sessions"]}:
        found = [
            as_stored(row) for row in records(snapshot, "FROM session_as_of(?, at_offset := ?)", session_id, offset)
        ]
        if session_id not in sessions:
            assert found == []
            continue
        (row,) = found
        stored = sessions[session_id]
        assert {name: row[name] for name in row if name != "state"} == {
            name: stored[name] for name in row if name != "state"
        }
        history = records(snapshot, "FROM history_as_of(?, at_offset := ?)", session_id, offset)
        mine = [message for message in expected["messages"] if message["session_id"] == session_id]
        assert [(row["message_seq"], row["content"]) for row in history] == [
            (message["message_seq"], message["content"]) for message in mine
        ]


def test_a_session_at_a_time(snapshot: duckdb.DuckDBPyConnection, log: LogWriter) -> None:
    """Up to the first accepted event of the partition with a later timestamp."""
    accepted = [event for events, _ in accepted_batches(log.records, 1_000) for event in events]
    moment = sorted(event.logged_at for event in accepted)[-3]
    end = next(event.offset for event in accepted if event.logged_at > moment)
    sessions = {row["session_id"]: row["messages"] for row in expected_tables(0, log.records[:end])["sessions"]}
    assert sessions
    for session_id, messages in sessions.items():
        found = records(snapshot, f"FROM session_as_of('{session_id}', epoch_ms({moment})::TIMESTAMPTZ)")
        assert [row["messages"] for row in found] == [messages]
    (now,) = records(snapshot, f"FROM session_as_of('{session_id}')")
    assert now["last_offset"] == log.last_offsets[session_id]
    assert records(snapshot, f"FROM session_as_of('{session_id}', TIMESTAMPTZ '2001-01-01')") == []
    assert records(snapshot, f"FROM session_as_of('{session_id}', now() - INTERVAL 100 YEARS)") == []
    assert records(snapshot, "FROM session_as_of('nobody')") == []
