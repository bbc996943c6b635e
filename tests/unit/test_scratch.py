"""Folders for what DuckDB moves out of memory: one for each process, and none is left behind for ever."""

import signal
import subprocess
import sys
from pathlib import Path

from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.temp_directory import ScratchFolder

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from turnlog_workers.store.temp_directory import ScratchFolder
folder = ScratchFolder(Path(sys.argv[1]))
print(folder.path, flush=True)
sys.stdin.read()
"""


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process with a folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_each_has_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    one, two = ScratchFolder(tmp_path), ScratchFolder(tmp_path)
    assert one.path != two.path
    assert one.path.exists()
    one.remove()
    one.remove()
    assert not one.path.exists()
    assert two.path.exists()
    two.remove()
    assert list(tmp_path.iterdir()) == []


def test_of_a_dead_process_it_is_cleared_away_and_of_a_living_one_it_stays(tmp_path: Path) -> None:
    living, its = holder(tmp_path)
    dead, left = holder(tmp_path)
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait(10)
        (left / "duckdb_temp_storage_S32K-0.tmp").write_bytes(b"pages")
        mine = ScratchFolder(tmp_path)
        assert not left.exists()
        assert its.exists()
        mine.remove()
    finally:
        for process in (living, dead):
            process.kill()
            process.communicate()


async def test_two_stores_of_one_folder_do_not_share_one(tmp_path: Path) -> None:
    one = StoreDirectory(tmp_path, deployment="d")
    two = StoreDirectory(tmp_path, deployment="d")
    used = [store._connection.execute("SELECT current_setting('temp_directory')").fetchone() for store in (one, two)]
    assert used[0] != used[1]
    await one.close()
    await two.close()
    assert list((tmp_path / "temp").iterdir()) == []
