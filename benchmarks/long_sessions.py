"""A session of many turns beside one of few, when a model sees the same of both: waiting, warm and cold, and memory."""

import asyncio
import statistics
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.asking import Asker
from benchmarks.deployment import WORKER, Deployment
from benchmarks.load import Broker
from benchmarks.meter import foreign_cores, load_average
from benchmarks.seeding import MESSAGES_A_TURN, PartitionLog, Record, write
from turnlog_schemas.events import SESSION
from turnlog_streams.session.state import Session
from turnlog_workers.kafka.topics_admin import topic_id
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.port import LoadedStream

_LONG, _SHORT = "long", "short"
_ANSWER_TIMEOUT_S = 180.0  # the first one waits until the seeded log is read
_IDLE_S = 0.5
_STORE_INTERVAL_S = 0.2
#: A session is put away at the first look behind its idle time, if the store has it; the looks are as rare as writes.
_COLD_AFTER_S = _IDLE_S + 4 * _STORE_INTERVAL_S
_COPIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """How long they are, and how often each is asked."""

    long_turns: int
    short_turns: int
    of_each: int
    warm_chats: int  #: to all long ones together, and to all short ones
    cold_chats: int

    @property
    def seen(self) -> int:
        """Messages that a model sees of either: those of a short one."""
        return self.short_turns * MESSAGES_A_TURN

    def name(self, kind: str, number: int) -> str:
        """Of the session that the chat of this number goes to."""
        return f"{kind}-{number % self.of_each}"


async def measure(sessions: Sessions, deployment: Deployment) -> dict[str, Any]:
    """One run: warm, cold, memory."""
    settings = deployment.settings
    log = PartitionLog(topic_id(settings, settings.topics.requests) or "", settings.partitions)
    records = await write(settings, _log(log, sessions))
    result: dict[str, Any] = {"seeded_events": records}
    meter = None
    with deployment.process("worker", WORKER):
        meter, load_before = deployment.meter(), load_average()
        before = meter.read()
        async with Broker(settings) as broker, _asker(deployment, broker) as asker:
            result |= await _compared("warm", sessions, asker, sessions.warm_chats, pause_s=0.0)
        result |= {"load_average": [round(load_before, 2), round(load_average(), 2)]}
        result["foreign_cores"] = foreign_cores(before, meter.read())
    variables = {
        "TURNLOG_IDLE_TIMEOUT_S": str(_IDLE_S),
        "TURNLOG_STORE_COMMIT_INTERVAL_S": str(_STORE_INTERVAL_S),
    }
    with deployment.process("worker", WORKER, variables):
        async with Broker(settings) as broker, _asker(deployment, broker) as asker:
            result |= await _compared("cold", sessions, asker, sessions.cold_chats, pause_s=_COLD_AFTER_S)
    return result | await _memory(sessions, deployment)


def _log(log: PartitionLog, sessions: Sessions) -> Iterator[Record]:
    yield log.claim()
    for number in range(sessions.of_each):
        yield from log.session(sessions.name(_LONG, number), sessions.long_turns, seen=sessions.seen)
        yield from log.session(sessions.name(_SHORT, number), sessions.short_turns, seen=sessions.seen)


def _asker(deployment: Deployment, broker: Broker) -> Asker:
    settings = deployment.settings
    return Asker(broker, partitions=settings.partitions, replies=settings.topics.replies, timeout_s=_ANSWER_TIMEOUT_S)


async def _compared(what: str, sessions: Sessions, asker: Asker, chats: int, *, pause_s: float) -> dict[str, Any]:
    """First deltas of long and of short sessions, which take turns; with a pause, all are cold before each turn."""
    found: dict[str, list[float]] = {_LONG: [], _SHORT: []}
    for kind in found:
        for number in range(sessions.of_each):
            await asker.chat(sessions.name(kind, number))
    for number in range(chats):
        await asyncio.sleep(pause_s)
        for kind in list(found)[:: 1 if number % 2 else -1]:
            waited = await asker.chat(sessions.name(kind, number))
            assert waited.first_delta_ms is not None
            found[kind].append(waited.first_delta_ms)
            if pause_s:
                await asyncio.sleep(pause_s)  # whoever comes first would pay for the store's waking, and for both
    result = {f"{what}_{kind}_p50_ms": statistics.median(waited) for kind, waited in found.items()}
    return result | {f"{what}_ratio": result[f"{what}_{_LONG}_p50_ms"] / result[f"{what}_{_SHORT}_p50_ms"]}


async def _memory(sessions: Sessions, deployment: Deployment) -> dict[str, Any]:
    """What Python holds for a session that is loaded as its worker loads it: the mean of some, in KB."""
    settings = deployment.settings
    events_id = await asyncio.to_thread(topic_id, settings, settings.topics.events)
    stores = StoreDirectory(settings.data_dir / "stores", deployment=f"{settings.prefix} {events_id}")
    try:
        store = await stores.open(0)
        held = {}
        for kind in (_SHORT, _LONG):
            name = (SESSION, sessions.name(kind, 0))
            await store.load([name])  # what is made once, at the first time, is no session's
            tracemalloc.start()
            copies = [_in_memory(*(await store.load([name])).values()) for _ in range(_COPIES)]
            held[kind] = tracemalloc.get_traced_memory()[0] / len(copies) / 1000
            tracemalloc.stop()
    finally:
        await stores.close()
    return {**{f"memory_{kind}_kb": size for kind, size in held.items()}, "memory_ratio": held[_LONG] / held[_SHORT]}


def _in_memory(loaded: LoadedStream) -> SessionInMemory:
    assert isinstance(loaded.state, Session)
    return SessionInMemory(loaded.state, loaded.history)
