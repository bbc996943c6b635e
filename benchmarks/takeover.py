"""A worker without any files takes over a partition with a long log: beside reading it alone, and a build before.

Run as a process, ``python -m benchmarks.takeover``, it reads and decodes the log of some partitions as a worker does,
and nothing else, and prints how many seconds that took.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.builds import Build
from benchmarks.deployment import WORKER, Deployment
from benchmarks.meter import foreign_cores, load_average
from benchmarks.seeding import old_sessions, write
from turnlog_workers.base.config import Settings
from turnlog_workers.base.shared_look import SharedLook
from turnlog_workers.kafka.event_log import KafkaEventLog, LogProducer
from turnlog_workers.kafka.topic_reader import TopicReader
from turnlog_workers.kafka.topics_admin import topic_id

_LIMIT_S = 600.0
_READ_LIMIT_S = 3600.0  #: of a log of any size
_POLL_S = 0.02
_GAINED, _SERVING = " gained", "serving from request"


async def measure(
    events: int, deployment: Deployment, *, rounds: int, before: Build | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Reading alone and the takeover, some rounds; then the build before, by its own command."""
    settings, folder = deployment.settings, deployment.directory
    requests_id = await asyncio.to_thread(topic_id, settings, settings.topics.requests) or ""
    records = await write(settings, old_sessions(events, requests_id))
    load_before, alone, taken, foreign = load_average(), [], [], []
    for number in range(rounds):
        alone.append(await asyncio.to_thread(read_alone, settings))
        data = folder / f"data-{number}"
        with deployment.process("worker", WORKER, {"TURNLOG_DATA_DIR": str(data)}):
            meter = deployment.meter()
            started = meter.read()
            gained = await _seen(deployment, _GAINED)
            taken.append(await _seen(deployment, _SERVING) - gained)
            foreign.append(foreign_cores(started, meter.read()))
        say(f"takeover, round {number + 1} of {rounds}: {taken[-1]:.1f} s, read and decoded alone {alone[-1]:.1f} s")
    takeover_s, alone_s = statistics.median(taken), statistics.median(alone)
    result = {
        "events": records,
        "rounds": rounds,
        "takeover_s": takeover_s,
        "decode_alone_s": alone_s,
        "decode_ratio": takeover_s / alone_s,
        "events_per_s": records / takeover_s,
        "foreign_cores": statistics.median(foreign),
    }
    if before is not None:
        before_s = await asyncio.to_thread(_taken_by, before, events, folder)
        result |= {"against": before.name, "takeover_before_s": before_s, "speedup": before_s / takeover_s}
    return result | {"load_average": [round(load_before, 2), round(load_average(), 2)]}


async def _seen(deployment: Deployment, text: str) -> float:
    deadline = time.monotonic() + _LIMIT_S
    while text not in deployment.log_path("worker").read_text(errors="replace"):
        deployment.check_alive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the worker does not say {text!r} within {_LIMIT_S:g} s")
        await asyncio.sleep(_POLL_S)
    return time.monotonic()


def read_alone(settings: Settings, partitions: Sequence[int] = (0,)) -> float:
    """Reading and decoding partitions, one after the other, in a process of its own: seconds."""
    which = ",".join(map(str, partitions))
    argv = [sys.executable, "-m", "benchmarks.takeover", settings.bootstrap_server, settings.prefix, which]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_READ_LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"reading alone failed:\n{done.stderr}")
    return float(done.stdout)


def _taken_by(build: Build, events: int, folder: Path) -> float:
    """The same takeover by another build: seconds from the assignment until it serves."""
    result = folder / "before.json"
    build.module("tests.faults.million", "--events", str(events), "--result", str(result))
    return float(json.loads(result.read_text())["never_owned"]["assigned_to_serving_s"])


async def _decode_all(settings: Settings, partitions: Sequence[int]) -> float:
    async def look() -> None:
        pass  # this build wrote it all

    reader, producer = TopicReader(settings), LogProducer(settings)
    schemas: SharedLook[bytes] = SharedLook(look, known=lambda _: False, now=time.monotonic)
    log = KafkaEventLog(settings, producer, reader, source="benchmark", schemas=schemas)
    ends = {partition: (await log.bounds(partition))[1] for partition in partitions}
    began = time.monotonic()
    for partition, end in ends.items():
        async for _ in log.read(partition, 0, end):
            pass
    seconds = time.monotonic() - began
    await reader.close()
    return seconds


if __name__ == "__main__":
    address, prefix, which = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(_decode_all(Settings(bootstrap_server=address, prefix=prefix), [*map(int, which.split(","))])))
