"""How a rebuilt file comes into the live one's place, and what is published meanwhile."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import duckdb
import pytest

from tests.event_logs import LogWriter, accepted_batches, random_log
from turnlog.snapshot.difference import differences
from turnlog_streams.projection.rows import TABLES
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import UsageError
from turnlog_workers.base.ports import LogBrokenError
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.materializer.log_follower import OtherLogError
from turnlog_workers.materializer.moments import Until, parse_until
from turnlog_workers.materializer.parallel_rebuild import _Plan, _put_together
from turnlog_workers.materializer.process import Materializer
from turnlog_workers.materializer.rebuild_places import rebuilt_of
from turnlog_workers.materializer.rebuilding import Progress, _Run, next_checkpoint
from turnlog_workers.materializer.rebuilt_file import marks_of, open_live, published_positions
from turnlog_workers.store.database_files import FileLockedError
from turnlog_workers.store.tables import table_hashes

KIND = analysts_kind("chat.events id", (0, 1))
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def log() -> LogWriter:
    return random_log(7, 80)


def write(file: AnalystsFile, log: LogWriter, records: int | None = None) -> None:
    for events, position in accepted_batches(log.records[:records], 30):
        file.write(events, {log.partition: position})


@pytest.fixture
def live(tmp_path: Path, log: LogWriter) -> Iterator[AnalystsFile]:
    file = AnalystsFile(tmp_path / "analytics.duckdb", KIND)
    write(file, log, 40)
    yield file
    file.close()


def rebuilt(path: Path, log: LogWriter, **about: str) -> Path:
    file = AnalystsFile(rebuilt_of(path), analysts_kind(about.get("deployment", KIND.deployment), (0, 1)))
    write(file, log)
    file.checkpoint()
    file.close()
    return file.path


def test_it_is_taken_over_once_nobody_has_the_live_file(live: AnalystsFile, log: LogWriter) -> None:
    waiting = rebuilt(live.path, log)
    with pytest.raises(FileLockedError):
        open_live(live.path, KIND)
    assert waiting.exists()
    live.close()
    live.path.with_name("analytics.duckdb.wal").write_bytes(b"of the old one: whoever took over before was killed")
    file = open_live(live.path, KIND)
    assert file.positions[0].next_offset == len(log.records)
    assert not waiting.exists()
    file.close()


def test_one_of_another_log_is_not_taken(live: AnalystsFile, log: LogWriter) -> None:
    waiting = rebuilt(live.path, log, deployment="chat.events another")
    live.close()
    file = open_live(live.path, KIND)
    assert file.positions[0].next_offset == 40
    assert not waiting.exists()
    file.close()


def test_a_file_that_is_behind_the_published_snapshot_is_not_published(
    live: AnalystsFile, log: LogWriter, tmp_path: Path
) -> None:
    """As after a change of the rows: readers keep the old snapshot until the new file has caught up."""
    settings = Settings(data_dir=tmp_path)
    live.publish_now(settings.snapshot)
    before = settings.snapshot.stat().st_ino
    live.start_anew("its rows are of another version")
    materializer = Materializer(settings, threading.Event())
    materializer._published = published_positions(settings.snapshot, KIND.deployment)
    materializer._publish(live, now=True)
    write(live, log, 20)
    materializer._publish(live, now=True)
    assert settings.snapshot.stat().st_ino == before
    write(live, log)
    materializer._publish(live, now=True)
    assert settings.snapshot.stat().st_ino != before
    assert published_positions(settings.snapshot, "chat.events another") == {}
    assert published_positions(settings.snapshot, KIND.deployment)[0] == len(log.records)
    assert marks_of(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    ("texts", "until"),
    [
        (["2026-11-29T11:00"], Until(moment=1_795_950_000_000)),
        (["2026-11-29T12:00:00.250+01:00"], Until(moment=1_795_950_000_250)),
        (["2026-11-29"], Until(moment=1_795_910_400_000)),
        (["60m"], Until(moment=1_795_950_000_000)),
        (["1 h ago"], Until(moment=1_795_950_000_000)),
        (["3:1042"], Until(offsets={3: 1042})),
        (["3:1042", "0:7"], Until(offsets={0: 7, 3: 1042})),
    ],
)
def test_moments_as_people_write_them(texts: list[str], until: Until) -> None:
    found = parse_until(texts, now=NOW)
    assert found == until
    assert parse_until(found.mark.split(","), now=NOW) == until


@pytest.mark.parametrize(
    "texts", [["soon"], ["2026-13-01"], ["2026-11-30"], ["1:2", "1:3"], ["1:2", "1h"], ["1h", "2h"], ["-1:3"], [""]]
)
def test_what_is_no_moment(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_until(texts, now=NOW)


def test_progress_says_rate_and_what_is_left() -> None:
    assert Progress(done=500, total=2_000, read=400, seconds=4).describe() == (
        "500 of 2,000 records (25 %), 100 a second, about 15 s left"
    )
    assert Progress(done=7, total=7, read=0, seconds=0).describe() == "7 of 7 records (100 %), 0 a second"


def test_the_difference_of_two_moments(tmp_path: Path, log: LogWriter) -> None:
    paths = []
    for number, records in enumerate((40, None)):
        file = AnalystsFile(tmp_path / f"{number}.duckdb", KIND)
        write(file, log, records)
        file.checkpoint()
        file.close()
        paths.append(file.path)
    found = differences(*paths)
    with duckdb.connect(":memory:") as connection:
        for number, path in enumerate(paths):
            connection.execute(f"ATTACH '{path}' AS f{number} (READ_ONLY)")
        messages = connection.execute("SELECT count(*) FROM f1.messages ANTI JOIN f0.messages USING (log_offset)")
        assert sum(len(session.messages) for session in found) == (messages.fetchone() or [None])[0]
        added = connection.execute("SELECT session_id FROM f1.sessions ANTI JOIN f0.sessions USING (session_id)")
        assert {s.session_id for s in found if s.change == "added"} == {row[0] for row in added.fetchall()}
    assert {message.change for session in found for message in session.messages} == {"added"}
    assert any(
        old != new for session in found for old, new in [session.columns["turns"]] if session.change == "changed"
    )
    back = differences(*reversed(paths))
    assert [session.session_id for session in back] == [session.session_id for session in found]
    assert differences(paths[0], paths[0]) == []


def test_a_file_that_is_made_anew_keeps_what_was_checkpointed_and_equals_one_that_is_written_on(tmp_path: Path) -> None:
    log = random_log(5, 200)
    batches = list(accepted_batches(log.records, 20))
    written = AnalystsFile(tmp_path / "written.duckdb", KIND)
    made = AnalystsFile(tmp_path / "made.duckdb", KIND, logged=False)
    for number, (events, position) in enumerate(batches, start=1):
        written.write(events, {0: position})
        made.write(events, {0: position})
        if number == 3:
            made.checkpoint()
            kept = made.positions
        if number == 5:
            assert made.positions != kept
            made.close()
            made = AnalystsFile(tmp_path / "made.duckdb", KIND, logged=False)
            assert made.positions == kept
            for again, behind in batches[3:5]:
                made.write(again, {0: behind})
    made.checkpoint()
    written.checkpoint()
    for file in (made, written):
        file.close()
    assert hashes(made.path) == hashes(written.path)


def test_parts_become_one_file_once(tmp_path: Path) -> None:
    """However often it is tried: whoever is killed behind it begins here again."""
    logs = [random_log(20 + partition, 80, partition=partition) for partition in (0, 1)]
    whole = AnalystsFile(tmp_path / "whole.duckdb", KIND)
    parts = [tmp_path / f"{partition}.duckdb" for partition in (0, 1)]
    for partition, part in enumerate(parts):
        file = AnalystsFile(part, replace(KIND, partitions=(partition,)), logged=False)
        for events, position in accepted_batches(logs[partition].records, 30):
            file.write(events, {partition: position})
            whole.write(events, {partition: position})
        file.checkpoint()
        file.close()
    whole.checkpoint()
    whole.close()
    ends = {partition: len(logs[partition].records) for partition in (0, 1)}
    plan = _Plan(marks=KIND.marks, groups=[[0], [1]], ends=ends, moments={})
    for _ in range(2):
        _put_together(parts, plan, KIND, tmp_path / "temp")
        assert hashes(parts[0]) == hashes(whole.path)


def hashes(path: Path) -> dict[str, str]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return table_hashes(connection, TABLES)


def test_a_rebuild_of_a_log_that_is_another_one_each_time_ends() -> None:
    made: list[str] = []

    def another(*_: Any) -> None:
        raise OtherLogError("its first event is another one")

    file: Any = SimpleNamespace(positions={0: LogPosition()}, start_anew=lambda reason, tolerant: made.append(reason))
    bound: Any = SimpleNamespace(ends={0: 5}, moments={}, records=None)
    rebuild = _Run(cast(Any, SimpleNamespace(start=another)), file, bound, 10, lambda _: None)
    with pytest.raises(LogBrokenError, match=r"became another one 4 times .*: its first event is another one"):
        rebuild.run()
    assert len(made) == 3


def test_checkpoints_become_rarer_as_the_file_grows() -> None:
    assert [next_checkpoint(done) for done in (0, 250_000, 4_000_000, 20_000_000)] == [
        *(250_000, 500_000, 5_000_000, 22_000_000)
    ]
