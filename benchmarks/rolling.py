"""Workers that are restarted one after the other under load: does a turn lose its model call?

Three workers that keep their places in the group while they are away (``TURNLOG_ON_STOP=remain``), and answers that
take two seconds, begun at a steady rate. Each worker in turn gets SIGTERM, ends when its turns have
(``TURNLOG_DRAIN_TIMEOUT_S`` is longer than they are), and is started again. A turn with a second attempt has lost the
model call of its first.
"""

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.deployment import WORKER, Deployment
from benchmarks.latency import percentile
from benchmarks.load import Broker, requests
from benchmarks.meter import load_average
from turnlog_schemas.frames import TERMINAL_FRAMES, TextDelta, TurnCompleted, TurnStarted

MODEL = "echo:?delta_ms=100&deltas=20"
_NAMES = ("worker-1", "worker-2", "worker-3")
_BETWEEN_S = 5.0
_LIMIT_S = 60.0
_POLL_S = 0.05


@dataclass(slots=True)
class _Seen:
    due: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)


async def measure(
    rounds: int, deployment: Deployment, *, rate_per_s: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """So many times each worker; latencies in ms. Raises ``RuntimeError`` if a turn does not end well."""
    load_before, seen, stop = load_average(), _Seen(), asyncio.Event()
    async with Broker(deployment.settings) as broker:
        broker.consumer.assign(broker.tps(deployment.settings.topics.replies))
        running = {name: contextlib.ExitStack() for name in _NAMES}
        reading = asyncio.create_task(_read(broker, seen))
        try:
            for name, stack in running.items():
                await asyncio.to_thread(stack.enter_context, _worker(deployment, name))
            sending = asyncio.create_task(_send(broker, deployment, seen, rate_per_s, stop))
            for number, name in itertools.product(range(rounds), _NAMES):
                await asyncio.sleep(_BETWEEN_S)
                began = time.monotonic()
                await asyncio.to_thread(running[name].close)  # SIGTERM, and its end
                ended_s = time.monotonic() - began
                await asyncio.to_thread(running[name].enter_context, _worker(deployment, name))
                say(f"rolling, round {number + 1}, {name}: ended after {ended_s:.1f} s, {len(seen.again)} calls lost")
            await asyncio.sleep(_BETWEEN_S)
            stop.set()
            await sending
            async with asyncio.timeout(_LIMIT_S):
                while len(seen.ended) < len(seen.due):
                    if reading.done():
                        reading.result()
                    await asyncio.sleep(_POLL_S)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            for stack in running.values():
                await asyncio.to_thread(stack.close)
    bad = {request_id: kind for request_id, kind in seen.ended.items() if kind != TurnCompleted.__name__}
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(seen.due)} turns did not end well: {dict(list(bad.items())[:5])}")
    first = sorted(1000 * (seen.first[request_id] - at) for request_id, at in seen.due.items())
    return {
        "restarts": rounds * len(_NAMES),
        "turns": len(seen.due),
        "calls_lost": len(seen.again),
        "first_delta_p50_ms": percentile(first, 50),
        "first_delta_p99_ms": percentile(first, 99),
        "first_delta_max_ms": first[-1],
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


def _worker(deployment: Deployment, name: str) -> contextlib.AbstractContextManager[None]:
    return deployment.process(name, WORKER, {"TURNLOG_WORKER_NAME": name, "TURNLOG_ON_STOP": "remain"})


async def _send(broker: Broker, deployment: Deployment, seen: _Seen, rate_per_s: float, stop: asyncio.Event) -> None:
    """Each request to a session of its own, when it is due, until it is enough."""
    run, began = uuid.uuid4().hex[:6], time.monotonic()
    for number in itertools.count():
        at = began + number / rate_per_s
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        if stop.is_set():
            return
        (request,) = requests(
            run,
            1,
            sessions=1_000_000,
            framing="avro",
            partitions=deployment.settings.partitions,
            model=MODEL,
            first=number,
        )
        seen.due[request.request_id] = at
        await broker.send(request)


async def _read(broker: Broker, seen: _Seen) -> None:
    async for now, header, frame in broker.frames():
        if header.request_id not in seen.due:
            continue
        if isinstance(frame, TurnStarted) and header.attempt > 1:
            seen.again.add(header.request_id)
        elif isinstance(frame, TextDelta):
            seen.first.setdefault(header.request_id, now)
        elif isinstance(frame, TERMINAL_FRAMES):
            seen.ended[header.request_id] = type(frame).__name__
