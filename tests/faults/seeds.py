"""``python -m tests.faults.seeds [--minutes 4]``: the simulation alone, seed after seed, whenever a machine is idle.

What is done is in docs/results/seeds.json after each round of chunks; the next call goes on there, to a million seeds.
"""

import argparse
import contextlib
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.simulated import CHUNK, PROCESSES, Chunk, SimulationProcess
from turnlog_workers.base.json_file import read_json, write_json

RESULT = Path(__file__).resolve().parents[2] / "docs" / "results" / "seeds.json"
FIRST = 5_000_000
WANTED = 1_000_000


def with_chunk(done: dict[str, Any], chunk: Chunk, date: str, machine: str) -> dict[str, Any]:
    """What is done once this chunk is."""
    return {
        "began": done.get("began", date),
        "date": date,
        "machine": machine,
        "first": done.get("first", chunk.low),
        "next": chunk.high,
        "seeds": done.get("seeds", 0) + chunk.seeds,
        "failing": done.get("failing", 0) + chunk.failing,
        "seconds": round(done.get("seconds", 0.0) + chunk.seconds, 1),
        "said": [*done.get("said", []), *([f"seeds {chunk.low}:{chunk.high}: {chunk.said}"] if chunk.said else [])],
    }


def go_on(
    result: Path, *, deadline: float, wanted: int = WANTED, chunk: int = CHUNK, processes: int = PROCESSES
) -> dict[str, Any]:
    """Chunks, one in each process, until the monotonic time or all seeds are over; what is done then."""
    done = read_json(result)
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    end = done.get("first", FIRST) + wanted
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(SimulationProcess()) for _ in range(processes)]
        threads = stack.enter_context(ThreadPoolExecutor(processes))
        while (low := done.get("next", FIRST)) < end and time.monotonic() < deadline:
            lows = range(low, min(low + chunk * processes, end), chunk)
            highs = [min(low + chunk, end) for low in lows]
            for ran in threads.map(SimulationProcess.run, running, lows, highs):
                done = with_chunk(done, ran, datetime.now(UTC).date().isoformat(), machine)
            result.parent.mkdir(parents=True, exist_ok=True)
            write_json(result, done)
    return done


def main() -> int:
    """The command line; the exit code is 1 when a seed failed, of whatever call."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.seeds", description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0, help="no chunk begins after that")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--seeds", type=int, default=WANTED, help="how many there are to be in all")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="that run them side by side")
    options = parser.parse_args()
    deadline = time.monotonic() + options.minutes * 60
    done = go_on(options.result, deadline=deadline, wanted=options.seeds, processes=options.processes)
    print(f"{done.get('seeds', 0):,} of {options.seeds:,} seeds, {done.get('failing', 0)} with anomalies")
    for said in done.get("said", []):
        print(said)
    return 1 if done.get("failing") else 0


if __name__ == "__main__":
    sys.exit(main())
