"""The worker's DuckDB files: held by others, broken, of another version or log, killed in the middle."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.event_logs import LogWriter, accepted_batches, random_log
from turnlog_streams.folding.rows import ENCODING, STORE_TABLES
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.store.database_files import wal_of
from turnlog_workers.store.partition_store import DuckPartitionStore, StoreDirectory
from turnlog_workers.store.port import DamagedStoreError, StoreError
from turnlog_workers.store.tables import table_hashes

_HEADER_BYTES, _BLOCK_BYTES = 3 * 4096, 256 * 1024  # of a DuckDB file
DEPLOYMENT = "cluster/chat"
ROOT = Path(__file__).resolve().parents[2]
LOG = random_log(1, 60)

HOLD_FILE = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""
WRITE_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from tests.event_logs import accepted_batches, random_log
from turnlog_workers.store.partition_store import StoreDirectory

async def main():
    store = await StoreDirectory(Path(sys.argv[1]), deployment=sys.argv[2]).open(0)
    for events, position in accepted_batches(random_log(int(sys.argv[3]), 200).records, 10, store.position):
        await store.write(events, position)
        print(position.next_offset, flush=True)

asyncio.run(main())
"""
WRITE_ON_A_FULL_DISK = """
import asyncio, os, resource, sys
from pathlib import Path
from tests.event_logs import accepted_batches, random_log
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.port import DamagedStoreError, StoreError

async def main():
    directory = StoreDirectory(Path(sys.argv[1]), deployment=sys.argv[2])
    store = await directory.open(0)
    log = random_log(3, 400)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    wal = store.file.with_name(store.file.name + ".wal")
    batches = accepted_batches(log.records, 50)
    failures = 0
    for number, (events, position) in enumerate(batches):
        if number == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + 1000, limits[1]))
        before = store.position
        try:
            await store.write(events, position)
        except StoreError:
            failures += 1
            assert store.position == before
            assert await store.unfinished() is not None
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            await store.write(events, position)
    assert await store.load(log.streams) == log.expected()
    await directory.close()
    print(failures)

asyncio.run(main())
"""

CHECKPOINT_ON_A_FULL_DISK = """
import asyncio, os, resource, sys
from pathlib import Path
from tests.event_logs import accepted_batches, random_log
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.port import DamagedStoreError, StoreError

async def main():
    directory = StoreDirectory(Path(sys.argv[1]), deployment=sys.argv[2])
    store, neighbour = await directory.open(0), await directory.open(1)
    log, other = random_log(3, 400), random_log(4, 100, partition=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    batches = list(accepted_batches(log.records, 50))
    for events, position in batches[:3]:
        await store.write(events, position)
    before = store.position
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.file.stat().st_size, limits[1]))
    for attempt in range(3):
        try:
            await store.rest()
        except StoreError as error:
            print(error)
        else:
            raise AssertionError("the disk was not full")
        assert store.position == before
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for events, position in accepted_batches(other.records, 50):
        await neighbour.write(events, position)
    for events, position in batches[3:]:
        await store.write(events, position)
    assert await store.load(log.streams) == log.expected()
    assert await neighbour.load(other.streams) == other.expected()
    await store.rest()
    await directory.close()

asyncio.run(main())
"""

OPEN_ON_A_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from tests.event_logs import accepted_batches, random_log
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.port import NoRoomError

async def main():
    directory = StoreDirectory(Path(sys.argv[1]), deployment=sys.argv[2])
    log = random_log(3, 100)
    store = await directory.open(0)
    for events, position in accepted_batches(log.records, 50):
        await store.write(events, position)
    await store.close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        await directory.open(1)
    except NoRoomError as error:
        sys.stdout.write(str(error))
    else:
        raise AssertionError("the disk was not full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store = await directory.open(1)
    await store.close()
    store = await directory.open(0)
    assert await store.load(log.streams) == log.expected()
    await directory.close()

asyncio.run(main())
"""


async def filled(directory: StoreDirectory, partition: int = 0, log: LogWriter = LOG) -> DuckPartitionStore:
    store = await directory.open(partition)
    for events, position in accepted_batches(log.records, 40, store.position):
        await store.write(events, position)
    return store


def marks(path: Path) -> dict[str, str]:
    connection = duckdb.connect(str(path), read_only=True)
    try:
        return dict(connection.execute("SELECT name, value FROM about").fetchall())
    finally:
        connection.close()


def hashes(path: Path) -> dict[str, str]:
    connection = duckdb.connect(str(path), read_only=True)
    try:
        return table_hashes(connection, STORE_TABLES)
    finally:
        connection.close()


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process has the file open."""
    argv = [sys.executable, "-c", HOLD_FILE, str(path)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_file_that_a_zombie_holds_is_not_waited_for_long(tmp_path: Path) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT, hand_over_s=0.1)
    await (await filled(directory)).close()
    with held(tmp_path / f"p0000.{ENCODING}.duckdb") as zombie:
        os.kill(zombie.pid, signal.SIGSTOP)
        store = await filled(directory)
        assert store.file.name == f"p0000.{ENCODING}.{os.getpid()}-1.duckdb"
        assert await store.load(LOG.streams) == LOG.expected()
        await store.close()
        again = await directory.open(0)
        assert again.position.next_offset == len(LOG.records), "our own file is found again"
        await again.close()
    usual = await directory.open(0)
    assert usual.file.name == f"p0000.{ENCODING}.duckdb"
    assert await usual.load(LOG.streams) == LOG.expected()
    await directory.close()


async def test_a_file_whose_owner_lets_go_is_taken_over(tmp_path: Path) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT, hand_over_s=30)
    await (await filled(directory)).close()
    with held(tmp_path / f"p0000.{ENCODING}.duckdb") as owner:
        opening = asyncio.create_task(directory.open(0))
        done, _ = await asyncio.wait([opening], timeout=0.3)
        assert not done, "no file of its own meanwhile"
        os.kill(owner.pid, signal.SIGKILL)
        store = await opening
    assert store.file.name == f"p0000.{ENCODING}.duckdb"
    assert await store.load(LOG.streams) == LOG.expected()
    await directory.close()


def ended_process() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


async def test_files_of_processes_that_are_gone_are_deleted(tmp_path: Path) -> None:
    gone = ended_process()
    left = [tmp_path / f"p0000.{ENCODING}.{gone}-1.duckdb", tmp_path / f"p0000.{ENCODING}.{gone}-1.duckdb.wal"]
    other = tmp_path / f"p0001.{ENCODING}.{gone}-1.duckdb"
    mine = tmp_path / f"p0000.{ENCODING}.{os.getpid()}-1.duckdb"
    for path in (*left, other, mine):
        path.write_bytes(b"")
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    await directory.open(0)
    assert not any(path.exists() for path in left)
    assert other.exists()
    assert mine.exists()
    await directory.close()


async def test_two_directories_of_one_process_do_not_share_a_file(tmp_path: Path) -> None:
    first, second = (StoreDirectory(tmp_path, deployment=DEPLOYMENT) for _ in range(2))
    one, two = await filled(first), await filled(second)
    assert one.file != two.file
    assert await two.load(LOG.streams) == LOG.expected()
    await first.close()
    await second.close()


async def test_a_file_that_will_not_open_is_moved_aside_and_few_are_kept(tmp_path: Path) -> None:
    for round_ in range(5):
        (tmp_path / f"p0000.{ENCODING}.duckdb").write_bytes(f"this is no database {round_}".encode() * 100)
        directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
        store = await directory.open(0)
        assert store.position == LogPosition()
        await directory.close()
        assert marks(tmp_path / f"p0000.{ENCODING}.duckdb")["deployment"] == DEPLOYMENT
    kept = sorted((tmp_path / "aside").iterdir())
    assert [path.read_bytes()[20:21] for path in kept] == [b"2", b"3", b"4"]


async def test_a_broken_write_ahead_log_goes_with_its_file(tmp_path: Path) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    await filled(directory)
    await directory.close()
    (tmp_path / f"p0000.{ENCODING}.duckdb").write_bytes(b"broken" * 1000)
    (tmp_path / f"p0000.{ENCODING}.duckdb.wal").write_bytes(b"also broken")
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    store = await filled(directory)
    assert await store.load(LOG.streams) == LOG.expected()
    await directory.close()
    assert len(list((tmp_path / "aside").glob("*.wal"))) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE about SET value = 'other rows' WHERE name = 'rows'",
        "UPDATE about SET value = 'another cluster' WHERE name = 'deployment'",
        "DROP TABLE about",
        "DROP TABLE partitions",
    ],
)
async def test_a_file_of_another_version_or_log_is_rebuilt(tmp_path: Path, statement: str) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    await filled(directory)
    await directory.close()
    live = hashes(tmp_path / f"p0000.{ENCODING}.duckdb")
    connection = duckdb.connect(str(tmp_path / f"p0000.{ENCODING}.duckdb"))
    connection.execute(statement)
    connection.close()
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    store = await directory.open(0)
    assert store.position == LogPosition()
    assert len(list((tmp_path / "aside").glob("p0000.*.duckdb"))) == 1
    await store.close()
    await filled(directory)
    await directory.close()
    assert hashes(tmp_path / f"p0000.{ENCODING}.duckdb") == live


async def test_what_left_memory_is_not_kept_for_the_next_batch(tmp_path: Path) -> None:
    store = await filled(StoreDirectory(tmp_path, deployment=DEPLOYMENT))
    kept = set(store._writer._streams)
    first = min(kept)
    await store.forget([first])
    assert set(store._writer._streams) == kept - {first}
    await store.rest()
    assert not store._writer._streams


async def test_rebuilt_in_other_batches_it_has_the_same_hashes(tmp_path: Path) -> None:
    log = random_log(77, 150)
    found = []
    for number, size in enumerate((3, 7, 1000)):
        directory = StoreDirectory(tmp_path / str(number), deployment=DEPLOYMENT)
        store = await directory.open(0)
        for events, position in accepted_batches(log.records, size):
            await store.write(events, position)
        await directory.close()
        found.append(hashes(tmp_path / str(number) / f"p0000.{ENCODING}.duckdb"))
    assert found[0] == found[1] == found[2]
    assert all(not found[0][name].startswith("0:") for name in ("streams", "messages", "unanswered", "partitions"))


async def test_one_changed_value_changes_the_hash(tmp_path: Path) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    await filled(directory)
    await directory.close()
    live = hashes(tmp_path / f"p0000.{ENCODING}.duckdb")
    connection = duckdb.connect(str(tmp_path / f"p0000.{ENCODING}.duckdb"))
    connection.execute("UPDATE messages SET text = '' WHERE text IS NULL")
    connection.close()
    changed = hashes(tmp_path / f"p0000.{ENCODING}.duckdb")
    assert {name for name in live if live[name] != changed[name]} == {"messages"}


def write_until_killed(path: Path, hit: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path), DEPLOYMENT, "5"],
        env={"TURNLOG_CRASH_AT": f"store.mid_commit:{hit}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("hit", [1, 2, 9])
async def test_killed_in_the_middle_of_a_commit(tmp_path: Path, hit: int) -> None:
    log = random_log(5, 200)
    process = await asyncio.to_thread(write_until_killed, tmp_path, hit)
    assert process.returncode == -signal.SIGKILL, process.stderr
    acknowledged = [int(line) for line in process.stdout.split()]
    assert len(acknowledged) == hit - 1
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    store = await directory.open(0)
    assert store.position.next_offset == (acknowledged or [0])[-1]
    assert not (tmp_path / "aside").exists()
    for events, position in accepted_batches(log.records, 10, store.position):
        await store.write(events, position)
    assert await store.load(log.streams) == log.expected()
    await directory.close()


async def test_goes_on_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", WRITE_ON_A_FULL_DISK, str(tmp_path), DEPLOYMENT],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 0, "the disk was never full"
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    log = random_log(3, 400)
    assert await (await directory.open(0)).load(log.streams) == log.expected()
    await directory.close()


def test_a_store_that_duckdb_gave_up_when_the_disk_was_full_is_taken_back(tmp_path: Path) -> None:
    """DuckDB refuses everything after a checkpoint that failed, until the file is attached again."""
    process = subprocess.run(
        [sys.executable, "-c", CHECKPOINT_ON_A_FULL_DISK, str(tmp_path), DEPLOYMENT],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "has been invalidated" in process.stdout, process.stdout
    assert not (tmp_path / "aside").exists()


def test_a_full_disk_is_said_and_no_file_is_moved_aside(tmp_path: Path) -> None:
    """Neither one that is to be made nor one that is there: the next try has room perhaps."""
    process = subprocess.run(
        [sys.executable, "-c", OPEN_ON_A_FULL_DISK, str(tmp_path), DEPLOYMENT],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "p0001" in process.stdout
    assert "the disk is full" in process.stdout
    assert "goes on by itself then" in process.stdout
    assert not (tmp_path / "aside").exists()


async def test_a_large_write_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    store = await directory.open(0)
    log = random_log(8, 4000, sessions=300)
    ((events, position),) = accepted_batches(log.records, 100_000)
    writing = asyncio.create_task(store.write(events, position))
    turns = 0
    while not writing.done():
        await asyncio.sleep(0)
        turns += 1
    await writing
    assert turns > 10
    assert await store.load(list(log.streams)[:5])
    await directory.close()


async def test_a_cancelled_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    store = await directory.open(0)
    for events, position in accepted_batches(LOG.records, 20):
        writing = asyncio.create_task(store.write(events, position))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await store.write(events, position)
        assert store.position == position
    assert await store.load(LOG.streams) == LOG.expected()
    await directory.close()


async def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="TURNLOG_DATA_DIR"):
        StoreDirectory(tmp_path / "file" / "stores", deployment=DEPLOYMENT)


async def test_closing_folds_the_write_ahead_logs_in(tmp_path: Path) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    stores = [await filled(directory, p, random_log(p, 40, partition=p)) for p in range(6)]
    assert all(wal_of(store.file).exists() for store in stores)
    await directory.close()
    assert not any(wal_of(store.file).exists() for store in stores)
    with pytest.raises(StoreError, match="closed"):
        await directory.open(0)


async def test_at_rest_the_files_are_whole_and_memory_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnlog_workers.store.partition_store._MEMORY_AT_REST_MB", 1)
    at_rest_bytes = 1_000_000
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)

    def of_duckdb(query: str) -> Any:
        found = directory._connection.execute(query).fetchone()
        assert found is not None
        return found[0]

    def held() -> int:
        return int(of_duckdb("SELECT sum(memory_usage_bytes)::BIGINT FROM duckdb_memory()"))

    limit = of_duckdb("SELECT current_setting('memory_limit')")
    logs = [random_log(p, 12000, partition=p) for p in range(2)]
    first, second = [await filled(directory, p, log) for p, log in enumerate(logs)]
    await first.rest()
    assert not wal_of(first.file).exists()
    assert wal_of(second.file).exists()
    await second.rest()
    assert not wal_of(second.file).exists()
    assert held() <= at_rest_bytes
    for store, log in zip((first, second), logs, strict=True):
        assert await store.load(log.streams) == log.expected()
    in_use = held()
    assert in_use > at_rest_bytes
    await second.rest()
    assert held() == in_use, "the first is still in use"
    await first.rest()
    assert held() <= at_rest_bytes
    assert of_duckdb("SELECT current_setting('memory_limit')") == limit
    await directory.close()


async def test_a_file_that_could_not_be_attached_at_rest_is_attached_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    first, second = [await filled(directory, p, random_log(p, 100, partition=p)) for p in range(2)]
    await first.rest()

    def failing(*_: object) -> None:
        raise duckdb.IOException("no file can be opened for now")

    with monkeypatch.context() as now:
        now.setattr("turnlog_workers.store.database_files.attach_as_it_is", failing)
        with pytest.raises(StoreError, match="for now"):
            await second.rest()
    for partition, store in enumerate((first, second)):
        log = random_log(partition, 100, partition=partition)
        assert await store.load(log.streams) == log.expected()
    await directory.close()


async def test_the_write_ahead_log_is_folded_in_before_it_gets_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 64 * 1024
    monkeypatch.setattr("turnlog_workers.store.database_files._MIN_CHECKPOINT_WAL_BYTES", bound)
    monkeypatch.setattr("turnlog_workers.store.database_files._CHECKPOINT_WAL_OF_FILE", 0)
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    store = await directory.open(0)
    log = random_log(5, 400)
    lengths = []
    for events, position in accepted_batches(log.records, 20):
        await store.write(events, position)
        wal = wal_of(store.file)
        lengths.append(wal.stat().st_size if wal.exists() else 0)
    assert max(lengths) <= bound
    assert sum(later < earlier for earlier, later in itertools.pairwise(lengths)) > 1
    assert await store.load(log.streams) == log.expected()
    await directory.close()


async def test_a_file_with_blocks_of_another_size_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("turnlog_workers.store.store_files._BLOCK_BYTES", 256 * 1024)
        directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
        await filled(directory)
        await directory.close()
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    store = await directory.open(0)
    assert store.position == LogPosition()
    assert len(list((tmp_path / "aside").glob("p0000.*.duckdb"))) == 1
    await store.close()
    assert await (await filled(directory)).load(LOG.streams) == LOG.expected()
    await directory.close()


async def test_a_file_that_turns_out_to_be_damaged_while_it_is_open_gives_way_to_a_new_one(tmp_path: Path) -> None:
    """DuckDB reads a block when it needs it: the file opens, and a checkpoint or a query fails."""
    log = random_log(3, 600)
    batches = list(accepted_batches(log.records, 100))
    directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
    store = await directory.open(0)
    for events, position in batches[:-1]:
        await store.write(events, position)
    await directory.close()
    path = tmp_path / f"p0000.{ENCODING}.duckdb"
    content = path.read_bytes()
    for at in range(_HEADER_BYTES, len(content), _BLOCK_BYTES):
        path.write_bytes(content[: at + 1000] + b"U" * 100 + content[at + 1100 :])
        directory = StoreDirectory(tmp_path, deployment=DEPLOYMENT)
        store = await directory.open(0)
        try:
            if store.position == batches[-2][1]:  # else it was moved aside at once
                await store.load(log.streams)
                await store.write(*batches[-1])
                await store.rest()
        except DamagedStoreError:
            with contextlib.suppress(StoreError):  # as a partition that is released because of it does
                await store.close()
            fresh = await directory.open_fresh(0, "it is damaged")
            for events, position in batches:
                await fresh.write(events, position)
            assert await fresh.load(log.streams) == log.expected()
            return
        finally:
            await directory.close()
    raise AssertionError("no damage showed late")
