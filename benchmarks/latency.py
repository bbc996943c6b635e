"""Request to first delta, at a steady rate: requests go out when their time has come, answered or not."""

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import bare_faust
from benchmarks.deployment import WORKER, Deployment
from benchmarks.load import FRAMES_PER_TURN, MIN_FRAMES_PER_TURN, Broker, Request, requests
from benchmarks.meter import Reading, foreign_cores, load_average, used
from turnlog_schemas.frames import TERMINAL_FRAMES, TextDelta, TurnCompleted

_ANSWER_TIMEOUT_S = 30.0
_POLL_S = 0.1
_STALLED_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many requests, how fast."""

    rate_per_s: float
    seconds: float
    warm_up_s: float
    sessions: int


@dataclass(slots=True)
class _Seen:
    """When frames came, by request id (monotonic seconds)."""

    first_delta: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)


async def measure(pace: Pace, deployment: Deployment, *, framing: str = "avro") -> dict[str, Any]:
    """One run; latencies in milliseconds, from the moment when a request was due."""
    with deployment.process("worker", WORKER):
        async with Broker(deployment.settings) as broker:
            result = await _drive(pace, deployment, broker, framing)
    result["requests_read_again"] = deployment.not_delivered()
    return result


async def measure_bare(pace: Pace, deployment: Deployment, mode: str, sizes: Path) -> dict[str, Any]:
    """One run of the bare agent at the same pace: its CPU time only, since its records do not tell what they answer."""
    topics = deployment.settings.topics
    with deployment.process("worker", bare_faust.command(mode, sizes)):
        async with Broker(deployment.settings) as broker:
            warm_up, made = _requests(pace, deployment, "avro")
            await _send(broker, warm_up, pace.rate_per_s)
            meter = deployment.meter()
            load_before, before = load_average(), meter.read()
            await _send(broker, made, pace.rate_per_s)
            after = meter.read()
            frames = (len(warm_up) + len(made)) * FRAMES_PER_TURN
            await broker.until_records(topics.replies, frames, stalled_s=_STALLED_S, alive=deployment.check_alive)
    return {"turns": len(made), **_cost(len(made), before, after, load_before)}


def _cost(turns: int, before: Reading, after: Reading, load_before: float) -> dict[str, Any]:
    """What a run took of the machine."""
    return {
        "cpu_ms_per_turn": 1000 * used(before, after)["worker"] / turns,
        "load_average": [round(load_before, 2), round(load_average(), 2)],
        "foreign_cores": foreign_cores(before, after),
    }


def _requests(pace: Pace, deployment: Deployment, framing: str) -> tuple[list[Request], list[Request]]:
    """The requests before the measurement (one for each session, and the warm-up), and the measured ones."""
    before = pace.sessions + int(pace.rate_per_s * pace.warm_up_s)
    count = before + int(pace.rate_per_s * pace.seconds)
    partitions = deployment.settings.partitions
    made = requests(uuid.uuid4().hex[:6], count, sessions=pace.sessions, framing=framing, partitions=partitions)
    return made[:before], made[before:]


async def _drive(pace: Pace, deployment: Deployment, broker: Broker, framing: str) -> dict[str, Any]:
    settings = deployment.settings
    warm_up, made = _requests(pace, deployment, framing)
    seen = _Seen()
    broker.consumer.assign(broker.tps(settings.topics.replies))
    await broker.consumer.seek_to_beginning()
    reading = asyncio.create_task(_read(broker, seen, framing))
    meter = deployment.meter()
    try:
        opening = warm_up[: pace.sessions]  # every session exists, and the worker serves, before the clock starts
        await broker.send_all(opening)
        await broker.until_records(
            settings.topics.replies,
            len(opening) * MIN_FRAMES_PER_TURN,
            stalled_s=_STALLED_S,
            alive=deployment.check_alive,
        )
        await _send(broker, warm_up[pace.sessions :], pace.rate_per_s)
        load_before, before = load_average(), meter.read()
        due = await _send(broker, made, pace.rate_per_s)
        after = meter.read()
        deadline = time.monotonic() + _ANSWER_TIMEOUT_S
        while len(seen.ended) < len(warm_up) + len(made) and time.monotonic() < deadline:
            if reading.done():
                await reading
            await asyncio.sleep(_POLL_S)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    missing = [request_id for request_id in due if request_id not in seen.first_delta]
    if missing or seen.bad:
        raise RuntimeError(f"{len(missing)} requests without an answer, {len(seen.bad)} that failed")
    first = sorted(1000 * (seen.first_delta[request_id] - at) for request_id, at in due.items())
    ended = sorted(1000 * (seen.ended[request_id] - at) for request_id, at in due.items())
    return {
        "turns": len(due),
        "first_delta_p50_ms": percentile(first, 50),
        "first_delta_p99_ms": percentile(first, 99),
        "first_delta_max_ms": first[-1],
        "completed_p50_ms": percentile(ended, 50),
        "completed_p99_ms": percentile(ended, 99),
        **_cost(len(due), before, after, load_before),
    }


async def _send(broker: Broker, made: list[Request], rate_per_s: float) -> dict[str, float]:
    """Send each request at its time; when each was due: latencies count from then, also of a request that goes late."""
    start = time.monotonic()
    due: dict[str, float] = {}
    for index, request in enumerate(made):
        at = start + index / rate_per_s
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        due[request.request_id] = at
        await broker.send(request)
    return due


async def _read(broker: Broker, seen: _Seen, framing: str) -> None:
    async for now, header, frame in broker.frames(framing):
        if isinstance(frame, TextDelta):
            seen.first_delta.setdefault(header.request_id, now)
        elif isinstance(frame, TERMINAL_FRAMES):
            seen.ended.setdefault(header.request_id, now)
            if not isinstance(frame, TurnCompleted):
                seen.bad.append(header.request_id)


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]
