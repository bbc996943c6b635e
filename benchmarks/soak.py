"""``python -m benchmarks.soak [--minutes 30] [--rate 240]``: does anything grow while a worker works for a long time?

Chats at a steady rate, for sessions that come and go, and a worker whose metrics port is asked every few seconds. Its
settings are the defaults, but for the memory that DuckDB may fill: it takes half an hour to fill the default's.

What counts is whether its memory, its open files, the tasks of its event loop and the requests that wait are in the
last quarter of the time what they were in the second one; the first one fills what has a bound. The exit code is 1
when one of them grew beyond its limit, or a turn did not end well.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import meter
from benchmarks.deployment import WORKER, Deployment
from benchmarks.load import Broker, request
from turnlog_schemas.frames import TERMINAL_FRAMES, TurnCompleted
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_ports import free_port

#: How much more the last quarter may have than the second one, as a factor and beside it.
LIMITS = {"rss_mb": (1.05, 0.0), "descriptors": (1.0, 5.0), "tasks": (1.05, 20.0), "lag": (1.0, 50.0)}
_SIDE_BY_SIDE = 2_000  #: sessions
_TURNS = 20  #: of a session; then another one takes its place
_STORE_MEMORY_MB = 64
_LOOKS = 240
_LEFT_S = 60.0
_ASKED_S = 30.0
_TASKS, _LAG = "turnlog_event_loop_tasks", "turnlog_partition_lag_requests"


@dataclass(slots=True)
class _Seen:
    sent: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    looks: list[dict[str, float]] = field(default_factory=list)


def grown(looks: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """The medians of the second and the last quarter of what was looked at, and whether they are within the limits."""
    quarter = len(looks) // 4
    found = {}
    for name, (factor, more) in LIMITS.items():
        before = statistics.median(look[name] for look in looks[quarter : 2 * quarter])
        after = statistics.median(look[name] for look in looks[-quarter:])
        found[name] = {"second_quarter": before, "last_quarter": after, "flat": after <= before * factor + more}
    return found


def session_of(number: int) -> int:
    """Whose the chat of this number is: sessions take turns, and each turn some of them end and others begin."""
    place, turn = number % _SIDE_BY_SIDE, number // _SIDE_BY_SIDE
    return (turn + place) // _TURNS * _SIDE_BY_SIDE + place


async def soak(deployment: Deployment, *, minutes: float, rate_per_s: float) -> dict[str, Any]:
    """One run; memory in MB."""
    seen, seconds = _Seen(), 60 * minutes
    settings, port = deployment.settings, free_port()
    variables = {"TURNLOG_METRICS_PORT": str(port), "TURNLOG_STORE_MEMORY_MB": str(_STORE_MEMORY_MB)}
    with deployment.process("worker", WORKER, variables):
        async with Broker(settings) as broker:
            broker.consumer.assign(broker.tps(settings.topics.replies))
            measure, load_before = deployment.meter(), meter.load_average()
            before, until = measure.read(), time.monotonic() + seconds
            reading = asyncio.create_task(_read(broker, seen))
            looking = asyncio.create_task(_look(deployment, port, seen, seconds / _LOOKS))
            try:
                await _send(broker, deployment, seen, rate_per_s, until)
                after = measure.read()
                async with asyncio.timeout(_LEFT_S):
                    while seen.ended.total() < seen.sent:
                        for task in (reading, looking):
                            if task.done():
                                task.result()
                        await asyncio.sleep(0.1)
            finally:
                for task in (reading, looking):
                    task.cancel()
                await asyncio.gather(reading, looking, return_exceptions=True)
    used, wall_s = meter.used(before, after), after.at_s - before.at_s
    found = grown(seen.looks)
    ok = all(figure["flat"] for figure in found.values()) and seen.ended == {TurnCompleted.__name__: seen.sent}
    return {
        "ok": ok,
        "minutes": minutes,
        "rate_per_s": rate_per_s,
        "turns": seen.sent,
        "ended": dict(seen.ended),
        "cpu_ms_per_turn": round(1000 * used["worker"] / seen.sent, 2),
        "worker_cores": round(used["worker"] / wall_s, 2),
        "machine_busy": round((after.machine_busy_s - before.machine_busy_s) / wall_s / (psutil.cpu_count() or 1), 2),
        "foreign_cores": round(meter.foreign_cores(before, after), 2),
        "load_average": [round(load_before, 2), round(meter.load_average(), 2)],
        "figures": found,
    }


async def _send(broker: Broker, deployment: Deployment, seen: _Seen, rate_per_s: float, until: float) -> None:
    """Each chat when it is due."""
    run, began = uuid.uuid4().hex[:6], time.monotonic()
    for number in itertools.count():
        at = began + number / rate_per_s
        if at > until:
            return
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        deployment.check_alive()
        partitions = deployment.settings.partitions
        chat = request(run, number, session=session_of(number), framing="avro", partitions=partitions)
        seen.sent += 1
        await broker.send(chat)


async def _read(broker: Broker, seen: _Seen) -> None:
    async for _, _, frame in broker.frames():
        if isinstance(frame, TERMINAL_FRAMES):
            seen.ended[type(frame).__name__] += 1


async def _look(deployment: Deployment, port: int, seen: _Seen, every_s: float) -> None:
    process = psutil.Process(deployment.pid("worker"))
    while True:
        await asyncio.sleep(every_s)
        said = await asyncio.to_thread(_metrics, port)
        values = Counter[str]()
        for family in text_string_to_metric_families(said):
            for sample in family.samples:
                if sample.name in (_TASKS, _LAG):
                    values[sample.name] += sample.value
        seen.looks.append(
            {
                "rss_mb": process.memory_info().rss / 2**20,
                "descriptors": process.num_fds(),
                "tasks": values[_TASKS],
                "lag": values[_LAG],
            }
        )


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_ASKED_S) as answer:
        return str(answer.read().decode())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=240.0, help="chats a second")
    parser.add_argument("--output", type=Path, help="write the document here, too")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnlog-soak-")))
        broker = stack.enter_context(
            DevBroker(folder / "broker", preferred_port=None, say=lambda line: print(line, file=sys.stderr))
        )
        deployment = Deployment(broker.bootstrap_server, folder / "run", broker.pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(soak(deployment, minutes=options.minutes, rate_per_s=options.rate))
    document = {"commit": meter.commit(), "machine": meter.machine(), **found}
    text = json.dumps(document, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
