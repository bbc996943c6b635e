"""Exports killed at any moment, into a folder and a lake, while the snapshot grows: nothing twice or missing.

``python -m tests.export_kills --kills 50``: after each kill the folder must be one without anything
twice or half, and the next export must bring both up to the snapshot. With ``--data s3`` the lake's
Parquet is in an object store.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import duckdb

from tests.exported import GrowingSnapshot, folder_problems, lake_problems
from tests.object_store import BUCKET, object_store

ROOT = Path(__file__).resolve().parents[1]
SESSIONS_A_STEP = 2_000
SEED = 14


def _command(snapshot: Path, target: str) -> list[str]:
    code = (
        "import sys; from pathlib import Path; from turnlog.export.{0} import {1} as export; export(Path({2!r}), {3})"
    )
    if target.startswith("ducklake:"):
        return [sys.executable, "-c", code.format("lake", "export_to_lake", str(snapshot), repr(target))]
    arguments = f"Path({target!r}), 'parquet'"
    return [sys.executable, "-c", code.format("files", "export_files", str(snapshot), arguments)]


def _run(command: list[str], kill_after_s: float | None) -> bool:
    """Was it killed?"""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        process.wait(kill_after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    assert process.returncode == 0, f"the export ended with {process.returncode}"
    return False


def _twice(folder: Path) -> list[str]:
    """Keys that are in all files of a table, named or not, more than once: what somebody sees who reads them all."""
    out = []
    for table, key in (("messages", "session_id, message_seq"), ("sessions", "session_id"), ("turns", "turn_id")):
        found = duckdb.execute(
            f"SELECT {key} FROM '{folder}/{table}/*/*.parquet' GROUP BY ALL HAVING count(*) > 1 LIMIT 3"
        ).fetchall()
        out += [f"{table}: twice: {row}" for row in found]
    return out


def main() -> int:
    """Prints what was done, and ends with 1 if something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.export_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of the export to a folder, and of the one to a lake")
    parser.add_argument("--catalog", help="of the lake, such as postgres:PARAMETERS (default: a file)")
    parser.add_argument("--data", choices=("folder", "s3"), default="folder", help="where the lake has its Parquet")
    options = parser.parse_args()
    kills, chance = options.kills, random.Random(SEED)
    killed, problems = {"folder": 0, "lake": 0}, []
    with ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnlog-export-")))
        snapshot = GrowingSnapshot(here / "snapshot.duckdb")
        snapshot.grow(SESSIONS_A_STEP)
        catalog = options.catalog or str(here / "chats.ducklake")
        targets = {"folder": str(here / "out"), "lake": f"ducklake:{catalog}"}
        from turnlog.export.lake import export_to_lake

        data = str(here / "data")
        if options.data == "s3":
            os.environ.update(stack.enter_context(object_store(here / "store")).environ)
            data = f"s3://{BUCKET}/chats"
        export_to_lake(snapshot.path, targets["lake"], data=data)
        took_s = {}
        for name, target in targets.items():
            began = time.monotonic()
            _run(_command(snapshot.path, target), None)
            took_s[name] = time.monotonic() - began
        while min(killed.values()) < kills and not problems:
            snapshot.grow(chance.choice((3, 200, SESSIONS_A_STEP)))
            for name, target in targets.items():
                if _run(_command(snapshot.path, target), chance.uniform(0.3, 1.0) * took_s[name]):
                    killed[name] += 1
                if name == "folder":
                    problems += [*folder_problems(snapshot.path, Path(target), whole=False), *_twice(Path(target))]
            if chance.random() < 0.3:
                for target in targets.values():
                    _run(_command(snapshot.path, target), None)
                problems += folder_problems(snapshot.path, here / "out") + lake_problems(snapshot.path, targets["lake"])
        for target in targets.values():
            _run(_command(snapshot.path, target), None)
        problems += folder_problems(snapshot.path, here / "out") + lake_problems(snapshot.path, targets["lake"])
        print(f"killed {killed}, {snapshot.sessions} sessions, {len(problems)} problems", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
