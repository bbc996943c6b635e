"""Almost as many open turns as a worker may run, each with a word now and then, and new sessions beside them.

What counts is that every word comes, how much memory the worker takes, and how long a new session waits for its first
text while all the others are open.
"""

import asyncio
import time
import uuid
from typing import Any

from benchmarks.deployment import WORKER, Deployment
from benchmarks.latency import percentile
from benchmarks.load import MODEL, Broker, requests
from benchmarks.meter import foreign_cores, highest_rss_mb, load_average, used
from benchmarks.streams import Seen, Stream, Streams, read, requests_of

_NEW_PER_S = 5.0
_STALLED_S = 60.0
_POLL_S = 0.1


async def measure(load: Streams, new: int, deployment: Deployment) -> dict[str, Any]:
    """One run with default settings; latencies in ms. Raises ``RuntimeError`` if a word is lost or doubled."""
    with deployment.process("worker", WORKER):
        async with Broker(deployment.settings) as broker:
            return await _drive(load, new, deployment, broker)


async def _drive(load: Streams, new: int, deployment: Deployment, broker: Broker) -> dict[str, Any]:
    settings, run = deployment.settings, uuid.uuid4().hex[:6]
    made = requests_of(load, f"open-{run}", settings.partitions)
    seen = Seen({request.request_id: Stream() for request in made}, load.delta_ms / 1000)
    broker.consumer.assign(broker.tps(settings.topics.replies))
    await broker.consumer.seek_to_beginning()
    reading = asyncio.create_task(read(broker, seen, load.words))
    meter, load_before = deployment.meter(), load_average()
    try:
        began = time.monotonic()
        for index, request in enumerate(made):
            await asyncio.sleep(max(0.0, began + index * load.start_s / len(made) - time.monotonic()))
            await broker.send(request)
        await _until(reading, deployment, lambda: all(stream.frames for stream in seen.streams.values()), load)
        before = meter.read()
        due = await _new_sessions(broker, run, new, settings.partitions)
        after = meter.read()
        open_then = len(made) - seen.ended
        await _until(reading, deployment, lambda: seen.ended == len(made) and due.keys() <= seen.others.keys(), load)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    if seen.bad or open_then < len(made):
        raise RuntimeError(f"{open_then} of {len(made)} turns were open to the end; not as they must: {seen.bad[:5]}")
    first = sorted(1000 * (seen.others[request_id] - at) for request_id, at in due.items())
    cpu_s = used(before, after)["worker"]
    return {
        "open": len(made),
        "new": new,
        "new_first_delta_p50_ms": percentile(first, 50),
        "new_first_delta_p99_ms": percentile(first, 99),
        "new_first_delta_max_ms": first[-1],
        "worker_rss_mb": highest_rss_mb(deployment.pid("worker")),
        "worker_cores": cpu_s / (after.at_s - before.at_s),
        "load_average": [round(load_before, 2), round(load_average(), 2)],
        "foreign_cores": foreign_cores(before, after),
    }


async def _new_sessions(broker: Broker, run: str, count: int, partitions: int) -> dict[str, float]:
    """A chat to a new session every so often; when each was due."""
    made = requests(f"new-{run}", count, sessions=count, framing="avro", partitions=partitions, model=MODEL)
    began, due = time.monotonic(), {}
    for index, request in enumerate(made):
        due[request.request_id] = began + index / _NEW_PER_S
        await asyncio.sleep(max(0.0, due[request.request_id] - time.monotonic()))
        await broker.send(request)
    return due


async def _until(reading: asyncio.Task[None], deployment: Deployment, condition: Any, load: Streams) -> None:
    async with asyncio.timeout(2 * load.ideal_s + load.start_s + _STALLED_S):
        while not condition():
            if reading.done():
                reading.result()
            deployment.check_alive()
            await asyncio.sleep(_POLL_S)
