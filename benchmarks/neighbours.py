"""Short turns beside a long one: does a session whose model takes a minute keep the others of its partition waiting?

One partition. Turns of other sessions one after the other, without the long one and beside it, in turns.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.asking import Asker
from benchmarks.deployment import WORKER, Deployment
from benchmarks.latency import percentile
from benchmarks.load import Broker
from benchmarks.meter import load_average

_TIMEOUT_S = 120.0
_PIECES = 20  #: of the long answer
_LONG = f"echo:?deltas={_PIECES}&delta_ms={{}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """How many short turns of each kind and round, and how long the long one is."""

    rounds: int
    chats: int
    sessions: int
    long_ms: int


async def measure(load: Neighbours, deployment: Deployment, *, say: Callable[[str], None]) -> dict[str, Any]:
    """The medians of both, in ms. Raises ``RuntimeError`` if a long turn ended before its neighbours' last one."""
    load_before, run = load_average(), uuid.uuid4().hex[:6]
    alone: list[float] = []
    beside: list[float] = []
    replies = deployment.settings.topics.replies
    with deployment.process("worker", WORKER):
        async with (
            Broker(deployment.settings) as broker,
            Asker(broker, partitions=1, replies=replies, timeout_s=_TIMEOUT_S) as asker,
        ):
            names = [f"{run}-{number}" for number in range(load.sessions)]
            for name in names:
                await asker.chat(name)
            for number in range(load.rounds):
                alone += await _chats(asker, names, load.chats)
                long = asyncio.create_task(
                    asker.chat(f"{run}-long-{number}", model=_LONG.format(load.long_ms // _PIECES))
                )
                began = time.monotonic()
                beside += await _chats(asker, names, load.chats)
                if long.done():
                    raise RuntimeError(f"the long turn ended before its neighbours: {long.result()}")
                say(f"neighbours, round {number + 1} of {load.rounds}: {time.monotonic() - began:.1f} s beside it")
                await long
    alone.sort()
    beside.sort()
    return {
        "alone_p50_ms": percentile(alone, 50),
        "beside_p50_ms": percentile(beside, 50),
        "alone_p99_ms": percentile(alone, 99),
        "beside_p99_ms": percentile(beside, 99),
        "ratio": percentile(beside, 50) / percentile(alone, 50),
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


async def _chats(asker: Asker, names: list[str], count: int) -> list[float]:
    return [(await asker.chat(names[number % len(names)])).ended_ms for number in range(count)]
