"""Many open event streams on one gateway: is a frame lost, how long is it under way, and what does the gateway take?"""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import frame_source, sse_reader
from benchmarks.deployment import Deployment
from benchmarks.meter import foreign_cores, highest_rss_mb, load_average, used
from benchmarks.plot import Chart
from benchmarks.scale import Bar
from turnlog_workers.devstack.broker_ports import free_port
from turnlog_workers.devstack.launch import launch_argv

GATEWAY = (sys.executable, "-m", "turnlog", "serve")
HOST = "127.0.0.1"
_TIMEOUT_S = 240.0
_LINE_BYTES = 8 * 1024 * 1024

BARS = (
    Bar(
        case="http-streams",
        figure="lost",
        what="frames lost, doubled or out of order, of {frames} in {streams} open streams of one gateway",
        most=0,
        unit="frames",
    ),
    Bar(
        case="http-streams",
        figure="p99_ms",
        what="from a frame's time in Kafka to its client, at {rate} frames a second in each stream: p99",
        most=100,
        unit="ms",
    ),
    Bar(case="http-streams", figure="rss_mb", what="memory of the gateway, at its highest", most=300, unit="MB"),
    Bar(
        case="http-first-delta",
        figure="new_added_p50_ms",
        what="first delta of a new conversation over HTTP, beyond what the Kafka client takes: median of {pairs} pairs",
        most=3,
        unit="ms",
    ),
    Bar(
        case="http-first-delta",
        figure="next_added_p50_ms",
        what="the same of a conversation that goes on, by `previous_response_id`",
        most=3,
        unit="ms",
    ),
)


CHARTS = (
    Chart(
        case="http-streams",
        name="http-streams",
        title="From a frame's time in Kafka to its client: ms",
        bars=(("half of them", "p50_ms"), ("99 %", "p99_ms"), ("all", "max_ms")),
    ),
    Chart(
        case="http-first-delta",
        name="http-first-delta",
        title="Request to first delta: median, ms",
        bars=(
            ("new, Kafka client", "new_kafka_p50_ms"),
            ("new, HTTP", "new_http_p50_ms"),
            ("goes on, Kafka client", "next_kafka_p50_ms"),
            ("goes on, HTTP", "next_http_p50_ms"),
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """How many, how fast, how long."""

    streams: int
    rate: int  #: frames a second, of each
    seconds: int


async def measure(load: Streams, deployment: Deployment) -> dict[str, Any]:
    """One run. No worker is there: the frames come from a process that does nothing else."""
    settings, frames, port = deployment.settings, load.rate * load.seconds, free_port()
    plan = frame_source.Plan(
        bootstrap_server=settings.bootstrap_server,
        prefix=settings.prefix,
        partitions=settings.partitions,
        streams=load.streams,
        frames_per_s=load.rate,
        frames=frames,
    )
    with deployment.process("gateway", GATEWAY, gateway_variables(port)):
        async with (
            asyncio.timeout(_TIMEOUT_S + load.seconds),
            _process(frame_source.arguments_of(plan)) as source,
            _process(sse_reader.arguments_of(HOST, port, frames)) as reader,
        ):
            await _tell(reader, await _line(source))
            await _line(reader)  # all are open
            load_before, meter = load_average(), deployment.meter({"source": source.pid, "reader": reader.pid})
            before = meter.read()
            await _tell(source, b"go\n")
            seen = json.loads(await _line(reader))
            after = meter.read()
        rss_mb = highest_rss_mb(deployment.pid("gateway"))
    seconds = after.at_s - before.at_s
    return {
        "streams": load.streams,
        "rate": load.rate,
        "frames": load.streams * frames,
        **seen,
        "lost": seen["lost"] + seen["doubled_or_late"] + seen["closed"],
        "rss_mb": rss_mb,
        **{f"{name}_cores": cpu_s / seconds for name, cpu_s in used(before, after).items()},
        "gateway_cpu_us_per_frame": 1e6 * used(before, after)["gateway"] / max(1, seen["frames"]),
        "foreign_cores": foreign_cores(before, after),
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


def gateway_variables(port: int) -> dict[str, str]:
    """The settings of a gateway that one client keeps busy."""
    return {
        "TURNLOG_HTTP_PORT": str(port),
        "TURNLOG_HTTP_MAX_STREAMS_PER_KEY": "100000",
        "TURNLOG_HTTP_MAX_REQUESTS_PER_MINUTE": "1000000",
    }


@contextlib.asynccontextmanager
async def _process(argv: Sequence[str]) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*launch_argv(argv), stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _tell(process: Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    await process.stdin.drain()


async def _line(process: Process) -> bytes:
    """What it says next. Raises ``RuntimeError`` when it has ended; its errors went to ours."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of the measurement ended (exit code {await process.wait()})")
    return line
