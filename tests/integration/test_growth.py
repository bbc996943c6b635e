"""Partitions that are added to the requests topic, and requests that are gone before anybody could decide them."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from kafka import KafkaAdminClient, TopicPartition

from tests import preloaded
from tests.deployment import START_S, Deployment, Process, Wire, eventually_async, serving
from tests.waiting import eventually
from turnlog.client.async_client import Client
from turnlog_schemas.events import PartitionClaimed, RequestsLost, TurnAccepted
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.topics_admin import TopicsError, check_topics, init_topics, list_topics

PARTITIONS = 3
GROWN = 6
REQUESTS = 90


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(broker.bootstrap_server, tmp_path, partitions=PARTITIONS) as deployment:
        deployment.make_topics()
        yield deployment


@pytest.fixture
def admin(broker: DevBroker) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap_server)
    yield client
    client.close()


async def grow(deployment: Deployment, admin: Any, *, topic: str = "requests", count: int = GROWN) -> None:
    name = getattr(deployment.topics, topic)
    await asyncio.to_thread(admin.create_partitions, {name: count})

    async def visible() -> bool:
        found = await asyncio.to_thread(list_topics, deployment.settings)
        return {topic.name: topic.partitions for topic in found}[name] == count

    await eventually_async(visible, f"{name} has {count} partitions")


async def chats(deployment: Deployment, wire: Wire, name: str) -> list[str]:
    """Three chats of 30 sessions each, put where the count of the grown topic puts their keys; without a request id."""
    places: list[str] = []
    for number in range(REQUESTS):
        key = f"s-{number % 30}".encode()
        body = json.dumps({"session_id": key.decode(), "command": {"type": "chat", "text": f"{name} {number}"}})
        partition, offset = await wire.produce(key, body.encode(), partition=partition_of(key, GROWN))
        places.append(f"{deployment.topics.requests}-{partition}-{offset}")
    return places


async def all_answered_once(deployment: Deployment, wire: Wire, request_ids: list[str]) -> None:
    for request_id in request_ids:
        assert (await wire.terminal(request_id)).kind == "TurnCompleted"
    accepted = await deployment.accepted()
    times = Counter(
        event.payload.request_id
        for events in accepted.values()
        for event in events
        if isinstance(event.payload, TurnAccepted)
    )
    assert {request_id: times[request_id] for request_id in request_ids} == dict.fromkeys(request_ids, 1)
    for partition, events in accepted.items():
        for event in events:
            if isinstance(event.payload, TurnAccepted):
                assert partition_of(event.header.stream_id.encode(), PARTITIONS) == partition


def says_growth(worker: Process) -> bool:
    return "has 6 partitions" in worker.log and "partitions 3 to 5" in worker.log


async def doctor(deployment: Deployment) -> dict[str, Any]:
    argv = [sys.executable, "-m", "turnlog", "doctor", "--json"]
    done = await asyncio.to_thread(preloaded.run, argv, env=deployment.environ())
    document: dict[str, Any] = json.loads(done.stdout)
    return document


async def test_partitions_added_while_a_worker_runs(deployment: Deployment, admin: Any) -> None:
    worker = deployment.worker()
    async with deployment.wire() as wire:
        await eventually(lambda: worker.ready, "the worker is ready", START_S)
        before = await wire.chat_json("s-0", "before", request_id="before")
        await wire.terminal("before")
        assert before[0] == partition_of(b"s-0", PARTITIONS)
        await grow(deployment, admin)
        await eventually(lambda: says_growth(worker), "the worker says that partitions were added", 60)
    async with deployment.wire() as wire:  # a producer that knows of them
        ids = await chats(deployment, wire, "grown")
        assert {int(request_id.split("-")[-2]) for request_id in ids} == set(range(GROWN))
        await all_answered_once(deployment, wire, ids)

        document = await doctor(deployment)
        topics = next(check for check in document["checks"] if check["check"] == "topics")
        assert document["checks"][-2]["ok"], document
        assert "partitions 3 to 5" in topics["detail"]
        assert "nothing is lost" in topics["detail"]

        # Again from a new process: nothing is answered twice, and what came meanwhile is answered.
        assert await asyncio.to_thread(worker.stop) == 0
        meanwhile = await chats(deployment, wire, "meanwhile")
        again = deployment.worker("w1")
        await eventually(lambda: again.ready, "the next worker is ready", START_S)
        await all_answered_once(deployment, wire, [*ids, *meanwhile])
        assert says_growth(again)
        assert worker.log.count("has 6 partitions") == again.log.count("has 6 partitions") == 1
        claims = [
            event.payload.partition_count
            for events in (await deployment.accepted()).values()
            for event in events
            if isinstance(event.payload, PartitionClaimed)
        ]
        assert set(claims) == {PARTITIONS}


async def test_what_cannot_be_read_there_is_parked(deployment: Deployment, admin: Any) -> None:
    await grow(deployment, admin)
    async with serving(deployment) as (worker, wire):
        garbage = await wire.produce(b"s-0", b"\xff\xfe garbage", partition=5)
        mismatch = json.dumps({"session_id": "s-1", "command": {"type": "chat", "text": "x"}}).encode()
        wrong_key = await wire.produce(b"s-0", mismatch, partition=5)
        body = json.dumps({"session_id": "s-2", "request_id": "r", "command": {"type": "chat", "text": "x"}}).encode()
        await wire.produce(None, body, partition=5)
        refused = json.dumps({"session_id": "s-2", "request_id": "bad", "command": {"type": "dance"}}).encode()
        await wire.produce(b"s-2", refused, partition=4)
        assert (await wire.terminal("r")).kind == "TurnCompleted"
        assert (await wire.terminal("bad")).payload.code == "unknown_command"
        letters = {}
        for record in await deployment.dump(deployment.topics.dead_letters):
            headers = dict(record.headers)
            place = int(headers["x-turnlog-partition"]), int(headers["x-turnlog-offset"])
            letters[place] = headers["x-turnlog-code"], record.value
        assert letters == {garbage: (b"undecodable", b"\xff\xfe garbage"), wrong_key: (b"key_mismatch", mismatch)}
        assert worker.running


async def test_our_own_client_goes_right(deployment: Deployment, admin: Any) -> None:
    await grow(deployment, admin)
    async with serving(deployment), Client(deployment.settings) as client:
        sessions = [f"c-{n}" for n in range(12)]
        for session_id in sessions:
            assert (await client.chat(session_id, "hello").result()).text
    records = await deployment.dump(deployment.topics.requests)
    assert {record.key.decode(): record.partition for record in records if record.key.startswith(b"c-")} == {
        session_id: partition_of(session_id.encode(), PARTITIONS) for session_id in sessions
    }
    assert {record.partition for record in records} <= set(range(PARTITIONS)), "what workers send each other, too"


async def test_growth_of_anything_else_is_refused(deployment: Deployment, admin: Any) -> None:
    await grow(deployment, admin)
    state = await asyncio.to_thread(check_topics, deployment.settings)
    assert (state.partition_count, state.requests_partitions) == (PARTITIONS, GROWN)
    reports = {report.name: report for report in await asyncio.to_thread(init_topics, deployment.settings)}
    assert not any(report.problems for report in reports.values())
    assert "partitions 3 to 5" in reports[deployment.topics.requests].warnings[0]
    await grow(deployment, admin, topic="replies")
    with pytest.raises(TopicsError, match="must have the same number of partitions, but have 6, 3 and 6"):
        await asyncio.to_thread(check_topics, deployment.settings)


async def test_a_log_that_grew_as_a_whole_is_refused(deployment: Deployment, admin: Any) -> None:
    async with serving(deployment) as (worker, wire):
        await wire.chat_json("s-0", "before", request_id="before")
        await wire.terminal("before")
        for topic in ("events", "replies", "requests"):
            await grow(deployment, admin, topic=topic)
        await eventually(lambda: "no worker can start on it any more" in worker.log, "the worker says so", 60)
        assert await asyncio.to_thread(worker.stop) == 0
    second = deployment.worker("w1")
    assert await asyncio.to_thread(second.wait) == 1
    assert "the log was written with 3 partitions, now there are 6" in second.log


async def test_requests_that_are_deleted_before_the_first_claim(deployment: Deployment, admin: Any) -> None:
    topic = deployment.topics.requests
    async with deployment.wire() as wire:
        session_id = next(
            name for name in (f"d-{n}" for n in range(100)) if partition_of(name.encode(), PARTITIONS) == 1
        )
        for number in range(5):
            await wire.chat_json(session_id, f"{number}", request_id=f"d{number}")
        await asyncio.to_thread(admin.delete_records, {TopicPartition(topic, 1): 3})
        worker = deployment.worker()
        await eventually(lambda: worker.ready, "the worker is ready", START_S)
        for number in (3, 4):
            assert (await wire.terminal(f"d{number}")).kind == "TurnCompleted"
        assert "requests 0 to 2 were deleted unread" in worker.log
        lost = {
            partition: [
                (event.payload.from_offset, event.payload.to_offset)
                for event in events
                if isinstance(event.payload, RequestsLost)
            ]
            for partition, events in (await deployment.accepted()).items()
        }
        assert lost == {0: [], 1: [(0, 2)], 2: []}
        materializer = deployment.start("m", "materialize")
        await eventually(lambda: materializer.ready, "the materializer is ready", START_S)

        def rows() -> int:
            if not deployment.settings.snapshot.is_file():
                return 0
            with duckdb.connect(str(deployment.settings.snapshot), read_only=True) as snapshot:
                found = snapshot.execute("SELECT count(*) FROM events WHERE type = 'RequestsLost'").fetchone()
            assert found is not None
            return int(found[0])

        await eventually(lambda: rows() == 1, "the snapshot has the loss", START_S)
        # Everything of a partition, nothing behind it: said all the same, once.
        assert await asyncio.to_thread(worker.stop) == 0


async def test_a_whole_partition_deleted_before_its_first_decision(deployment: Deployment, admin: Any) -> None:
    async with serving(deployment) as (worker, _):
        assert await asyncio.to_thread(worker.stop) == 0
    async with deployment.wire() as wire:
        for _ in range(4):
            await wire.produce(b"x", b"{}", partition=2)
        await asyncio.to_thread(admin.delete_records, {TopicPartition(deployment.topics.requests, 2): 4})
        again = deployment.worker("w1")
        await eventually(lambda: again.ready, "the worker is ready", START_S)

        async def lost() -> Any:
            return [e.payload for e in (await deployment.accepted())[2] if isinstance(e.payload, RequestsLost)]

        (event,) = await eventually_async(lost, "the loss is in the log")
        assert (event.from_offset, event.to_offset) == (0, 3)
        assert again.running
