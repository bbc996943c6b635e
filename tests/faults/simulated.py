"""The simulation as a part of the long form: so many seeds, in processes of their own, within a time."""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

CHUNK = 2_000
PROCESSES = 2
_DONE = re.compile(r"^(\d+) seeds, (\d+) with anomalies", re.MULTILINE)


@dataclass(slots=True)
class Simulated:
    """What the simulation found. ``ranges`` are the seeds, the last one of each not included."""

    seeds: int = 0
    failing: int = 0
    seconds: float = 0.0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  #: by chunks with findings


def simulate_seeds(first: int, count: int, *, seconds: float) -> Simulated:
    """Run the seeds from ``first`` on in chunks; no chunk is begun when the time is over."""
    began = time.monotonic()
    result = Simulated()
    chunks = iter([(low, min(low + CHUNK, first + count)) for low in range(first, first + count, CHUNK)])

    def work() -> None:
        for low, high in chunks:
            if time.monotonic() > began + seconds:
                return
            _chunk(low, high, result)

    with ThreadPoolExecutor(PROCESSES) as pool:
        for done in [pool.submit(work) for _ in range(PROCESSES)]:
            done.result()
    result.seconds = round(time.monotonic() - began, 1)
    result.ranges = joined(sorted(result.ranges))
    return result


def _chunk(low: int, high: int, result: Simulated) -> None:
    argv = [sys.executable, "-m", "tests.simulation", "--seeds", f"{low}:{high}", "--jobs", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    counts = _DONE.findall(done.stdout)
    if not counts:
        result.failing += 1
        result.said.append(f"seeds {low}:{high}: exit code {done.returncode}: {done.stderr[-1000:]}")
        return
    seeds, failing = (int(number) for number in counts[-1])
    result.seeds += seeds
    result.failing += failing
    result.ranges.append((low, high))
    if failing or done.returncode:
        result.said.append(done.stdout[-2000:])


def joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges that touch become one."""
    out: list[tuple[int, int]] = []
    for low, high in ranges:
        if out and out[-1][1] == low:
            out[-1] = (out[-1][0], high)
        else:
            out.append((low, high))
    return out
