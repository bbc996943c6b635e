"""The life of workers on a real broker: what they do not start on, how they stop, what they leave to the next."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests.deployment import START_S, Deployment, Process, Wire, eventually_async, serving
from tests.waiting import POLL_INTERVAL_S, eventually, until
from turnlog_schemas.events import (
    CommandForwarded,
    ForwardDelivered,
    MessageStored,
    PartitionClaimed,
    TurnCompleted,
    TurnStarted,
)
from turnlog_streams.folding.rows import ENCODING, STORE_TABLES
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.topics_admin import list_topics
from turnlog_workers.store.tables import read_positions, table_hashes

PARTITIONS = 3


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(broker.bootstrap_server, tmp_path, partitions=PARTITIONS) as deployment:
        yield deployment


@pytest.fixture
def admin(broker: DevBroker) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap_server)
    yield client
    client.close()


#: Two sessions of each partition.
SESSIONS = [
    [f"web-{n}" for n in range(100) if partition_of(b"web-%d" % n, PARTITIONS) == partition][number]
    for number in range(2)
    for partition in range(PARTITIONS)
]


async def chats(wire: Wire, name: str) -> None:
    """One turn of each session, to the end."""
    for session_id in SESSIONS:
        await wire.chat_json(session_id, f"hello {name}", request_id=f"{name}-{session_id}", model="script:s")
    for session_id in SESSIONS:
        await wire.terminal(f"{name}-{session_id}")


async def shared(deployment: Deployment, *names: str) -> None:
    """Wait until all of these workers have claimed partitions."""

    async def all_claimed() -> bool:
        events = [event for log in (await deployment.log()).values() for event in log]
        return {e.payload.owner for e in events if isinstance(e.payload, PartitionClaimed)} >= set(names)

    await eventually_async(all_claimed, f"{names} have partitions")


async def some_turns(deployment: Deployment) -> None:
    """A worker that came, served and went."""
    async with serving(deployment) as (worker, wire):
        await chats(wire, "first")
        await eventually_async(lambda: all_is_told(deployment), "the channels have heard of their sessions", START_S)
        assert await asyncio.to_thread(worker.stop) == 0


async def all_is_told(deployment: Deployment) -> bool:
    """No stream has anything to tell another one: else the next worker has something to write at once."""
    kinds = [type(event.payload) for events in (await deployment.accepted()).values() for event in events]
    return kinds.count(CommandForwarded) == kinds.count(ForwardDelivered)


# ---- what it does not start on


def refusal_to_start(deployment: Deployment, *argv: str) -> str:
    """The last lines of a worker that must not serve; its exit code is not 0."""
    process = deployment.run("refusing", list(argv)) if argv else deployment.worker("refusing")
    assert process.wait() not in (0, -signal.SIGKILL), process.log
    return process.log


def test_no_topics(deployment: Deployment) -> None:
    said = refusal_to_start(deployment)
    assert "do not exist; run: turnlog topics init" in said
    assert "Traceback" not in said
    said = refusal_to_start(
        deployment, sys.executable, "-m", "faust", "-A", "turnlog_workers.process.faust_app", "worker", "-l", "info"
    )
    assert "do not exist; run: turnlog topics init" in said


def test_no_broker(deployment: Deployment) -> None:
    process = deployment.worker("refusing", bootstrap_server="127.0.0.1:1", startup_timeout_s="2")
    assert process.wait() == 3
    assert "127.0.0.1:1" in process.log
    assert "turnlog up" in process.log


def test_an_event_log_that_forgets(deployment: Deployment, admin: Any) -> None:
    deployment.make_topics()
    events = deployment.topics.events
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, events, {"retention.ms": "1000000"})])

    def changed() -> bool:
        found = next(topic for topic in list_topics(deployment.settings) if topic.name == events)
        return found.config["retention.ms"] == "1000000"

    until(changed, "the retention is changed")
    said = refusal_to_start(deployment)
    assert f"topic {events} has retention.ms=1000000" in said
    assert "run: kafka-configs.sh" in said


async def test_requests_that_were_made_again(deployment: Deployment, admin: Any) -> None:
    deployment.make_topics()
    await some_turns(deployment)
    before = topic_ids(deployment)
    admin.delete_topics([deployment.topics.requests])
    until(lambda: deployment.topics.requests not in topic_ids(deployment), "the topic is gone")
    deployment.make_topics()
    assert topic_ids(deployment)[deployment.topics.requests] != before[deployment.topics.requests]
    said = refusal_to_start(deployment)
    assert "the requests topic was re-created" in said
    assert "TURNLOG_PREFIX" in said


async def test_requests_that_are_made_again_while_a_worker_serves_end_it(deployment: Deployment, admin: Any) -> None:
    """What came next would be skipped as known, and nobody would ever be told."""
    deployment.make_topics()
    async with serving(deployment) as (worker, wire):
        await chats(wire, "before")
        admin.delete_topics([deployment.topics.requests])
        until(lambda: deployment.topics.requests not in topic_ids(deployment), "the topic is gone")
        deployment.make_topics()
        await eventually(lambda: not worker.running, "the worker stops")
        assert "the requests topic was re-created" in worker.log


def topic_ids(deployment: Deployment) -> dict[str, str]:
    return {topic.name: topic.topic_id for topic in list_topics(deployment.settings)}


async def test_partitions_that_were_added(deployment: Deployment, admin: Any) -> None:
    deployment.make_topics()
    await some_turns(deployment)
    names = (deployment.topics.requests, deployment.topics.events, deployment.topics.replies)
    admin.create_partitions({names[2]: PARTITIONS + 2})  # of the requests alone they do no harm
    said = refusal_to_start(deployment)
    assert "must have the same number of partitions" in said
    admin.create_partitions(dict.fromkeys(names[:2], PARTITIONS + 2))

    def grown() -> bool:
        found = {topic.name: topic.partitions for topic in list_topics(deployment.settings)}
        return [found[name] for name in names] == [PARTITIONS + 2] * 3

    until(grown, "the topics have grown")
    said = refusal_to_start(deployment)
    assert f"the log was written with {PARTITIONS} partitions, now there are {PARTITIONS + 2}" in said
    assert "TURNLOG_PREFIX" in said


# ---- how it stops


async def test_running_turns_get_their_time(deployment: Deployment) -> None:
    """SIGTERM: turns that end within the drain time end here; nothing new is begun."""
    deployment.make_topics()
    async with serving(deployment, drain_timeout_s="20") as (worker, wire):
        for number in range(5):
            await wire.chat_json(
                f"web-{number}", "go", request_id=f"r{number}", model="script:s?tools=0&words=20&delta_ms=100"
            )
            await wire.chat_json(f"web-{number}", "next", request_id=f"q{number}")
        for number in range(5):
            await wire.wait_for(f"r{number}", "TextDelta")
        worker.signal(signal.SIGTERM)
        for number in range(5):
            assert (await wire.terminal(f"r{number}")).header.attempt == 1
        assert await asyncio.to_thread(worker.wait) == 0, worker.log
        for number in range(5):
            assert {frame.kind for frame in wire.of(f"q{number}")} <= {"TurnAccepted"}
        deployment.worker("w1")
        for number in range(5):
            assert (await wire.terminal(f"q{number}")).header.attempt == 1


async def test_turns_that_do_not_end_in_time_are_resumed(deployment: Deployment) -> None:
    deployment.make_topics()
    async with serving(deployment, drain_timeout_s="0.5") as (worker, wire):
        deployment.worker("w1")
        await shared(deployment, "w0", "w1")
        for session_id in SESSIONS:
            model = "script:s?tools=3&tool_ms=400&words=30&delta_ms=100&idempotent=true"
            await wire.chat_json(session_id, "go", request_id=session_id, model=model)
        for session_id in SESSIONS:
            await wire.wait_for(session_id, "ToolCallStarted")
        worker.signal(signal.SIGTERM)
        ends = [await wire.terminal(session_id) for session_id in SESSIONS]
        assert {end.kind for end in ends} == {"TurnCompleted"}
        assert {end.headers["ce_source"] for end in ends} == {b"w1"}
        assert await asyncio.to_thread(worker.wait) == 0, worker.log
        resumed = 0
        for session_id in SESSIONS:
            events = [event.payload for event in await deployment.events_of(session_id)]
            causes = [event.cause for event in events if isinstance(event, TurnStarted)]
            assert causes in (["first"], ["first", "takeover"])
            resumed += len(causes) - 1
            assert sum(isinstance(event, TurnCompleted) for event in events) == 1
            results = [event for event in events if isinstance(event, MessageStored) and event.role == "tool"]
            assert len(results) == 3
            assert not any(result.interrupted for result in results)
        assert 0 < resumed < len(SESSIONS)


# ---- stores


def store_hashes(folder: Path) -> dict[str, dict[str, str]]:
    """The table hashes of every store that nobody holds."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((folder / "data" / "stores").glob("*.duckdb")):
        with duckdb.connect(str(path), read_only=True) as connection:
            found[path.name] = table_hashes(connection, STORE_TABLES)
    return found


def without_positions(hashes: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """``unanswered`` holds what lies above the position's ``replied``."""
    positions = {"partitions", "unanswered"}
    return {file: {name: each for name, each in of.items() if name not in positions} for file, of in hashes.items()}


async def test_stores_that_are_gone_or_broken_come_back_the_same(deployment: Deployment) -> None:
    deployment.make_topics()
    await some_turns(deployment)
    stores = deployment.folder / "data" / "stores"
    before = store_hashes(deployment.folder)
    assert sorted(before) == [f"p{partition:04d}.{ENCODING}.duckdb" for partition in range(PARTITIONS)]
    assert all(hashes["messages"].split(":")[0] != "0" for hashes in before.values()), "each has something to lose"
    (stores / f"p0000.{ENCODING}.duckdb").unlink()
    damaged = bytearray((stores / f"p0001.{ENCODING}.duckdb").read_bytes())
    damaged[: len(damaged) // 2] = bytes(len(damaged) // 2)
    (stores / f"p0001.{ENCODING}.duckdb").write_bytes(damaged)

    async with serving(deployment) as (worker, wire):
        for session_id in SESSIONS[:PARTITIONS]:  # one of each: a partition that answers has caught up, not the others
            await wire.chat_json(session_id, "hello first", request_id=f"first-{session_id}", model="script:s")
        for session_id in SESSIONS[:PARTITIONS]:
            again = await wire.terminal(f"first-{session_id}", count=2)
            assert again.kind == "TurnCompleted", "answered from the log"
        assert await asyncio.to_thread(worker.stop) == 0
    after = store_hashes(deployment.folder)
    assert without_positions(after) == without_positions(before)
    assert len(list((stores / "aside").glob("p0001.*.duckdb"))) == 1
    async with serving(deployment) as (worker, wire):
        await chats(wire, "second")
        assert await asyncio.to_thread(worker.stop) == 0
    assert without_positions(store_hashes(deployment.folder)) != without_positions(before)


BY_PROCESSES = {"store_build_events": "5", "log_level": "INFO"}


async def test_stores_are_made_by_processes_of_their_own_and_the_same(deployment: Deployment) -> None:
    deployment.make_topics()
    await some_turns(deployment)
    before = store_hashes(deployment.folder)
    for path in (deployment.folder / "data" / "stores").glob("*.duckdb"):
        path.unlink()
    async with serving(deployment, **BY_PROCESSES) as (worker, wire):
        for session_id in SESSIONS[:PARTITIONS]:
            await wire.chat_json(session_id, "hello first", request_id=f"first-{session_id}", model="script:s")
        for session_id in SESSIONS[:PARTITIONS]:
            assert (await wire.terminal(f"first-{session_id}", count=2)).kind == "TurnCompleted", "from the log"
        assert worker.log.count("is made by 2 processes") == PARTITIONS
        assert await asyncio.to_thread(worker.stop) == 0
    assert without_positions(store_hashes(deployment.folder)) == without_positions(before)
    assert not list((deployment.folder / "data" / "stores" / "temp").iterdir())


def children_of(worker: Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(worker.pid).children()
        return [child for child in found if any("store_part_process" in word for word in child.cmdline())]
    return []


@pytest.mark.parametrize("ends", ["they are killed", "the worker is killed"])
async def test_processes_that_make_a_store_and_end(deployment: Deployment, ends: str) -> None:
    deployment.make_topics()
    await some_turns(deployment)
    before = store_hashes(deployment.folder)
    for path in (deployment.folder / "data" / "stores").glob("*.duckdb"):
        path.unlink()
    worker = deployment.worker("w1", **BY_PROCESSES)
    children: list[psutil.Process] = []
    await eventually(lambda: bool(children.extend(children_of(worker)) or children), "a store is being made")
    if ends == "they are killed":
        while "serving from request" not in worker.log:
            for child in children_of(worker):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            await asyncio.sleep(POLL_INTERVAL_S)
        assert "the store is not made by processes of its own" in worker.log
    else:
        worker.kill()
        await eventually(lambda: not any(map(alive, children)), "nobody goes on")
        worker = deployment.worker("w1", **BY_PROCESSES)
    await eventually(lambda: worker.log.count("serving from request") == PARTITIONS, "it serves", START_S)
    assert await asyncio.to_thread(worker.stop) == 0
    assert without_positions(store_hashes(deployment.folder)) == without_positions(before)
    assert not list((deployment.folder / "data" / "stores" / "temp").iterdir())


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


async def test_an_event_log_that_was_made_again_is_noticed(deployment: Deployment, admin: Any) -> None:
    """Rows of another log are of no use: they are moved aside, and the requests are decided again."""
    deployment.make_topics()
    await some_turns(deployment)
    admin.delete_topics([deployment.topics.events])
    until(lambda: deployment.topics.events not in topic_ids(deployment), "the topic is gone")
    deployment.make_topics()
    async with serving(deployment) as (worker, wire):
        for session_id in SESSIONS:
            await wire.terminal(f"first-{session_id}", count=2)
        await chats(wire, "second")
        assert await asyncio.to_thread(worker.stop) == 0
    assert len(list((deployment.folder / "data" / "stores" / "aside").glob("*.duckdb"))) == PARTITIONS
    for session_id in SESSIONS:
        events = [event.payload for event in await deployment.events_of(session_id)]
        assert sum(isinstance(event, TurnCompleted) for event in events) == 2


async def test_two_workers_hand_their_stores_over(deployment: Deployment) -> None:
    """In one data directory a file goes to the next owner as it stands, however the last one ended."""
    deployment.make_topics()
    async with serving(deployment) as (first, wire):
        await chats(wire, "one")
        second = deployment.worker("w1")
        await eventually(lambda: second.ready, "the second worker is ready", START_S)
        await chats(wire, "shared")
        assert await asyncio.to_thread(first.stop) == 0
        await chats(wire, "second")
        third = deployment.worker("w2")
        await eventually(lambda: third.ready, "the third worker is ready", START_S)
        await chats(wire, "third")
        second.kill()
        await chats(wire, "alone")
        assert "another file is used" not in first.log + second.log + third.log
        assert await asyncio.to_thread(third.stop) == 0
    files = {path.name for path in (deployment.folder / "data" / "stores").glob("*.duckdb")}
    assert files == {f"p{partition:04d}.{ENCODING}.duckdb" for partition in range(PARTITIONS)}
    log = await deployment.log()
    for partition, events in log.items():
        assert {event.payload.owner for event in events if isinstance(event.payload, PartitionClaimed)} >= {"w0", "w2"}
        path = deployment.folder / "data" / "stores" / f"p{partition:04d}.{ENCODING}.duckdb"
        with duckdb.connect(str(path), read_only=True) as connection:
            assert read_positions(connection)[partition].next_offset == len(events)


async def test_a_dead_worker_s_turns_go_on_elsewhere(deployment: Deployment) -> None:
    """kill -9 in the middle of the answers: every turn ends once, and a client sees one answer."""
    deployment.make_topics()
    async with serving(deployment) as (first, wire):
        deployment.worker("w1")
        await shared(deployment, "w0", "w1")
        for number in range(12):
            model = f"script:s{number}?tools=2&words=40&delta_ms=40&tool_ms=20"
            await wire.chat_json(f"web-{number}", "go", request_id=f"r{number}", model=model)
        for number in range(12):
            await wire.wait_for(f"r{number}", "TextDelta")
        first.kill()
        ends = [await wire.terminal(f"r{number}") for number in range(12)]
        assert {end.kind for end in ends} == {"TurnCompleted"}
        assert max(end.header.attempt for end in ends) == 2
    for number in range(12):
        events = await deployment.events_of(f"web-{number}")
        assert sum(isinstance(event.payload, TurnCompleted) for event in events) == 1
        assert [event.header.stream_version for event in events] == list(range(1, len(events) + 1))
        assert {event.partition for event in events} == {partition_of(b"web-%d" % number, PARTITIONS)}
