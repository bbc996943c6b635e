"""The bounds of a statement: time, memory, rows, disk; and that nothing of it is left, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import duckdb
import psutil
import pytest

from tests.waiting import until
from turnlog.errors import TurnlogError
from turnlog.snapshot import query as query_module
from turnlog.snapshot.query import Bounds, QueryTimedOutError, SnapshotQuery

ENDLESS = "SELECT count(*) AS n FROM range(1000000000) a, range(1000000000) b"
MEASURED = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "turnlog", "sql", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
print(done.returncode, len(done.stdout), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, ours and the processes'."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def data_dir(tmp_path: Path, temporary: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    connection = duckdb.connect(str(path / "snapshot.duckdb"))
    connection.execute("CREATE TABLE sessions AS SELECT i AS n FROM range(10) t(i)")
    connection.close()
    return path


@pytest.fixture
def snapshot(data_dir: Path) -> Path:
    return data_dir / "snapshot.duckdb"


@pytest.fixture(autouse=True)
def nothing_is_left(temporary: Path, data_dir: Path) -> Iterator[None]:
    yield
    assert list(temporary.iterdir()) == []
    assert [path.name for path in data_dir.iterdir()] == ["snapshot.duckdb"]
    assert not [child for child in psutil.Process().children(recursive=True) if "snapshot_reader" in str(child)]


def command(data_dir: Path, statement: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "turnlog", "sql", statement, "--data-dir", str(data_dir), *more]


def test_time_is_bounded_whatever_duckdb_is_busy_with(snapshot: Path) -> None:
    began = time.monotonic()
    with (
        pytest.raises(QueryTimedOutError, match=r"after 0\.5 s\. --timeout-s") as error,
        SnapshotQuery(snapshot, ENDLESS, bounds=Bounds(timeout_s=0.5)) as query,
    ):
        assert list(query) == []
    assert error.value.exit_code == 6
    assert time.monotonic() - began < 20


def test_whoever_reads_slowly_is_not_ended(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeout_s, read_s, monotonic = 10.0, 0.0, time.monotonic
    monkeypatch.setattr(query_module, "time", SimpleNamespace(monotonic=lambda: monotonic() + read_s))
    bounds = Bounds(timeout_s=timeout_s)
    with SnapshotQuery(snapshot, "SELECT repeat('x', 1000) FROM range(5000)", bounds=bounds) as query:
        pieces = iter(query)
        size = len(next(pieces))
        read_s = 2 * timeout_s  # somebody reads the first page
        size += sum(map(len, pieces))
    assert size > 5_000_000


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT len(list(range)) FROM range(100000000)",
        "SELECT repeat('x', 100000000) AS v",
        "SELECT quantile_cont(range::DOUBLE, 0.5) FROM range(40000000)",
    ],
)
def test_memory_is_bounded_also_what_duckdb_does_not_count(data_dir: Path, statement: str) -> None:
    argv = [sys.executable, "-c", MEASURED, *command(data_dir, statement, "--memory-mb", "256", "--timeout-s", "0")[4:]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=True)
    code, length, peak_mb = map(int, done.stdout.split())
    assert (code, length) == (1, 0)
    assert "more than 256 MB of memory" in done.stderr
    assert "--memory-mb" in done.stderr
    assert peak_mb < 256 + 64


def test_memory_stays_small_however_many_rows_there_are(data_dir: Path) -> None:
    statement = "SELECT range AS n, repeat('x', 200) AS v FROM range(300000)"
    argv = [sys.executable, "-c", MEASURED, *command(data_dir, statement, "--json", "--timeout-s", "0")[4:]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=True)
    code, length, peak_mb = map(int, done.stdout.split())
    assert code == 0
    assert length > 60_000_000
    assert peak_mb < 256  # the measuring process holds the answer itself, and is not counted


def test_what_does_not_fit_goes_to_a_private_folder(snapshot: Path, temporary: Path) -> None:
    statement = "SELECT last(b) AS n FROM (SELECT md5(range::VARCHAR) AS b FROM range(4000000) ORDER BY b)"
    bounds = Bounds(memory_mb=256, timeout_s=0)
    spilled: list[int] = []

    def look() -> bool:
        for folder in temporary.iterdir():
            spilled.extend(folder.stat().st_mode & 0o777 for path in folder.iterdir() if "duckdb_temp" in path.name)
        return bool(spilled)

    with SnapshotQuery(snapshot, statement, bounds=bounds) as query:
        until(look, "something is moved out of memory", 60)
        assert len(json.loads(b"".join(query))) == 1
    assert set(spilled) == {0o700}


def test_duckdb_knows_the_bounds_and_nobody_changes_them(snapshot: Path, temporary: Path) -> None:
    names = ("max_temp_directory_size", "memory_limit", "enable_external_access", "lock_configuration", "TimeZone")
    statement = "SELECT " + ", ".join(f"current_setting('{name}') AS {name}" for name in names)
    with SnapshotQuery(snapshot, statement, bounds=Bounds(memory_mb=512, spill_mb=100)) as query:
        (row,) = json.loads(b"".join(query))
    assert row == {
        "max_temp_directory_size": "95.3 MiB",
        "memory_limit": "213.6 MiB",
        "enable_external_access": False,
        "lock_configuration": True,
        "TimeZone": "UTC",
    }


def test_a_process_that_dies_is_an_error(snapshot: Path) -> None:
    before = set(psutil.Process().children())
    with SnapshotQuery(snapshot, ENDLESS, bounds=Bounds(timeout_s=0)) as query:
        (reader,) = set(psutil.Process().children()) - before
        os.kill(reader.pid, signal.SIGTERM)
        with pytest.raises(TurnlogError, match=r"exit code -15"):
            list(query)


@pytest.mark.parametrize("form", [["--json"], ["--csv"], ["--limit", "0"]])
def test_who_has_read_enough_hears_nothing(data_dir: Path, form: list[str]) -> None:
    argv = command(data_dir, "FROM range(100000000)", *form)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(20)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_is_interrupted_at_once(data_dir: Path, temporary: Path, number: signal.Signals, code: int) -> None:
    argv = command(data_dir, ENDLESS)

    def as_in_a_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, so perhaps these tests, ignore it

    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=as_in_a_terminal) as process:
        until(lambda: any(temporary.iterdir()) and bool(psutil.Process(process.pid).children()), "it runs", 30)
        process.send_signal(number)
        assert process.communicate(timeout=20) == (b"", b"")
        assert process.returncode == code


def test_long_tables_come_in_portions(data_dir: Path) -> None:
    argv = command(data_dir, "SELECT n AS number FROM sessions ORDER BY n", "--batch-rows", "4")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("number") == 3
    assert [line.strip() for line in done.stdout.splitlines() if line.strip().isdigit()] == [str(n) for n in range(10)]


def test_it_is_the_newest_snapshot_whoever_has_the_old_one_open(snapshot: Path, data_dir: Path) -> None:
    held = duckdb.connect(str(snapshot), read_only=True)
    newer = data_dir / "newer.duckdb"
    connection = duckdb.connect(str(newer))
    connection.execute("CREATE TABLE sessions AS SELECT 7 AS n")
    connection.close()
    newer.replace(snapshot)
    with SnapshotQuery(snapshot, "SELECT max(n) AS n FROM sessions") as query:
        assert json.loads(b"".join(query)) == [{"n": 7}]
    assert held.execute("SELECT max(n) FROM sessions").fetchone() == (9,)
    held.close()
