"""The analysts' file made anew from the log, beside reading and decoding the log alone.

Run as a process, ``python -m benchmarks.rebuild``, it makes one file and prints how many seconds that took.
"""

import asyncio
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.deployment import Deployment
from benchmarks.meter import load_average
from benchmarks.seeding import old_sessions, write
from benchmarks.takeover import read_alone
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.topics_admin import topic_id
from turnlog_workers.materializer.parallel_rebuild import MAX_PROCESSES, rebuild

_LIMIT_S = 1800.0


async def measure(events: int, deployment: Deployment, *, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Reading alone, in one process and in as many as the rebuild takes, and the rebuild: some rounds."""
    settings, partitions = deployment.settings, deployment.settings.partitions
    requests_id = await asyncio.to_thread(topic_id, settings, settings.topics.requests) or ""
    records = 0
    for partition in range(partitions):
        log = old_sessions(events // partitions, requests_id, name=f"old-{partition}", partition_count=partitions)
        records += await write(settings, log, partition)
    processes = min(os.cpu_count() or 1, MAX_PROCESSES, partitions)
    load_before, alone, beside, made = load_average(), [], [], []
    for number in range(rounds):
        alone.append(await asyncio.to_thread(read_alone, settings, range(partitions)))
        parts = (range(first, partitions, processes) for first in range(processes))
        beside.append(max(await asyncio.gather(*(asyncio.to_thread(read_alone, settings, part) for part in parts))))
        path = deployment.directory / f"rebuilt-{number}.duckdb"
        made.append(await asyncio.to_thread(_rebuild, settings, path))
        say(f"rebuild, round {number + 1} of {rounds}: {made[-1]:.1f} s, read and decoded alone {alone[-1]:.1f} s")
    rebuild_s, alone_s, beside_s = (statistics.median(each) for each in (made, alone, beside))
    return {
        "events": records,
        "partitions": partitions,
        "rounds": rounds,
        "rebuild_s": rebuild_s,
        "decode_alone_s": alone_s,
        "decode_ratio": alone_s / rebuild_s,
        "processes": processes,
        "decode_in_as_many_s": beside_s,
        "decode_in_as_many_ratio": beside_s / rebuild_s,
        "events_per_s": records / rebuild_s,
        "file_mb": path.stat().st_size / 1e6,
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


def _rebuild(settings: Settings, path: Path) -> float:
    argv = [sys.executable, "-m", "benchmarks.rebuild", settings.bootstrap_server, settings.prefix, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"the rebuild failed:\n{done.stderr}")
    return float(done.stdout)


if __name__ == "__main__":
    address, prefix, target = sys.argv[1:]
    began = monotonic()
    rebuild(Settings(bootstrap_server=address, prefix=prefix), Path(target))
    print(monotonic() - began)
