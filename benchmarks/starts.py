"""From a command line to work: ``turnlog up`` to the first answer, a worker to ready; a build before takes turns."""

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.builds import Build
from benchmarks.deployment import Deployment
from benchmarks.meter import load_average

_LIMIT_S = 180.0
_STOP_LIMIT_S = 60.0
_POLL_S = 0.01
_UP = b"\nup: "


async def measure(
    builds: Sequence[Build], deployment: Deployment, *, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every build once, then again in the opposite order: what changes on the machine meanwhile meets all of them."""
    return await asyncio.to_thread(_measure, builds, deployment, rounds, say)


def _measure(
    builds: Sequence[Build], deployment: Deployment, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    load_before = load_average()
    found: dict[str, dict[str, list[float]]] = {
        build.name: {"up_s": [], "worker_s": [], "worker_cpu_s": []} for build in builds
    }
    for number in range(rounds):
        for index, build in list(enumerate(builds))[:: 1 if number % 2 == 0 else -1]:
            folder = deployment.directory / f"start-{number}-{index}"
            folder.mkdir()
            of = found[build.name]
            of["up_s"].append(_up(build, folder))
            wall_s, cpu_s = _worker(build, folder, deployment.settings.bootstrap_server)
            of["worker_s"].append(wall_s)
            of["worker_cpu_s"].append(cpu_s)
            shown = ", ".join(f"{name} {values[-1]:.2f}" for name, values in of.items())
            say(f"start, round {number + 1} of {rounds}, {build.name}: {shown}")
    medians = {name: {key: statistics.median(of[key]) for key in of} for name, of in found.items()}
    this, *before = (build.name for build in builds)
    result: dict[str, Any] = {"rounds": rounds, **medians[this]}
    for name in before:
        result["against"] = name
        for key, value in medians[name].items():
            result |= {f"{key}_before": value, key.replace("_s", "_ratio"): medians[this][key] / value}
    return result | {"load_average": [round(load_before, 2), round(load_average(), 2)]}


def _environment(more: dict[str, str]) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TURNLOG_", "PYTHON"))}
    return clean | {"PYTHONUNBUFFERED": "1"} | more


def _up(build: Build, folder: Path) -> float:
    """Seconds from ``turnlog up`` in an empty folder until a session's first answer is printed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    turnlog = (str(build.python), "-P", "-m", "turnlog")
    log = folder / "up.log"
    began = time.monotonic()
    with log.open("wb") as output:
        stack = subprocess.Popen(
            [*turnlog, "up", "--port", str(port)],
            cwd=folder,
            env=_environment({}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _until(stack, lambda: _UP in log.read_bytes(), log)
        asked = subprocess.run(
            [*turnlog, "send", "first", "Good morning!", "--wait"],
            cwd=folder,
            env=_environment({}),
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        if asked.returncode != 0 or "Good morning!" not in asked.stdout:
            raise RuntimeError(f"{build.name} did not answer:\n{asked.stdout}{asked.stderr}")
        return time.monotonic() - began
    finally:
        _stop(stack)


def _worker(build: Build, folder: Path, bootstrap_server: str) -> tuple[float, float]:
    """Seconds and CPU seconds from the command line of a worker until it is ready, on topics of its own."""
    ready = folder / "ready"
    variables = {
        "TURNLOG_BOOTSTRAP_SERVER": bootstrap_server,
        "TURNLOG_PREFIX": f"start-{uuid.uuid4().hex[:8]}",
        "TURNLOG_DATA_DIR": str(folder / "data"),
        "TURNLOG_READY_FILE": str(ready),
    }
    turnlog = (str(build.python), "-P", "-m", "turnlog")
    environment = _environment(variables)
    subprocess.run([*turnlog, "topics", "init"], cwd=folder, env=environment, capture_output=True, check=True)
    log = folder / "worker.log"
    began = time.monotonic()
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [*turnlog, "worker"], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _until(worker, ready.exists, log)
        return time.monotonic() - began, _cpu_s(worker.pid)
    finally:
        _stop(worker)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _until(process: subprocess.Popen[bytes], condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it does not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(_POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_LIMIT_S)
