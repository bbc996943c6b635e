"""The analysts' file and its published snapshots."""

import errno
import fcntl
import json
import logging
import mmap
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from tests.event_logs import LogWriter, accepted_batches, random_log, write_on
from tests.waiting import until
from turnlog_schemas.events import SessionCreated
from turnlog_streams.projection.rows import TABLES
from turnlog_streams.projection.state import ProjectionError
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.materializer import snapshot
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.materializer.publication_state import read_state
from turnlog_workers.materializer.snapshot import SnapshotError, publish
from turnlog_workers.store.database_files import FileLockedError
from turnlog_workers.store.tables import read_positions, table_hashes

KIND = analysts_kind("chat.events id", (0, 1))
SPILL = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True, config={"memory_limit": "40MB", "threads": 1})
connection.execute("SET enable_progress_bar = false")
connection.execute("CREATE TEMP TABLE big AS SELECT random() AS a, md5(range::VARCHAR) AS b FROM range(1000000)")
print("spilled", flush=True)
sys.stdin.read()
"""
WRITE_AND_DIE = """
import os, signal, sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("INSERT INTO about VALUES ('a', 'row that no log has')")
os.kill(os.getpid(), signal.SIGKILL)
"""
OPEN_TO_WRITE = "import sys, duckdb; duckdb.connect(sys.argv[1])"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[AnalystsFile]:
    file = AnalystsFile(tmp_path / "analytics.duckdb", KIND)
    yield file
    file.close()


def write(file: AnalystsFile, log: LogWriter) -> None:
    for events, position in accepted_batches(log.records, 30, file.positions[log.partition]):
        file.write(events, {log.partition: position})


def state(path: Path) -> tuple[dict[int, LogPosition], dict[str, str]]:
    # A name of its own: one process has one view of a path for as long as any connection to it is open.
    copy = shutil.copy(path, path.with_name(f"copy-{uuid.uuid4().hex}"))
    connection = duckdb.connect(str(copy), read_only=True)
    try:
        return read_positions(connection), table_hashes(connection, TABLES)
    finally:
        connection.close()
        copy.unlink()


def test_a_snapshot_is_the_state_of_its_checkpoint(file: AnalystsFile, tmp_path: Path) -> None:
    log = random_log(1, 100)
    write(file, log)
    target = tmp_path / "snapshots" / "snapshot.duckdb"
    file.publish_now(target)
    positions, hashes = state(target)
    assert positions[0].next_offset == len(log.records)
    reader = duckdb.connect(str(target), read_only=True)
    write_on(log, 100)
    write(file, log)
    assert state(target) == (positions, hashes)
    file.publish_now(target)
    assert state(target)[0][0].next_offset == len(log.records)
    assert read_positions(reader) == positions, "who has the old snapshot open keeps it"
    reader.close()
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_nothing_new_is_not_published_again(file: AnalystsFile, tmp_path: Path) -> None:
    target = tmp_path / "snapshot.duckdb"
    assert file.publish(target)
    file.publish_now(target)
    assert not file.publish(target)
    target.unlink()
    assert file.publish(target), "somebody took it away"
    file.publish_now(target)
    write(file, random_log(2, 20))
    assert file.publish(target)


def test_publishing_does_not_give_the_lock_away(file: AnalystsFile, tmp_path: Path) -> None:
    """POSIX drops a process's lock when any descriptor of the file is closed: a second writer could come in."""
    for seed in range(2):
        write(file, random_log(seed, 20, partition=seed))
        file.publish_now(tmp_path / "snapshot.duckdb")
    process = subprocess.run(
        [sys.executable, "-c", OPEN_TO_WRITE, str(file.path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Could not set lock" in process.stderr
    with pytest.raises(FileLockedError):
        AnalystsFile(file.path, KIND)


def test_a_snapshot_that_cannot_be_written_is_tried_again(
    file: AnalystsFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    target = blocked / "snapshot.duckdb"
    with caplog.at_level(logging.ERROR):
        file.publish_now(target)
    assert "was not published" in caplog.text
    blocked.unlink()
    file.publish_now(target)
    assert target.exists()


def test_a_copy_of_another_state_is_not_published(file: AnalystsFile, tmp_path: Path) -> None:
    target = tmp_path / "snapshot.duckdb"
    file.publish_now(target)
    before = target.stat().st_ino
    with file.path.open("rb") as source, pytest.raises(SnapshotError, match="another state"):
        publish(source, target, {0: LogPosition(next_offset=7)})
    assert target.stat().st_ino == before
    torn = tmp_path / "torn"
    torn.write_bytes(file.path.read_bytes()[:5000])
    with torn.open("rb") as source, pytest.raises(SnapshotError, match="was not published"):
        publish(source, target, file.positions)
    assert target.stat().st_ino == before
    assert {path.name for path in tmp_path.iterdir() if "snapshot" in path.name} == {target.name}


@pytest.mark.parametrize("killed", [False, True])
def test_a_reader_that_ran_out_of_memory_does_not_stand_in_the_way(
    file: AnalystsFile, tmp_path: Path, killed: bool
) -> None:
    """DuckDB moves a reader's pages into a folder beside the file, which stays when the reader is killed."""
    target = tmp_path / "snapshot.duckdb"
    file.publish_now(target)
    argv = [sys.executable, "-c", SPILL, str(target)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "spilled\n"
        spilled = target.with_name("snapshot.duckdb.tmp")
        assert list(spilled.iterdir())
        if killed:
            reader.kill()
            reader.wait()
        log = random_log(1, 100)
        write(file, log)
        file.publish_now(target)
        assert state(target)[0][0].next_offset == len(log.records)
        assert list(spilled.iterdir()), "whoever uses them keeps them"
        reader.communicate()


def test_a_reader_that_maps_the_file_keeps_what_it_has(file: AnalystsFile, tmp_path: Path) -> None:
    target = tmp_path / "snapshot.duckdb"
    file.publish_now(target)
    before = target.read_bytes()
    with target.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        write(file, random_log(1, 100))
        file.publish_now(target)
        assert mapped[:] == before
    assert target.read_bytes() != before


def test_what_somebody_wrote_into_a_snapshot_is_not_kept(
    file: AnalystsFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A write-ahead log beside the file would be read into every later snapshot."""
    caplog.set_level(logging.WARNING)
    target = tmp_path / "snapshot.duckdb"
    for number in range(2):
        file.publish_now(target)
        assert target.stat().st_mode & 0o222 == 0, "who does not insist cannot"
        target.chmod(0o644)
        subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(target)], timeout=60, check=False)
        assert target.with_name("snapshot.duckdb.wal").exists()
        if number:
            write(file, random_log(1, 100))
        assert file.publish(target), "it is not what was published, even with nothing new"
        file.publish_now(target)
        assert not target.with_name("snapshot.duckdb.wal").exists()
        connection = duckdb.connect(str(shutil.copy(target, tmp_path / f"copy-{number}")), read_only=True)
        assert connection.execute("SELECT count(*) FROM about WHERE name = 'a'").fetchone() == (0,)
        connection.close()
    assert "Open it read-only" in caplog.text


def test_half_copies_of_the_dead_are_removed_and_nothing_else(file: AnalystsFile, tmp_path: Path) -> None:
    target = tmp_path / "snapshot.duckdb"
    half = tmp_path / ".snapshot.duckdb.1-abc.publishing"
    in_use = tmp_path / ".snapshot.duckdb.2-abc.publishing"
    others = [tmp_path / name for name in (".snapshot.duckdb.notes", "snapshot.duckdb.old", ".other.1-abc.publishing")]
    for path in (half, in_use, *others):
        path.write_bytes(b"something")
    earlier = tmp_path / "snapshot.duckdb.tmp"  # what versions before this one left
    earlier.write_bytes(file.path.read_bytes()[:5000])
    with in_use.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        file.publish_now(target)
        assert not half.exists()
        assert not earlier.exists()
        assert all(path.exists() for path in (target, in_use, *others))
    earlier.write_bytes(b"somebody's own")
    target.unlink()
    file.publish_now(target)
    assert not in_use.exists()
    assert earlier.exists()


def failing_disk(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def copy(*_: object) -> None:
        raise OSError(code, os.strerror(code), "copy")

    monkeypatch.setattr(snapshot.shutil, "copyfileobj", copy)


def folder_at(target: Path) -> Callable[[], None]:
    (target / "inside").mkdir(parents=True)
    return lambda: shutil.rmtree(target)


def file_as_parent(target: Path) -> Callable[[], None]:
    target.parent.write_text("a file where a folder should be")
    return target.parent.unlink


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free disk space"),
        (errno.EROFS, "right to write"),
        (errno.EIO, "Check"),
        (0, "Remove it, or set TURNLOG_SNAPSHOT_PATH"),
        (1, "was not published"),
    ],
)
def test_a_failure_is_said_once_and_kept_for_the_doctor_and_mended(
    file: AnalystsFile,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    advice: str,
) -> None:
    caplog.set_level(logging.INFO)
    target = tmp_path / "folder" / "snapshot.duckdb"
    if code > 1:
        failing_disk(monkeypatch, code)
        mend: Callable[[], None] = monkeypatch.undo
    else:
        mend = folder_at(target) if code == 0 else file_as_parent(target)
    for _ in range(3):
        file.publish_now(target)
    assert caplog.text.count("was not published") == 1
    assert advice in caplog.text
    assert not file.publish(target), "not at once again"
    found = read_state(tmp_path)
    assert found is not None
    assert (found.failures, found.published_at) == (3, None)
    assert advice in found.describe(found.failing_since or 0)
    mend()
    until(lambda: file.publish(target), "the next try")
    file.publish_now(target)
    assert state(target)[0] == file.positions
    found = read_state(tmp_path)
    assert found is not None
    assert found.describe(0) == ""
    assert found.published_at is not None
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_lost_state_file_is_no_state(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    for text in ("", "[]", "{", json.dumps({"snapshot": "s", "published_at": 5, "failing_since": None})):
        (tmp_path / "publication.json").write_text(text)
        assert read_state(tmp_path) is None


def test_starting_anew_keeps_the_old_file_aside(file: AnalystsFile, tmp_path: Path) -> None:
    write(file, random_log(1, 50))
    file.start_anew("it is of another log")
    assert file.positions == {0: LogPosition(), 1: LogPosition()}
    assert len(list((tmp_path / "aside").glob("analytics.*.duckdb"))) == 1
    log = random_log(2, 50)
    write(file, log)
    file.publish_now(tmp_path / "snapshot.duckdb")
    assert state(tmp_path / "snapshot.duckdb")[0][0].next_offset == len(log.records)


def test_partitions_in_one_transaction_equal_partitions_one_by_one(tmp_path: Path) -> None:
    logs = [random_log(10 + partition, 120, partition=partition) for partition in range(2)]
    found = []
    for number, together in enumerate((True, False)):
        file = AnalystsFile(tmp_path / f"{number}.duckdb", KIND)
        batches = [accepted_batches(log.records, 25) for log in logs]
        if together:
            for (events, position), (other_events, other_position) in zip(*batches, strict=False):
                file.write([*events, *other_events], {0: position, 1: other_position})
        for log in logs:
            write(file, log)
        file.publish_now(tmp_path / f"snapshot-{number}.duckdb")
        file.close()
        found.append(state(tmp_path / f"snapshot-{number}.duckdb"))
    assert found[0] == found[1]
    assert {"events", "usage"} <= found[0][1].keys()


def test_a_log_in_which_one_stream_does_not_fit_is_kept_for_the_others(file: AnalystsFile) -> None:
    """First it may be the file that lost rows; made anew from the whole log, it marks the stream and goes on."""
    log = random_log(3, 150, zombies=False, newer=False)
    accepted = [event for events, _ in accepted_batches(log.records, 1_000, LogPosition()) for event in events]
    lost = next(event for event in accepted if isinstance(event.payload, SessionCreated))
    (*_, (_, end)) = accepted_batches(log.records, 1_000, LogPosition())
    with_a_hole = [event for event in accepted if event is not lost]
    with pytest.raises(ProjectionError):
        file.write(with_a_hole, {log.partition: end})
    file.start_anew("rows are missing", tolerant=True)
    file.write(with_a_hole, {log.partition: end})
    marked = file._cursor.execute("SELECT DISTINCT stream_id FROM internal.unknown_events").fetchall()
    assert marked == [(lost.header.stream_id,)]
    assert file.positions[log.partition] == end
