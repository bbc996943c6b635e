"""A worker end to end on a real broker: what goes in as bytes, what comes out as frames and facts."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from tests.deployment import Deployment, Process, Wire, eventually_async, serving
from turnlog_schemas.events import MessageStored, RequestRefused, TurnAccepted, TurnCompleted
from turnlog_schemas.parts import content_text
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(broker.bootstrap_server, tmp_path) as deployment:
        deployment.make_topics()
        yield deployment


@pytest.fixture
async def served(deployment: Deployment) -> AsyncIterator[tuple[Deployment, Process, Wire]]:
    async with serving(deployment) as (worker, wire):
        yield deployment, worker, wire


Served = tuple[Deployment, Process, Wire]


async def test_json_in_json_out_avro_in_avro_out(served: Served) -> None:
    deployment, _, wire = served
    await wire.chat_json(
        "web-1a2b3c4d",
        "Hi there",
        request_id="r1",
        headers={"traceparent": TRACE, "tracestate": b"a=b", "x-mine": b"no"},
    )
    await wire.chat_avro("web-1a2b3c4d", "And again", request_id="r2")
    await wire.terminal("r2")
    kinds = [frame.kind for frame in wire.of("r1")]
    assert kinds[:2] == ["TurnAccepted", "TurnStarted"]
    assert kinds[-2:] == ["MessageStored", "TurnCompleted"]
    assert set(kinds[2:-2]) == {"TextDelta"}
    assert [frame.kind for frame in wire.of("r2")] == kinds
    assert all(frame.is_json for frame in wire.of("r1"))
    assert not any(frame.is_json for frame in wire.of("r2"))
    said = "".join(frame.payload.text for frame in wire.of("r1") if frame.kind == "TextDelta")
    assert said == wire.of("r1")[-1].payload.text != ""

    for request_id, content_type in (("r1", b"application/json"), ("r2", b"application/avro")):
        frames = wire.of(request_id)
        for seq, frame in enumerate(frames):
            assert frame.record.key == b"web-1a2b3c4d"
            assert frame.headers["ce_specversion"] == b"1.0"
            assert frame.headers["ce_type"] == f"turnlog.frames.{frame.kind}".encode()
            assert frame.headers["content-type"] == content_type
            assert frame.headers["ce_source"] == b"w0"
            assert frame.headers["ce_time"].endswith(b"Z")
            assert frame.header.frame_seq == max(0, seq - 1), "one count per attempt, and the first is of attempt 0"
            assert frame.headers.get("traceparent") == (TRACE if request_id == "r1" else None)
            assert "x-mine" not in frame.headers
        assert len({frame.headers["ce_id"] for frame in frames}) == len(frames)

    # The channel's receipt may become an event at any time: what is read later may have more.
    turn_ids = [event.header.turn_id for event in await deployment.events_of("web-1a2b3c4d")]
    records = [record for record in await deployment.dump(deployment.topics.events) if record.key == b"web-1a2b3c4d"]
    assert len({dict(record.headers)["ce_id"] for record in records}) == len(records)
    traced = [dict(record.headers).get("traceparent") for record in records]
    of_turns = [(trace, turn_id) for trace, turn_id in zip(traced, turn_ids, strict=False) if turn_id]
    for trace, turn_id in of_turns:
        assert trace == (TRACE if turn_id == of_turns[0][1] else None)
    assert {trace for trace, _ in of_turns} == {TRACE, None}
    assert all(dict(record.headers)["ce_specversion"] == b"1.0" for record in records)


async def test_the_history_is_the_turns_in_order(served: Served) -> None:
    deployment, _, wire = served
    for number in range(5):
        await wire.chat_json("web-1", f"number {number}", request_id=f"r{number}")
    await wire.terminal("r4")
    events = await deployment.events_of("web-1")
    assert [event.header.stream_version for event in events] == list(range(1, len(events) + 1))
    messages = [event.payload for event in events if isinstance(event.payload, MessageStored)]
    assert [message.message_seq for message in messages] == list(range(1, 11))
    asked = [content_text(message.content) for message in messages if message.role == "user"]
    assert asked == [f"number {number}" for number in range(5)]
    assert sum(isinstance(event.payload, TurnCompleted) for event in events) == 5


async def test_the_same_request_again_is_answered_from_the_log(served: Served) -> None:
    deployment, _, wire = served
    await wire.chat_json("web-1", "once", request_id="r1")
    first = await wire.terminal("r1")
    frames = len(wire.of("r1"))
    await wire.chat_avro("web-1", "once", request_id="r1")  # the framing makes no other command of it
    await wire.terminal("r1", count=2)
    again = wire.of("r1")[frames:]
    assert [frame.kind for frame in again] == ["TurnCompleted"]
    assert again[0].payload == first.payload
    assert not again[0].is_json
    events = await deployment.events_of("web-1")
    assert sum(isinstance(event.payload, TurnAccepted) for event in events) == 1

    await wire.chat_json("web-1", "something else", request_id="r1")
    conflict = await wire.terminal("r1", count=3)
    refused = [frame.payload for frame in wire.of("r1") if frame.kind == "RequestRefused"]
    assert [refusal.code for refusal in refused] == ["conflict"]
    assert conflict.payload == first.payload
    events = await deployment.events_of("web-1")
    assert [event.payload.code for event in events if isinstance(event.payload, RequestRefused)] == ["conflict"]
    assert sum(isinstance(event.payload, TurnAccepted) for event in events) == 1


async def test_a_request_without_an_id_is_known_by_its_place(served: Served) -> None:
    _, _, wire = served
    partition, offset = await wire.chat_json("web-1", "hello")
    request_id = f"{served[0].topics.requests}-{partition}-{offset}"
    await wire.terminal(request_id)
    assert wire.of(request_id)[0].header.turn_id == f"t-{partition}-{offset}"


async def test_a_turn_that_fails_says_so(served: Served) -> None:
    _, _, wire = served
    await wire.chat_json("web-1", "go", request_id="r1", model="script:s?fatal=true")
    failed = await wire.terminal("r1")
    assert (failed.kind, failed.payload.code) == ("TurnFailed", "scripted_failure")
    await wire.chat_json("web-1", "go", request_id="r2", model="script:s?fail_attempts=1&words=3")
    done = await wire.terminal("r2")
    assert (done.kind, done.header.attempt) == ("TurnCompleted", 2)


async def test_a_reply_topic_of_ones_own(deployment: Deployment) -> None:
    """It has another number of partitions; the frames of a session are in one of them."""
    mine = f"{deployment.topics.replies}.mine"
    admin = KafkaAdminClient(bootstrap_servers=deployment.settings.bootstrap_server)
    try:
        admin.create_topics({mine: {"num_partitions": 5, "replication_factor": 1}}, wait_for_metadata=True)
        async with serving(deployment) as (_, wire), Wire(deployment, topic=mine) as own:
            for number in range(6):
                await wire.chat_json(f"web-{number}", "hello", request_id=f"r{number}", reply_to=mine)
            for number in range(6):
                await own.terminal(f"r{number}")
                frames = own.of(f"r{number}")
                assert {frame.record.partition for frame in frames} == {partition_of(b"web-%d" % number, 5)}
                assert [frame.kind for frame in frames][:2] == ["TurnAccepted", "TurnStarted"]
                assert wire.of(f"r{number}") == []

            later = f"{deployment.topics.replies}.later"
            admin.create_topics({later: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
            async with Wire(deployment, topic=later) as other:
                await wire.chat_json("web-1", "hello", request_id="later", reply_to=later)
                assert (await other.terminal("later")).kind == "TurnCompleted"
    finally:
        admin.close()


async def test_faust_s_own_command_line_serves_too(deployment: Deployment) -> None:
    argv = [sys.executable, "-m", "faust", "-A", "turnlog_workers.process.faust_app", "worker", "-l", "info"]
    process = deployment.run("faust", argv)
    async with deployment.wire() as wire:
        await wire.chat_json("web-1", "hello", request_id="r1")
        try:
            assert (await wire.terminal("r1")).kind == "TurnCompleted"
        except AssertionError as error:
            raise AssertionError(process.log[-3000:]) from error
    assert await asyncio.to_thread(process.stop) == 0, process.log[-3000:]


async def test_faust_does_not_warn_at_a_rebalance(deployment: Deployment) -> None:
    async with serving(deployment, log_format="json") as (worker, wire):
        await wire.chat_json("web-1", "hello", request_id="r1")
        await wire.terminal("r1")
        assert await asyncio.to_thread(worker.stop) == 0, worker.log[-3000:]
        said = [json.loads(line) for line in worker.log.splitlines()]
    assert any("generation 1" in line["message"] for line in said)
    of_faust = [line for line in said if line["logger"] == "turnlog_workers.process.faust_app"]
    assert [line for line in of_faust if line["level"] not in ("INFO", "DEBUG")] == []


async def test_two_workers_share_the_partitions(deployment: Deployment) -> None:
    """Each serves what the other does not, and both stores stay their own."""
    async with serving(deployment) as (_, wire):
        second = deployment.worker("w1")
        await eventually_async(lambda: asyncio.to_thread(lambda: second.ready), "the second worker is ready")
        for number in range(30):
            await wire.chat_json(f"web-{number}", "hello", request_id=f"r{number}")
        for number in range(30):
            await wire.terminal(f"r{number}")
        sources = {frame.headers["ce_source"] for frame in wire.frames}
        assert sources == {b"w0", b"w1"}
        owners: dict[int, set[bytes]] = {}
        for frame in wire.frames:
            owners.setdefault(frame.record.partition, set()).add(frame.headers["ce_source"])
        assert all(len(of_partition) == 1 for of_partition in owners.values())


async def test_more_requests_than_an_inbox_holds(deployment: Deployment) -> None:
    """What was not taken in is read from the topic itself: nothing is lost, nothing is out of order."""
    count, sessions = 600, 7
    async with deployment.wire() as wire:
        for number in range(count):
            await wire.chat_json(f"web-{number % sessions}", f"{number}", request_id=f"r{number}", model="echo:")
        worker = deployment.worker(max_inbox_requests="5", max_queued_turns_per_session="1000")
        for number in reversed(range(count)):
            await wire.terminal(f"r{number}")
        assert worker.running
        for session in range(sessions):
            events = await deployment.events_of(f"web-{session}")
            messages = [event.payload for event in events if isinstance(event.payload, MessageStored)]
            asked = [int(content_text(message.content) or "") for message in messages if message.role == "user"]
            assert asked == list(range(session, count, sessions))


async def test_the_group_commits_what_is_accepted(served: Served) -> None:
    deployment, _, wire = served
    sent = [await wire.chat_json(f"web-{number}", "hello", request_id=f"r{number}") for number in range(12)]
    for number in range(12):
        await wire.terminal(f"r{number}")
    wanted: dict[int, int] = {}
    for partition, offset in sent:
        wanted[partition] = max(wanted.get(partition, 0), offset + 1)

    async def committed() -> bool:  # what the sessions tell their channels are requests, too
        found = await committed_offsets(deployment)
        return all(found.get(partition, 0) >= offset for partition, offset in wanted.items())

    await eventually_async(committed, f"the group has committed {wanted}")


async def committed_offsets(deployment: Deployment) -> dict[int, int]:
    """What the group has committed, by partition."""

    def ask() -> dict[int, int]:
        admin = KafkaAdminClient(bootstrap_servers=deployment.settings.bootstrap_server)
        try:
            found = admin.list_group_offsets(deployment.settings.group_id)[deployment.settings.group_id]
        finally:
            admin.close()
        return {tp.partition: committed.offset for tp, committed in found.items()}

    return await asyncio.to_thread(ask)
