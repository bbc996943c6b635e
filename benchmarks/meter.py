"""What a measurement costs: CPU time of processes, and what else kept the machine busy meanwhile."""

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, all of its threads, in seconds (steps of a clock tick)."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def highest_rss_mb(pid: int) -> float:
    """The peak of a process's resident memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) / 1024


def _machine_busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Counters at one moment."""

    at_s: float
    cpu_s: Mapping[str, float]  #: by the name of the process
    machine_busy_s: float


class Meter:
    """Reads the counters of named processes; those named are ours, all others are foreign."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = {**pids, "benchmark": os.getpid()}

    def read(self) -> Reading:
        """The counters now."""
        return Reading(
            at_s=time.monotonic(),
            cpu_s={name: cpu_s(pid) for name, pid in self._pids.items()},
            machine_busy_s=_machine_busy_s(),
        )


def used(before: Reading, after: Reading) -> dict[str, float]:
    """CPU seconds of each process between two readings."""
    return {name: after.cpu_s[name] - before.cpu_s[name] for name in before.cpu_s}


def foreign_cores(before: Reading, after: Reading) -> float:
    """How many cores other processes kept busy, on average: noise that the load average mixes with our own work."""
    ours = sum(used(before, after).values())
    return max(0.0, after.machine_busy_s - before.machine_busy_s - ours) / (after.at_s - before.at_s)


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> dict[str, Any]:
    """Which code was measured; ``changed``: files that differ from the commit."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    measured = ("schemas", "streams", "workers", "turnlog", "benchmarks/*.py")
    changed = git("status", "--porcelain", "--", *[f":/{path}" for path in measured])
    return {"id": git("rev-parse", "--short", "HEAD") or "unknown", "changed": len(changed.splitlines())}
