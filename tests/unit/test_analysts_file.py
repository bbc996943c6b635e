"""The analysts' file and its published snapshots."""

import logging
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from streams.reader_rule import LogPosition
from tests.event_logs import LogWriter, accepted_batches, random_log, write_on
from workers.analysts_file import AnalystsFile
from workers.duck import read_positions, table_hashes
from workers.duck_files import FileKind, FileLockedError
from workers.snapshot import SnapshotError, publish

KIND = FileKind(deployment="chat.events id", analysts=True, partitions=(0, 1))
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
        return read_positions(connection), table_hashes(connection)
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
    assert not (tmp_path / "snapshot.duckdb.tmp").exists()


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
