"""Listing sessions from a snapshot with the real tables: filters, pages, and how far it is behind."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import duckdb
import pytest

from tests.unit.test_cli_sessions import insert
from turnlog.errors import NotFoundError, UsageError
from turnlog.snapshot.listing import SessionFilter, SessionList, list_sessions
from turnlog_streams.projection.rows import SESSIONS
from turnlog_streams.table_types import PARTITIONS
from turnlog_workers.materializer.analysts_tables import create_analysts_tables

EVERYTHING = SessionFilter(include_archived=True)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Ten sessions, two of each minute (a tie in what pages are ordered by); every third is archived."""
    path = tmp_path / "snapshot.duckdb"
    connection = duckdb.connect(str(path))
    create_analysts_tables(connection)
    for number in range(10):
        insert(
            connection,
            SESSIONS,
            session_id=f"s{number}",
            session_offset=number,
            channel="web" if number % 2 else "mail",
            metadata=f'{{"team": "{"ab"[number % 2]}", "odd name.\\"x\\"": "{number}"}}',
            archived=number % 3 == 0,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            last_active_at=datetime(2026, 1, 1, 12, number // 2, tzinfo=UTC),
        )
    for partition, next_offset in ((0, 10), (1, 20)):
        insert(connection, PARTITIONS, partition=partition, next_offset=next_offset)
    connection.close()
    return path


def ids(page: SessionList) -> list[str]:
    return [session.session_id for session in page.sessions]


def test_pages_are_the_whole_in_order(snapshot: Path) -> None:
    whole = list_sessions(snapshot, EVERYTHING, limit=0)
    assert ids(whole) == ["s8", "s9", "s6", "s7", "s4", "s5", "s2", "s3", "s0", "s1"]
    assert (whole.total, whole.next_after) == (10, None)
    for size in (1, 3, 5, 10, 11):
        found, after = list[str](), None
        while True:
            page = list_sessions(snapshot, EVERYTHING, after=after, limit=size)
            assert page.total == 10
            found += ids(page)
            after = page.next_after
            if after is None:
                break
            assert len(page.sessions) == size
        assert found == ids(whole)


def test_filters(snapshot: Path) -> None:
    def found(**conditions: object) -> list[str]:
        return sorted(ids(list_sessions(snapshot, replace(EVERYTHING, **conditions))))

    assert found(include_archived=False) == ["s1", "s2", "s4", "s5", "s7", "s8"]
    assert found(channel="web") == ["s1", "s3", "s5", "s7", "s9"]
    assert found(channel="nowhere") == []
    assert found(metadata={"team": "b"}) == ["s1", "s3", "s5", "s7", "s9"]
    assert found(metadata={"team": "b", 'odd name."x"': "7"}) == ["s7"]
    assert found(metadata={"team": "b", "more": ""}) == []
    assert found(active_since=datetime(2026, 1, 1, 12, 4)) == ["s8", "s9"]
    assert found(active_before=datetime(2026, 1, 1, 12, 1)) == ["s0", "s1"]
    zone = timezone(timedelta(hours=2))
    assert found(active_since=datetime(2026, 1, 1, 14, 4, tzinfo=zone)) == ["s8", "s9"]
    assert found(channel="mail", active_since=datetime(2026, 1, 1, 12, 3, tzinfo=UTC)) == ["s6", "s8"]
    page = list_sessions(snapshot, replace(EVERYTHING, channel="mail"), limit=2)
    assert (ids(page), page.total) == (["s8", "s6"], 5)


def test_a_page_says_how_far_it_is_behind(snapshot: Path) -> None:
    page = list_sessions(snapshot, EVERYTHING, log_end={0: 12, 1: 20, 2: 5})
    assert page.lag_events == 7
    assert 0 <= page.snapshot_age_s < 60
    assert list_sessions(snapshot, EVERYTHING).lag_events is None
    session = page.sessions[0]
    assert session.last_active_at == datetime(2026, 1, 1, 12, 4, tzinfo=UTC)
    assert session.metadata == {"team": "a", 'odd name."x"': "8"}


def test_what_cannot_be(snapshot: Path, tmp_path: Path) -> None:
    for key in ("", "s1", "yesterday/s1"):
        with pytest.raises(UsageError, match="no key of a page"):
            list_sessions(snapshot, EVERYTHING, after=key)
    with pytest.raises(UsageError, match="limit"):
        list_sessions(snapshot, EVERYTHING, limit=-1)
    with pytest.raises(NotFoundError, match="turnlog materialize"):
        list_sessions(tmp_path / "nothing.duckdb", EVERYTHING)
