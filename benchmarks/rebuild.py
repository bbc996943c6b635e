"""The analysts' file made anew from the log, beside reading and decoding the log alone.

Run as a process, ``python -m benchmarks.rebuild``, it makes one file and prints how many seconds that took,
and how many MB the largest of its processes had in memory.
"""

import asyncio
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.deployment import Deployment
from benchmarks.meter import load_average
from benchmarks.seeding import MESSAGES_A_TURN, TURNS_OF_OLD_SESSIONS, events_of_session, old_sessions, write
from benchmarks.takeover import read_alone
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.topics_admin import topic_id
from turnlog_workers.materializer.parallel_rebuild import MAX_PROCESSES, rebuild

_LIMIT_S = 7200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log that the file is made of."""

    events: int
    turns: int = TURNS_OF_OLD_SESSIONS  #: of each session


def many_sessions(sessions: int) -> Log:
    """A log of so many sessions with ten messages each."""
    turns = 10 // MESSAGES_A_TURN
    return Log(events=sessions * events_of_session(turns), turns=turns)


async def measure(log: Log, deployment: Deployment, *, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Reading alone, in one process and in as many as the rebuild takes, and the rebuild: some rounds."""
    settings, partitions = deployment.settings, deployment.settings.partitions
    requests_id = await asyncio.to_thread(topic_id, settings, settings.topics.requests) or ""
    records = 0
    for partition in range(partitions):
        written = old_sessions(
            log.events // partitions,
            requests_id,
            name=f"old-{partition}",
            partition_count=partitions,
            turns=log.turns,
        )
        records += await write(settings, written, partition)
        say(f"rebuild: {records} records are there")
    sessions = (records - partitions) // events_of_session(log.turns)
    processes = min(os.cpu_count() or 1, MAX_PROCESSES, partitions)
    load_before, alone, beside, made = load_average(), [], [], []
    for number in range(rounds):
        alone.append(await asyncio.to_thread(read_alone, settings, range(partitions)))
        parts = (range(first, partitions, processes) for first in range(processes))
        beside.append(max(await asyncio.gather(*(asyncio.to_thread(read_alone, settings, part) for part in parts))))
        path = deployment.directory / f"rebuilt-{number}.duckdb"
        seconds, peak_mb = await asyncio.to_thread(_rebuild, settings, path)
        made.append(seconds)
        say(f"rebuild, round {number + 1} of {rounds}: {made[-1]:.1f} s, read and decoded alone {alone[-1]:.1f} s")
    rebuild_s, alone_s, beside_s = (statistics.median(each) for each in (made, alone, beside))
    return {
        "events": records,
        "sessions": sessions,
        "messages": sessions * log.turns * MESSAGES_A_TURN,
        "partitions": partitions,
        "rounds": rounds,
        "rebuild_s": rebuild_s,
        "decode_alone_s": alone_s,
        "decode_ratio": alone_s / rebuild_s,
        "processes": processes,
        "decode_in_as_many_s": beside_s,
        "decode_in_as_many_ratio": beside_s / rebuild_s,
        "events_per_s": records / rebuild_s,
        "peak_mb": peak_mb,  #: of the largest of its processes
        "file_mb": path.stat().st_size / 1e6,
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


def _rebuild(settings: Settings, path: Path) -> tuple[float, float]:
    argv = [sys.executable, "-m", "benchmarks.rebuild", settings.bootstrap_server, settings.prefix, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"the rebuild failed:\n{done.stderr}")
    seconds, peak_mb = map(float, done.stdout.split())
    return seconds, peak_mb


if __name__ == "__main__":
    address, prefix, target = sys.argv[1:]
    began = monotonic()
    rebuild(Settings(bootstrap_server=address, prefix=prefix), Path(target))
    seconds = monotonic() - began
    used = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(seconds, max(used) * (1 if sys.platform == "darwin" else 1024) / 1e6)
