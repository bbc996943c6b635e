"""Turns per second and CPU time per turn, out of a backlog of requests."""

import contextlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from benchmarks import bare_faust
from benchmarks.bare_faust import RecordSize, write_sizes
from benchmarks.deployment import MATERIALIZER, WORKER, Deployment
from benchmarks.load import EVENTS_PER_TURN, FRAMES_PER_TURN, Broker, requests
from benchmarks.meter import foreign_cores, load_average, used
from benchmarks.scraping import scraped
from turnlog_workers.devstack.broker_ports import free_port

_STALLED_S = 60.0
_SAMPLE_TIMEOUT_MS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What runs, and what it gets."""

    name: str
    what: str
    framing: str = "avro"
    materializer: bool = False
    scraped: bool = False  #: by a Prometheus, as often as docker-compose.yml has it
    bare: str | None = None  #: mode of the bare agent; None: a Turnlog worker
    share: float = 1.0  #: of the requests, for what would take too long otherwise


CASES = (
    Case(name="worker", what="a worker, Avro requests"),
    Case(name="worker+materializer", what="the same beside a running materializer", materializer=True),
    Case(name="worker-scraped", what="the same with a metrics port, scraped every 5 s", scraped=True),
    Case(name="worker-json", what="a worker, JSON requests and frames", framing="json"),
    Case(name="bare-batched", what="a bare agent, records sent and confirmed in batches", bare="batched"),
    Case(name="bare-sent", what="a bare agent, `await topic.send()` for each record", bare="sent"),
    Case(name="bare-confirmed", what="a bare agent, each record confirmed one by one", bare="confirmed", share=0.1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is sent."""

    turns: int
    sessions: int


async def measure(case: Case, load: Load, deployment: Deployment, sizes: Path) -> dict[str, Any]:
    """One run of one case. ``sizes``: where the records of a turn are told from Turnlog's runs to the bare ones'."""
    with contextlib.ExitStack() as stack:
        if case.bare is None:
            variables = {
                "TURNLOG_DELTA_INTERVAL_MS": "0",  # each piece of an answer is a frame of its own: 3 deltas a turn
            }
            if case.scraped:
                variables["TURNLOG_METRICS_PORT"] = str(port := free_port())
            stack.enter_context(deployment.process("worker", WORKER, variables))
            if case.scraped:
                stack.enter_context(scraped(port))
        else:
            stack.enter_context(deployment.process("worker", bare_faust.command(case.bare, sizes)))
        if case.materializer:
            stack.enter_context(deployment.process("materializer", MATERIALIZER))
        async with Broker(deployment.settings) as broker:
            result = await _drive(case, load, deployment, broker)
            found = await _sample(broker, deployment) if case.bare is None else None
    if found is not None:
        write_sizes(sizes, found)
        result["requests_read_again"] = deployment.not_delivered()
    return result


async def _drive(case: Case, load: Load, deployment: Deployment, broker: Broker) -> dict[str, Any]:
    settings, topics = deployment.settings, deployment.settings.topics
    run = uuid.uuid4().hex[:6]
    turns = max(1, int(load.turns * case.share))

    def made(name: str, count: int) -> list[Any]:
        return requests(run + name, count, sessions=load.sessions, framing=case.framing, partitions=settings.partitions)

    meter = deployment.meter()
    # The first turn of every session makes it: not what is measured.
    warm_up = max(1, int(load.sessions * case.share))
    await broker.send_all(made("w", warm_up))
    frames = warm_up * FRAMES_PER_TURN
    await broker.until_records(topics.replies, frames, stalled_s=_STALLED_S, alive=deployment.check_alive)
    backlog = made("m", turns)
    if case.bare:
        events_before = warm_up * EVENTS_PER_TURN
        await broker.until_records(topics.events, events_before, stalled_s=_STALLED_S, alive=deployment.check_alive)
    else:
        events_before = await broker.until_told(topics.events)
    group = f"{settings.prefix}.bare" if case.bare else settings.group_id
    await broker.until_acknowledged(topics.requests, group)
    load_before = load_average()
    before = meter.read()
    await broker.send_all(backlog)
    frames += turns * FRAMES_PER_TURN
    done_at = await broker.until_records(topics.replies, frames, stalled_s=_STALLED_S, alive=deployment.check_alive)
    busy = meter.read()
    await broker.until_acknowledged(topics.requests, group)
    after = meter.read()
    events = await broker.records(topics.events) - events_before
    if events != turns * EVENTS_PER_TURN or await broker.records(topics.replies) != frames:
        raise RuntimeError(f"{case.name}: {events} events for {turns} turns: not each of them went as it must")
    cpu = used(before, after)
    return {
        "turns": turns,
        "turns_per_s": turns / (done_at - before.at_s),
        "cpu_ms_per_turn": 1000 * cpu["worker"] / turns,
        **{f"{name}_cpu_ms_per_turn": 1000 * cpu[name] / turns for name in ("broker", "materializer") if name in cpu},
        "load_average": [round(load_before, 2), round(load_average(), 2)],
        "foreign_cores": foreign_cores(before, busy),
    }


async def _sample(broker: Broker, deployment: Deployment) -> list[RecordSize]:
    """The sizes of the last turn's records on some partition that had one."""
    sizes: list[RecordSize] = []
    for name, count in (("events", EVENTS_PER_TURN), ("replies", FRAMES_PER_TURN)):
        tps = broker.tps(getattr(deployment.settings.topics, name))
        ends: Mapping[TopicPartition, int] = await broker.consumer.end_offsets(tps)
        tp = max(ends, key=lambda tp: ends[tp])
        broker.consumer.assign([tp])
        broker.consumer.seek(tp, ends[tp] - count)
        found: list[Any] = []
        while len(found) < count:
            batch = await broker.consumer.getmany(tp, timeout_ms=_SAMPLE_TIMEOUT_MS)
            if not batch:
                raise TimeoutError(f"{tp.topic}[{tp.partition}] cannot be read")
            found += batch[tp]
        sizes += [
            RecordSize(
                topic=name,
                value_bytes=len(record.value),
                headers=tuple((key, len(value)) for key, value in record.headers),
            )
            for record in found[:count]
        ]
    return sizes
