"""What a channel of many sessions costs beside one of few, and what a chat to one of its older sessions causes."""

import statistics
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.asking import Asker, until_quiet
from benchmarks.deployment import WORKER, Deployment
from benchmarks.load import Broker
from benchmarks.meter import foreign_cores, load_average, used
from benchmarks.seeding import PartitionLog, Record, channel_session, write
from turnlog_schemas.events import SESSION, SessionCreated
from turnlog_schemas.parts import NewSession
from turnlog_workers.kafka.topics_admin import topic_id

_MANY, _FEW = "many", "few"
_ANSWER_TIMEOUT_S = 180.0  # the first one waits until the seeded log is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Two channels, and how often sessions are opened in each."""

    many: int
    few: int
    rounds: int
    each_round: int
    chats: int  #: to older sessions, of which there are so many


async def measure(channels: Channels, deployment: Deployment) -> dict[str, Any]:
    """One run; the channels take turns."""
    settings = deployment.settings
    log = PartitionLog(topic_id(settings, settings.topics.requests) or "", settings.partitions)
    records = await write(settings, _log(log, channels))
    with deployment.process("worker", WORKER):
        async with (
            Broker(settings) as broker,
            Asker(
                broker, partitions=settings.partitions, replies=settings.topics.replies, timeout_s=_ANSWER_TIMEOUT_S
            ) as asker,
        ):
            opening = await _open_sessions(channels, deployment, broker, asker)
            told = {
                name: await _caused(channels, broker, asker, settings.topics.requests, settings.topics.events, name)
                for name in (_MANY, _FEW, None)
            }
    alone = sum(told[None])
    return {
        "seeded_events": records,
        **opening,
        **{f"chat_{kind}_of_{name or 'none'}": n for name, found in told.items() for kind, n in _named(found)},
        "chat_records_ratio": sum(told[_MANY]) / alone,
    }


def _named(found: tuple[float, float]) -> Iterator[tuple[str, float]]:
    yield from zip(("requests", "events"), found, strict=True)


def _log(log: PartitionLog, channels: Channels) -> Iterator[Record]:
    yield log.claim()
    for name, sessions in ((_MANY, channels.many), (_FEW, channels.few)):
        yield from log.channel(name, sessions, known=min(channels.chats, sessions - 1))
    for number in range(channels.chats):
        session_id = channel_session("none", number)
        yield log.event(SESSION, session_id, SessionCreated(new_session=NewSession(title="an old session")))
        yield from log.turn(session_id, 0)


async def _open_sessions(channels: Channels, deployment: Deployment, broker: Broker, asker: Asker) -> dict[str, Any]:
    topics = deployment.settings.topics
    numbers = iter(range(1_000_000))

    async def by_chat(channel: str) -> float:
        waited = await asker.chat(f"new-{next(numbers):06d}", channel=channel)
        assert waited.first_delta_ms is not None
        return waited.first_delta_ms

    async def by_request(channel: str) -> float:
        return (await asker.create(channel)).ended_ms

    ways: dict[str, Callable[[str], Awaitable[float]]] = {"create": by_request, "chat": by_chat}
    found: dict[tuple[str, str], list[float]] = {(way, name): [] for way in ways for name in (_MANY, _FEW)}
    cpu_s = dict.fromkeys(found, 0.0)
    for way, name in found:
        await ways[way](name)  # the channels are loaded now
    meter = deployment.meter()
    load_before, began = load_average(), meter.read()
    for number in range(channels.rounds):
        order = list(found)[:: 1 if number % 2 else -1]
        for way, name in order:
            await until_quiet(broker, topics.requests, topics.events)
            before = meter.read()
            for _ in range(channels.each_round):
                found[way, name].append(await ways[way](name))
            await until_quiet(broker, topics.requests, topics.events)
            cpu_s[way, name] += used(before, meter.read())["worker"]
    foreign = foreign_cores(began, meter.read())
    opened = channels.rounds * channels.each_round
    result: dict[str, Any] = {"opened_each": opened}
    for way in ways:
        for name in (_FEW, _MANY):
            result[f"{way}_{name}_p50_ms"] = statistics.median(found[way, name])
            result[f"{way}_{name}_cpu_ms"] = 1000 * cpu_s[way, name] / opened
        result[f"{way}_ratio"] = result[f"{way}_{_MANY}_p50_ms"] / result[f"{way}_{_FEW}_p50_ms"]
        result[f"{way}_cpu_ratio"] = result[f"{way}_{_MANY}_cpu_ms"] / (result[f"{way}_{_FEW}_cpu_ms"] or 0.001)
    result["opening_ratio"] = max(result[f"{way}_ratio"] for way in ways)
    result["opening_cpu_ratio"] = sum(cpu_s[way, _MANY] for way in ways) / (
        sum(cpu_s[way, _FEW] for way in ways) or 0.001
    )
    return result | {"load_average": [round(load_before, 2), round(load_average(), 2)], "foreign_cores": foreign}


async def _caused(
    channels: Channels, broker: Broker, asker: Asker, requests: str, events: str, name: str | None
) -> tuple[float, float]:
    """Requests and events of a chat to a session that is not the channel's newest, itself among them."""
    await until_quiet(broker, requests, events)
    before = await broker.records(requests), await broker.records(events)
    for number in range(channels.chats):
        await asker.chat(channel_session(name or "none", number))
    await until_quiet(broker, requests, events)
    after = await broker.records(requests), await broker.records(events)
    return (after[0] - before[0]) / channels.chats, (after[1] - before[1]) / channels.chats
