"""``python -m benchmarks.memory``: does a worker's memory follow the sessions that are in use, or all that ever were?

Every session has one turn in a pass, and is idle then: its runner is closed and its state leaves memory once the store
has it. Sessions come in groups, each when the worker is done with the one before: what a backlog costs is another
question. The second pass finds every session again in the store. What it adds to the worker's resident memory is what
sessions leave behind for good. The exit code is 1 when that is more than ``--limit-percent``.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks import meter
from benchmarks.deployment import WORKER, Deployment
from benchmarks.load import MIN_FRAMES_PER_TURN, Broker, requests
from turnlog_workers.devstack.broker import DevBroker

_STALLED_S = 120.0
IDLE_S = 3.0  #: of a session
_STORE_INTERVALS = 3  #: while it is idle
_CHUNK = 5_000
_IDLE_CPU = 0.05  # of a core
_SETTLE_LIMIT_S = 120.0
_LEAST_LOOK_S = 1.0  # the CPU time of a process has steps of 10 ms
_QUIET_S = 1.0
_POLL_S = 0.2


def main(argv: list[str]) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--passes", type=int, default=2, help="the last one is compared with the first")
    parser.add_argument("--limit-percent", type=float, default=5.0)
    parser.add_argument("--bootstrap-server", help="measure on this broker (default: starts one of its own)")
    parser.add_argument("--output", type=Path, help="write the JSON document here, too")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="turnlog-memory-") as temporary:
        directory = Path(temporary)
        with _broker(options.bootstrap_server, directory) as (address, pid):
            deployment = Deployment(address, directory / "deployment", pid)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                passes = runner.run(_passes(deployment, options.sessions, options.passes, IDLE_S))
    added = 100 * (passes[-1]["rss_mb"] / passes[0]["rss_mb"] - 1)
    result = {
        "sessions": options.sessions,
        "passes": passes,
        "added_percent": round(added, 2),
        "limit_percent": options.limit_percent,
        "commit": meter.commit(),
        "machine": meter.machine(),
    }
    print(json.dumps(result))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if added <= options.limit_percent else 1


@contextlib.contextmanager
def _broker(address: str | None, directory: Path) -> Iterator[tuple[str, int | None]]:
    if address:
        yield address, None
        return
    with DevBroker(directory / "broker", preferred_port=None, say=_say) as broker:
        yield broker.bootstrap_server, broker.pid


async def measure(deployment: Deployment, sessions: int, *, passes: int, idle_s: float = IDLE_S) -> dict[str, Any]:
    """The figures of the last pass, and the memory after the first, in MB."""
    load_before = meter.load_average()
    found = await _passes(deployment, sessions, passes, idle_s)
    result = {**found[-1], "first_rss_mb": found[0]["rss_mb"], "passes": found}
    return result | {"load_average": [round(load_before, 2), round(meter.load_average(), 2)]}


async def _passes(deployment: Deployment, sessions: int, passes: int, idle_s: float) -> list[dict[str, Any]]:
    variables = {
        "TURNLOG_IDLE_TIMEOUT_S": str(idle_s),
        "TURNLOG_STORE_COMMIT_INTERVAL_S": str(idle_s / _STORE_INTERVALS),
    }
    found = []
    with deployment.process("worker", WORKER, variables):
        process = psutil.Process(deployment.pid("worker"))
        async with Broker(deployment.settings) as broker:
            for number in range(1, passes + 1):
                began = time.monotonic()
                peak = await _one_pass(deployment, broker, process, sessions, number)
                seconds = time.monotonic() - began
                rss = await _settled(process, idle_s)
                found.append(
                    {
                        "rss_mb": round(rss / 1e6, 1),
                        "peak_rss_mb": round(peak / 1e6, 1),
                        "seconds": round(seconds, 1),
                        "turns_per_s": round(sessions / seconds),
                    }
                )
                _say(f"pass {number}: {json.dumps(found[-1])}")
    return found


async def _one_pass(deployment: Deployment, broker: Broker, process: psutil.Process, sessions: int, number: int) -> int:
    """A turn of each session; the largest resident memory on the way, in bytes."""
    settings = deployment.settings
    peak = 0
    for first in range(0, sessions, _CHUNK):
        count = min(_CHUNK, sessions - first)
        made = requests(
            f"p{number}", count, sessions=sessions, framing="avro", partitions=settings.partitions, first=first
        )
        await broker.send_all(made)
        done = (number - 1) * sessions + first + count
        await broker.until_records(
            settings.topics.replies,
            done * MIN_FRAMES_PER_TURN,
            stalled_s=_STALLED_S,
            alive=deployment.check_alive,
        )
        await _quiet(broker, settings.topics.events)
        peak = max(peak, process.memory_info().rss)
    return peak


async def _quiet(broker: Broker, events: str) -> None:
    """Wait until no event comes any more: new sessions tell their channels, after their turns have been answered.

    ``Broker.until_told`` knows it for sure, but reads the whole log: too much after every group.
    """
    last, since = -1, time.monotonic()
    async with asyncio.timeout(_STALLED_S):
        while time.monotonic() - since < _QUIET_S:
            found = await broker.records(events)
            if found != last:
                last, since = found, time.monotonic()
            await asyncio.sleep(_POLL_S)


async def _settled(process: psutil.Process, idle_s: float) -> int:
    """The resident memory once the worker has been idle for longer than a session or a store waits before it rests."""
    look_s = max(2 * idle_s, _LEAST_LOOK_S)
    async with asyncio.timeout(_SETTLE_LIMIT_S):
        while True:
            used = sum(process.cpu_times()[:2])
            await asyncio.sleep(look_s)
            if sum(process.cpu_times()[:2]) - used < _IDLE_CPU * look_s:
                return int(process.memory_info().rss)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
