"""The simulation as a part of the long form: so many seeds, in processes of their own, beside everything else."""

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.__main__ import CHUNK_ENDED
from turnlog_workers.devstack.launch import launch_argv

CHUNK = 500
PROCESSES = 2
#: They take the time that the rounds leave: whoever is killed and restarted goes first.
_NICE = ("nice", "-n", "10")
_EXIT_S = 30.0
_DONE = re.compile(r"^(\d+) seeds, (\d+) with anomalies", re.MULTILINE)


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Some seeds, the last one not included."""

    low: int
    high: int
    seeds: int  #: that came to their end
    failing: int
    seconds: float
    said: str = ""  #: where there were findings


class Simulating:
    """Runs the seeds from ``first`` on that are not done yet, chunk by chunk, until the time is over."""

    def __init__(
        self, first: int, count: int, done: Sequence[Chunk], *, deadline: float, add: Callable[[Chunk], None]
    ) -> None:
        known = {chunk.low for chunk in done}
        lows = (low for low in range(first, first + count, CHUNK) if low not in known)
        self._chunks = iter([(low, min(low + CHUNK, first + count)) for low in lows])
        self._deadline = deadline
        self._add = add
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"simulation {n}", daemon=True) for n in range(PROCESSES)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Until all is done, or the time is over."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with SimulationProcess() as process:
            while time.monotonic() < self._deadline:
                with self._lock:
                    chunk = next(self._chunks, None)
                if chunk is None:
                    return
                self._add(process.run(*chunk))


class SimulationProcess:
    """A process that runs one chunk after the other: to start one takes as long as 25 seeds."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "SimulationProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def run(self, low: int, high: int) -> Chunk:
        """These seeds. A process that ends before they do is a finding, and the next chunk gets another one."""
        began = time.monotonic()
        said, code = self._ask(f"{low}:{high}")
        seconds = round(time.monotonic() - began, 1)
        counts = _DONE.findall(said)
        if code is None or not counts:
            said = f"the process ended, exit code {self._end()}: {said[-1000:]}"
            return Chunk(low=low, high=high, seeds=0, failing=1, seconds=seconds, said=said)
        seeds, failing = (int(number) for number in counts[-1])
        said = said[-2000:] if failing or code else ""
        return Chunk(low=low, high=high, seeds=seeds, failing=failing, seconds=seconds, said=said)

    def _ask(self, seeds: str) -> tuple[str, int | None]:
        """What it says to them, and the exit code; ``None``: it has ended."""
        if self._process is None:
            argv = [*_NICE, sys.executable, "-m", "tests.simulation", "--chunks"]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                launch_argv(argv), stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = []
        with contextlib.suppress(BrokenPipeError):  # it has ended; what it said is still to be read
            self._process.stdin.write(seeds + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(CHUNK_ENDED):
                return "".join(said), int(line.removeprefix(CHUNK_ENDED))
            said.append(line)
        return "".join(said), None

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        with process, contextlib.suppress(BrokenPipeError):
            try:
                process.communicate(timeout=_EXIT_S)  # its input ends, and so does it
            except subprocess.TimeoutExpired:
                process.kill()
        return process.returncode


@dataclass(slots=True, kw_only=True)
class Simulated:
    """All chunks together."""

    seeds: int
    failing: int
    seconds: float  #: as long as it took with so many processes
    ranges: list[tuple[int, int]]  #: the last seed of each not included
    said: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> "Simulated":
        """Summed up."""
        return cls(
            seeds=sum(chunk.seeds for chunk in chunks),
            failing=sum(chunk.failing for chunk in chunks),
            seconds=round(sum(chunk.seconds for chunk in chunks) / PROCESSES, 1),
            ranges=joined(sorted((chunk.low, chunk.high) for chunk in chunks)),
            said=[f"seeds {chunk.low}:{chunk.high}: {chunk.said}" for chunk in chunks if chunk.said],
        )

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {"seeds": self.seeds, "failing": self.failing, "seconds": self.seconds, "said": self.said}


def joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges that touch become one."""
    out: list[tuple[int, int]] = []
    for low, high in ranges:
        if out and out[-1][1] == low:
            out[-1] = (out[-1][0], high)
        else:
            out.append((low, high))
    return out
