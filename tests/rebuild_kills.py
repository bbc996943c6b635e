"""``python -m tests.rebuild_kills --kills 50``: kill -9 of the materializer and of rebuilds under load; then verify.

A broker of its own, a log that grows all the time. The materializer is killed at random moments and in the middle of
commits, and so are rebuilds, between commits and in the middle of the swap; every other one beside a materializer. In
the end a rebuild and the materializer run to their end, and `turnlog verify` must find nothing; a row that is planted
in the snapshot then must be found.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb

from benchmarks.seeding import PartitionLog, write
from tests.waiting import until
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.topics_admin import init_topics, topic_id
from turnlog_workers.materializer.verification import verify

_PARTITIONS = 3
_TURNS = 20
_SESSIONS_A_SECOND = 5
_LATEST_KILL_S = 6.0  #: a process takes one or two to start
_LATEST_PLACE_S = 15.0
_PLACES = {
    "materialize": ("", "materializer.mid_commit:{}"),
    "rebuild": ("", "rebuild.after_batch:{}", "rebuild.in_swap"),
}
_WAIT_S = 300.0


class Load:
    """Sessions that are written into every partition until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._write()), daemon=True)
        self.records = 0

    def start(self) -> None:
        """Write on in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """No more."""
        self._stop.set()
        self._thread.join()

    async def _write(self) -> None:
        requests_id = topic_id(self._settings, self._settings.topics.requests) or ""
        logs = [PartitionLog(requests_id, _PARTITIONS) for _ in range(_PARTITIONS)]
        for partition, log in enumerate(logs):
            self.records += await write(self._settings, [log.claim()], partition)
        for number in itertools.count():
            for partition, log in enumerate(logs):
                sessions = log.session(f"s-{partition}-{number:08x}", _TURNS)
                self.records += await write(self._settings, sessions, partition)
            if self._stop.wait(1 / _SESSIONS_A_SECOND):
                return


class Kills:
    """The processes of one data directory, and who is killed."""

    def __init__(self, settings: Settings, log: Path, seed: str) -> None:
        self._log = log.open("ab")
        self._random = random.Random(seed)
        self._env = {
            "PATH": os.environ["PATH"],
            "TURNLOG_BOOTSTRAP_SERVER": settings.bootstrap_server,
            "TURNLOG_PREFIX": settings.prefix,
            "TURNLOG_DATA_DIR": str(settings.data_dir),
            "TURNLOG_PUBLISH_INTERVAL_S": "0.3",
            "TURNLOG_STORE_BATCH_EVENTS": "500",
        }

    def start(self, command: str, place: str = "") -> subprocess.Popen[bytes]:
        """A command of Turnlog, that kills itself at a named place."""
        argv = [sys.executable, "-m", "turnlog", command]
        env = self._env | {"TURNLOG_CRASH_AT": place}
        return subprocess.Popen(argv, env=env, stdout=self._log, stderr=self._log)

    def killed(self, command: str) -> bool:
        """Start it, kill it at some place or moment; was it still at work?"""
        place = self._random.choice(_PLACES[command]).format(self._random.randint(1, 6))
        latest_s = self._random.uniform(0.3, _LATEST_KILL_S) if not place else _LATEST_PLACE_S
        with self.start(command, place) as process:
            try:
                process.wait(latest_s)
            except subprocess.TimeoutExpired:
                process.kill()
            return process.wait() == -signal.SIGKILL

    def to_the_end(self, command: str) -> None:
        """Run it; it must do what it is for."""
        with self.start(command) as process:
            if process.wait(_WAIT_S) != 0:
                raise RuntimeError(f"turnlog {command} ends with {process.returncode}")


def _snapshot_records(settings: Settings) -> int:
    with contextlib.suppress(duckdb.Error), duckdb.connect(str(settings.snapshot), read_only=True) as connection:
        found = connection.execute("SELECT sum(next_offset) FROM partitions").fetchone()
        return int(found[0]) if found and found[0] is not None else 0
    return 0


@contextlib.contextmanager
def _caught_up(kills: Kills, settings: Settings, records: int) -> Iterator[None]:
    """The materializer, once its snapshot holds so many records."""
    with kills.start("materialize") as process:
        try:
            until(lambda: _snapshot_records(settings) >= records, f"the snapshot comes to {records} records", _WAIT_S)
            yield
        finally:
            process.terminate()


def run(settings: Settings, folder: Path, kills: int, seed: str) -> dict[str, object]:
    """Half of the kills hit a materializer alone, the others a rebuild beside a materializer or alone."""
    init_topics(settings)
    load, killer = Load(settings), Kills(settings, folder / "processes.log", seed)
    load.start()
    done = {"materialize": 0, "rebuild": 0}
    completed, seen, shrunk = 0, 0, 0
    for number in itertools.count():
        if min(done.values()) >= kills:
            break
        done["materialize"] += killer.killed("materialize")
        beside = killer.start("materialize") if number % 2 else None
        if killer.killed("rebuild"):
            done["rebuild"] += 1
        else:
            completed += 1
        if beside is not None:
            beside.kill()
            beside.wait()
            done["materialize"] += 1
        now = _snapshot_records(settings)
        shrunk += now < seen  # what is published never says less
        seen = now
        print(f"killed {done}, rebuilds to their end {completed}, {load.records} records", file=sys.stderr, flush=True)
    load.stop()
    killer.to_the_end("rebuild")
    with _caught_up(killer, settings, load.records):
        found = verify(settings, settings.snapshot)
    settings.snapshot.chmod(0o644)
    with duckdb.connect(str(settings.snapshot)) as connection:
        newest = "(SELECT max(accepted_offset) FROM internal.turns)"
        connection.execute(f"UPDATE internal.turns SET reason = 'planted' WHERE accepted_offset = {newest}")
    planted = verify(settings, settings.snapshot)
    return {
        "killed": done,
        "rebuilds_to_their_end": completed,
        "records": load.records,
        "rows": found.rows,
        "difference": None if found.difference is None else found.difference.table,
        "snapshots_that_said_less": shrunk,
        "planted_found": planted.difference is not None and planted.difference.table == "turns",
        "ok": found.difference is None and found.rows > load.records and not shrunk and planted.difference is not None,
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.rebuild_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of the materializer, and of rebuilds: of each as many")
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnlog-kills-") as name:
        folder = Path(name)
        with DevBroker(folder / "broker", preferred_port=None, say=lambda line: None) as broker:
            settings = Settings(
                bootstrap_server=broker.bootstrap_server,
                prefix="kills",
                partitions=_PARTITIONS,
                data_dir=folder / "data",
            )
            try:
                report = run(settings, folder, options.kills, options.seed)
            except BaseException:
                print((folder / "processes.log").read_text()[-5000:], file=sys.stderr)
                raise
    print(json.dumps(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
