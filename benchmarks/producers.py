"""``python -m benchmarks.producers``: what does a small produce cost with each producer that we could stand on?

One record now and then, as a worker writes at some turns a second, and batches of many records, as it does with a
backlog: Turnlog's producer (aiokafka with a short way), aiokafka's own, and librdkafka (``confluent-kafka``), whose
reports a thread hands to the event loop. All are idempotent, wait for all replicas and do not linger; each runs in a
process of its own, in turns. librdkafka makes its batches itself, so a decision, which must be one batch, cannot be
written with it: what is compared is what frames would gain.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks import meter
from benchmarks.latency import percentile
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.prompt_producer import PromptProducer
from turnlog_workers.kafka.topics_admin import init_topics

PRODUCERS = ("turnlog", "aiokafka", "librdkafka")
_RECORD = b"x" * 400
_KEY = b"session-0001"
_HEADERS = [("ce_specversion", b"1.0"), ("ce_type", b"turnlog.frames.TextDelta"), ("ce_id", b"x" * 24)]
_MANY = 100  #: records of a batch
_PARTITIONS = 12
_WARM_UP = 50
Produce = Callable[[int, int], Any]


class OfAiokafka:
    """A producer with aiokafka's interface."""

    def __init__(self, settings: Settings, make: Callable[..., Any]) -> None:
        self._topic = settings.topics.replies
        self._producer = make(
            **client_options(settings, "bench"),
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=1 << 20,
        )

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def produce(self, partition: int, count: int) -> None:
        """So many records in one batch, until they are stored."""
        batch = self._producer.create_batch()
        for _ in range(count):
            batch.append(timestamp=None, key=_KEY, value=_RECORD, headers=_HEADERS)
        batch.close()
        await (await self._producer.send_batch(batch, self._topic, partition=partition))

    async def stop(self) -> None:
        """Disconnect."""
        await self._producer.stop()


class OfLibrdkafka:
    """librdkafka's, with a thread that waits for its reports."""

    def __init__(self, settings: Settings) -> None:
        from confluent_kafka import Producer  # of the development environment only

        self._topic = settings.topics.replies
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap_server,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
            }
        )
        self._ended = False
        self._polling = threading.Thread(target=self._poll, daemon=True)

    async def start(self) -> None:
        """Connect, at the first record."""
        self._polling.start()

    def _poll(self) -> None:
        while not self._ended:
            self._producer.poll(0.1)

    async def produce(self, partition: int, count: int) -> None:
        """So many records, until they are stored."""
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        left = count

        def told(error: Any, message: Any) -> None:
            """In the thread, which alone counts."""
            nonlocal left
            left -= 1
            if error is not None and left >= 0:  # the first one is told
                left = 0
                loop.call_soon_threadsafe(stored.set_exception, RuntimeError(str(error)))
            elif left == 0:
                loop.call_soon_threadsafe(stored.set_result, None)

        for _ in range(count):
            self._producer.produce(
                self._topic, key=_KEY, value=_RECORD, headers=_HEADERS, partition=partition, on_delivery=told
            )
        await stored

    async def stop(self) -> None:
        """Disconnect."""
        await asyncio.to_thread(self._producer.flush, 10.0)
        self._ended = True
        await asyncio.to_thread(self._polling.join)


async def _few(produce: Produce, seconds: float, per_s: float) -> list[float]:
    """One record when it is due; how long each took."""
    took: list[float] = []

    async def one(partition: int) -> None:
        began = time.monotonic()
        await produce(partition, 1)
        took.append(time.monotonic() - began)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * per_s)):
            await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
            group.create_task(one(number % _PARTITIONS))
    return took


async def _many(produce: Produce, seconds: float) -> list[float]:
    """Batches, one after the other in each partition; how long each took."""
    took: list[float] = []
    until = time.monotonic() + seconds

    async def lane(partition: int) -> None:
        while (began := time.monotonic()) < until:
            await produce(partition, _MANY)
            took.append(time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for partition in range(_PARTITIONS):
            group.create_task(lane(partition))
    return took


async def _play(name: str, settings: Settings, seconds: float, per_s: float) -> dict[str, Any]:
    made: OfAiokafka | OfLibrdkafka
    if name == "librdkafka":
        made = OfLibrdkafka(settings)
    else:
        made = OfAiokafka(settings, PromptProducer if name == "turnlog" else AIOKafkaProducer)
    await made.start()
    found: dict[str, Any] = {}
    try:
        for number in range(_WARM_UP):
            await made.produce(number % _PARTITIONS, 1)
        for load, records in (("few", 1), ("many", _MANY)):
            began, cpu = time.monotonic(), time.process_time()
            took = sorted(await (_few(made.produce, seconds, per_s) if load == "few" else _many(made.produce, seconds)))
            cpu_us, wall_s = 1e6 * (time.process_time() - cpu), time.monotonic() - began
            found[load] = {
                "cpu_us_per_record": cpu_us / len(took) / records,
                "records_per_s": records * len(took) / wall_s,
                "p50_ms": 1000 * percentile(took, 50),
                "p99_ms": 1000 * percentile(took, 99),
            }
    finally:
        await made.stop()
    return found


def _runs(bootstrap_server: str, runs: int, seconds: float, per_s: float) -> dict[str, list[dict[str, Any]]]:
    """Of each producer, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PRODUCERS}
    for run in range(runs):
        for name in PRODUCERS:
            argv = (
                sys.executable,
                "-m",
                "benchmarks.producers",
                "--play",
                name,
                "--bootstrap-server",
                bootstrap_server,
            )
            done = subprocess.run(
                [*argv, "--seconds", str(seconds), "--per-s", str(per_s)],
                check=True,
                capture_output=True,
                text=True,
                timeout=60 + 4 * seconds,
            )
            found[name].append(json.loads(done.stdout))
            print(f"run {run + 1} of {runs}, {name}: {done.stdout.strip()}", file=sys.stderr)
    return found


def _summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians."""
    return {
        name: {
            load: {figure: round(median(run[load][figure] for run in runs), 2) for figure in runs[0][load]}
            for load in ("few", "many")
        }
        for name, runs in found.items()
    }


def _table(summary: dict[str, Any], per_s: float) -> str:
    lines = [
        f"| | one record, {per_s:g} a second: CPU | p50, p99 | {_MANY} records at a time: CPU a record | records/s |",
        "|---|---|---|---|---|",
    ]
    for name, loads in summary.items():
        few, many = loads["few"], loads["many"]
        lines.append(
            f"| {name} | {few['cpu_us_per_record']:.0f} µs | {few['p50_ms']:.1f}, {few['p99_ms']:.1f} ms "
            f"| {many['cpu_us_per_record']:.1f} µs | {many['records_per_s']:,.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.producers", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load and run")
    parser.add_argument("--per-s", type=float, default=200.0, help="single records")
    parser.add_argument("--output", type=Path, help="write the document here, too")
    parser.add_argument("--play", choices=PRODUCERS, help=argparse.SUPPRESS)
    parser.add_argument("--bootstrap-server", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.play:
        settings = Settings(bootstrap_server=options.bootstrap_server, prefix="bench")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(_play(options.play, settings, options.seconds, options.per_s))))
        return 0
    with (
        tempfile.TemporaryDirectory(prefix="turnlog-bench-") as folder,
        DevBroker(
            Path(folder) / "broker", preferred_port=None, say=lambda line: print(line, file=sys.stderr)
        ) as broker,
    ):
        init_topics(Settings(bootstrap_server=broker.bootstrap_server, prefix="bench", partitions=_PARTITIONS))
        load_before = meter.load_average()
        found = _runs(broker.bootstrap_server, options.runs, options.seconds, options.per_s)
    summary = _summary(found)
    document = {
        "commit": meter.commit(),
        "machine": meter.machine(),
        "load_average": [round(load_before, 2), round(meter.load_average(), 2)],
        "per_s": options.per_s,
        "medians": summary,
        "runs": found,
    }
    if options.output:
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(_table(summary, options.per_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
