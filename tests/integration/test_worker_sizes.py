"""Requests and answers that are too long, on a real broker: each is one failure, and the partition answers at once.

One worker takes all of them. At the end its partitions have been claimed once each: nothing was released.
"""

import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from tests.deployment import Deployment, Frame, Wire, eventually_async
from turnlog_schemas import commands as cmd
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.events import MessageStored, PartitionClaimed, RequestDeadLettered, RequestRefused
from turnlog_schemas.parts import ContentPart, NewSession
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options

PARTITIONS = 3
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def deployment(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("sizes")
    with Deployment(broker.bootstrap_server, folder, partitions=PARTITIONS) as deployment:
        deployment.make_topics()
        deployment.ready_worker()
        yield deployment


@pytest.fixture
async def wire(deployment: Deployment) -> AsyncIterator[Wire]:
    async with deployment.wire() as wire:
        yield wire


@pytest.fixture
async def packed(deployment: Deployment) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that compresses: what it sends is small on its way."""
    producer = AIOKafkaProducer(
        **client_options(deployment.settings, "test-packed"),
        acks="all",
        compression_type="gzip",
        max_request_size=64 * MIB,
        max_batch_size=64 * MIB,
    )
    await producer.start()
    yield producer
    await producer.stop()


_numbers = iter(range(1_000_000))


def new_id(what: str) -> str:
    return f"{what}-{next(_numbers)}"


async def goes_on(wire: Wire) -> None:
    """Every partition answers."""
    waiting = {}
    while len(waiting) < PARTITIONS:
        session_id = new_id("after")
        waiting.setdefault(partition_of(session_id.encode(), PARTITIONS), session_id)
    for session_id in waiting.values():
        await wire.chat_json(session_id, "still there?", request_id=f"r-{session_id}")
    for session_id in waiting.values():
        assert (await wire.terminal(f"r-{session_id}")).kind == "TurnCompleted"


async def send(
    deployment: Deployment, producer: AIOKafkaProducer, key: bytes | None, value: bytes, **more: Any
) -> tuple[int, int]:
    stored = await producer.send_and_wait(deployment.topics.requests, key=key, value=value, **more)
    return stored.partition, stored.offset


async def parked(deployment: Deployment, place: tuple[int, int]) -> tuple[Any, Mapping[str, bytes]]:
    """The dead letter of a request, once its event is there, too."""

    async def found() -> Any:
        for event in (await deployment.accepted())[place[0]]:
            if isinstance(event.payload, RequestDeadLettered) and event.payload.offset == place[1]:
                break
        else:
            return None
        for record in await deployment.dump(deployment.topics.dead_letters):
            headers = dict(record.headers)
            if (int(headers["x-turnlog-partition"]), int(headers["x-turnlog-offset"])) == place:
                return record, headers
        return None

    record, headers = await eventually_async(found, f"the dead letter of {place}")
    return record, headers


def too_long(frame: Frame) -> None:
    assert (frame.kind, frame.payload.code) == ("RequestRefused", "too_long"), frame.payload


# ---- the record as a whole


@pytest.mark.parametrize("keyed", [True, False])
async def test_garbage_that_is_small_on_its_way(
    deployment: Deployment, wire: Wire, packed: AIOKafkaProducer, keyed: bool
) -> None:
    value = b"\x07" * 9 * MIB
    place = await send(deployment, packed, b"web-1" if keyed else None, value, partition=0)
    record, headers = await parked(deployment, place)
    assert 0 < len(record.value) < 2 * MIB
    assert value.startswith(record.value)
    assert headers["x-turnlog-code"] == b"too_long"
    assert headers["x-turnlog-truncated"] == b"value"
    assert int(headers["x-turnlog-original-bytes"]) >= len(value)
    await goes_on(wire)


@pytest.mark.parametrize("framing", ["json", "avro"])
@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("away", [0, 1])
async def test_a_long_text_that_is_small_on_its_way(
    deployment: Deployment, wire: Wire, packed: AIOKafkaProducer, keyed: bool, away: int, framing: str
) -> None:
    session_id, request_id = new_id("web"), new_id("r")
    value = chat_of(framing, session_id, request_id, "x" * 3 * MIB)
    partition = (partition_of(session_id.encode(), PARTITIONS) + away) % PARTITIONS
    place = await send(deployment, packed, session_id.encode() if keyed else None, value, partition=partition)
    refused = await wire.terminal(request_id)
    too_long(refused)
    assert refused.is_json == (framing == "json")
    assert refused.record.partition == partition_of(session_id.encode(), PARTITIONS)
    if away:
        await parked(deployment, place)
    else:
        assert [type(event.payload) for event in await deployment.events_of(session_id)] == [RequestRefused]
    await goes_on(wire)


def chat_of(framing: str, session_id: str, request_id: str | None, text: str) -> bytes:
    if framing == "json":
        body = {"session_id": session_id, "request_id": request_id, "command": {"type": "chat", "text": text}}
        return json.dumps(body).encode()
    header = cmd.RequestHeader(session_id=session_id, request_id=request_id)
    return RequestCodec().encode(header, cmd.Chat(content=(ContentPart(text=text),)))


async def test_one_that_is_too_long_only_to_be_sent_on(
    deployment: Deployment, wire: Wire, packed: AIOKafkaProducer
) -> None:
    """It fits as it came, compressed; its new place needs it whole, and with an id."""
    session_id = new_id("web")
    wrong = (partition_of(session_id.encode(), PARTITIONS) + 1) % PARTITIONS
    value = chat_of("avro", session_id, None, "")
    value = chat_of("avro", session_id, None, "x" * (MIB - len(value) - 4))
    place = await send(deployment, packed, None, value, partition=wrong)
    record, headers = await parked(deployment, place)
    assert record.value == value
    assert headers["x-turnlog-code"] == b"too_long"
    too_long(await wire.terminal(f"{deployment.topics.requests}-{wrong}-{place[1]}"))
    await goes_on(wire)


HEADERS: dict[str, list[tuple[str, Any]]] = {
    "one of 500 KB": [("x-big", b"h" * 500_000)],
    "200": [(f"x-{n}", b"h" * 100) for n in range(200)],
    "without a value": [("ce_source", None), ("traceparent", None), ("x", None)],
    "20,000": [(f"x-{n}", b"") for n in range(20_000)],
}


@pytest.mark.parametrize("name", HEADERS)
async def test_headers(deployment: Deployment, wire: Wire, packed: AIOKafkaProducer, name: str) -> None:
    """Of a request that is answered, of one that is sent on, and of a dead letter."""
    session_id = new_id("web")
    home = partition_of(session_id.encode(), PARTITIONS)
    for partition in (home, (home + 1) % PARTITIONS):
        request_id = new_id("r")
        value = chat_of("json", session_id, request_id, "Hi")
        await send(deployment, packed, session_id.encode(), value, partition=partition, headers=HEADERS[name])
        assert (await wire.terminal(request_id)).kind == "TurnCompleted"
    garbage = random.Random(5).randbytes(300_000)
    place = await send(deployment, packed, b"web-1", garbage, partition=home, headers=HEADERS[name])
    record, headers = await parked(deployment, place)
    assert record.value == garbage
    assert set(dict(HEADERS[name])) <= set(headers)
    await goes_on(wire)


# ---- fields


INSTRUCTIONS = NewSession(instructions="Be brief. " * 150_000)
ABOVE = {
    "create": cmd.CreateSession(new_session=INSTRUCTIONS),
    "resolve": cmd.ResolveSession(new_session=INSTRUCTIONS),
    "rotate": cmd.RotateSession(new_session=INSTRUCTIONS),
    "a chat's session": cmd.Chat(content=(ContentPart(text="Hi"),), new_session=INSTRUCTIONS),
    "600 KB of them": cmd.CreateSession(new_session=NewSession(instructions="x" * 600_000)),
    "metadata": cmd.CreateSession(new_session=NewSession(metadata={"a": "b" * 900_000})),
    "10,000 entries": cmd.CreateSession(new_session=NewSession(metadata={f"{n}": "" for n in range(10_000)})),
    "title": cmd.CreateSession(new_session=NewSession(title="t" * 900_000)),
    "model": cmd.Chat(content=(ContentPart(text="Hi"),), model="echo:" + "m" * 900_000),
    "text": cmd.Chat(content=(ContentPart(text="x" * 900_000),)),
    "a part's media_type": cmd.Chat(content=(ContentPart(kind="file_ref", media_type="x" * 900_000),)),
    "100,000 parts": cmd.Chat(content=(ContentPart(text="x"),) * 100_000),
    "turn_id": cmd.CancelTurn(turn_id="t" * 900_000),
    "instructions of a summary": cmd.CompactHistory(instructions="x" * 900_000),
}


@pytest.mark.parametrize("name", ABOVE)
async def test_a_field_above_its_bound(deployment: Deployment, wire: Wire, packed: AIOKafkaProducer, name: str) -> None:
    request_id, session_id, channel = new_id("r"), new_id("web"), new_id("c")
    of_channel = isinstance(ABOVE[name], cmd.CHANNEL_COMMANDS)
    header = cmd.RequestHeader(
        request_id=request_id, session_id=None if of_channel else session_id, channel=channel if of_channel else None
    )
    key = channel if of_channel else session_id
    if name == "instructions of a summary":
        await wire.chat_json(session_id, "Hi", request_id=f"first-{request_id}")
        await wire.terminal(f"first-{request_id}")
    await send(deployment, packed, key.encode(), RequestCodec().encode(header, ABOVE[name]))
    too_long(await wire.terminal(request_id))
    await goes_on(wire)


FITTING = {
    "4,000 parts": cmd.Chat(content=(ContentPart(text="x"),) * 4000),
    "the longest text, all of it control characters": cmd.Chat(content=(ContentPart(text="\x01" * 256 * 1024),)),
    "the longest of a session": cmd.Chat(
        content=(ContentPart(text="x" * 256 * 1024),),
        new_session=NewSession(
            title="\x01" * 1024,
            instructions="\x01" * 256 * 1024,
            metadata={f"{n:03}": "\x01" * 252 for n in range(256)},
        ),
    ),
}


@pytest.mark.parametrize("framing", ["json", "avro"])
@pytest.mark.parametrize("name", FITTING)
async def test_what_is_within_its_bounds_is_answered(
    deployment: Deployment, wire: Wire, packed: AIOKafkaProducer, name: str, framing: str
) -> None:
    """Its channel hears of it, too, by a request of our own."""
    codec = RequestCodec()
    request_id, session_id = new_id("r"), new_id("web")
    header = cmd.RequestHeader(request_id=request_id, session_id=session_id)
    chat = replace(FITTING[name], new_session=replace(FITTING[name].new_session or NewSession(), channel=session_id))
    value = codec.encode(header, chat)
    packed_json = json.dumps(codec.to_json(header, chat), ensure_ascii=False).encode()
    if framing == "json" and len(packed_json) < MIB:
        value = packed_json
    await send(deployment, packed, session_id.encode(), value)
    done = await wire.terminal(request_id)
    assert done.kind == "TurnCompleted"
    await ask(wire, session_id, "get_session")
    history = await ask(wire, session_id, "get_history")
    assert history.payload.messages[0].content == FITTING[name].content
    await ask(wire, session_id, "active_session")
    await goes_on(wire)


async def ask(wire: Wire, subject: str, kind: str, **fields: Any) -> Frame:
    request_id = new_id("ask")
    key = "channel" if kind == "active_session" else "session_id"
    body = {key: subject, "request_id": request_id, "command": {"type": kind} | fields}
    await wire.produce(subject.encode(), json.dumps(body).encode())
    answer = await wire.terminal(request_id)
    assert answer.kind in ("SessionInfo", "HistoryPage"), answer.payload
    return answer


# ---- pages


@pytest.mark.parametrize("framing", ["json", "avro"])
@pytest.mark.parametrize("character", ["x", "\x01"], ids=["letters", "control characters"])
async def test_every_page_of_a_long_history_fits(
    deployment: Deployment, wire: Wire, framing: str, character: str
) -> None:
    session_id = new_id("web")
    for number in range(6):
        text = f"{number} " + character * (150_000 if character == "x" else 100_000)
        await wire.chat_json(session_id, text, request_id=f"{session_id}-{number}")
    for number in range(6):
        assert (await wire.terminal(f"{session_id}-{number}")).kind == "TurnCompleted"
    pages, after = [], 0
    while True:
        request_id = new_id("page")
        header = cmd.RequestHeader(request_id=request_id, session_id=session_id)
        codec, command = RequestCodec(), cmd.GetHistory(after=after)
        value = codec.encode(header, command) if framing == "avro" else codec.encode_json(header, command)
        await wire.produce(session_id.encode(), value)
        page = await wire.terminal(request_id)
        assert len(page.record.value) < MIB
        pages.append(page.payload)
        if page.payload.next_after is None:
            break
        after = page.payload.next_after
    messages = [message for page in pages for message in page.messages]
    stored = [event.payload for event in await deployment.events_of(session_id)]
    assert [message.content for message in messages] == [
        event.content for event in stored if isinstance(event, MessageStored)
    ]
    assert len(pages) > 1


async def test_nothing_of_all_this_released_a_partition(deployment: Deployment) -> None:
    for events in (await deployment.accepted()).values():
        assert len([event for event in events if isinstance(event.payload, PartitionClaimed)]) == 1
    (worker,) = deployment.processes
    assert worker.running
    assert "Traceback" not in worker.log
    assert "released" not in worker.log


# ---- an operator lowers what topics take


@pytest.fixture
def lowered(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    """One partition: whatever disturbs it, disturbs everybody."""
    with Deployment(broker.bootstrap_server, tmp_path, partitions=1) as deployment:
        deployment.make_topics()
        yield deployment


async def test_an_event_log_that_takes_little(lowered: Deployment) -> None:
    """Hundreds of decisions wait, so their groups are far too long; two alone are, and they fail alone."""
    lowered.limit_topic(lowered.topics.events, 20_000)
    async with lowered.wire() as wire:
        for number in range(300):
            text = "x" * (30_000 if number == 150 else 300)
            await wire.chat_json(f"web-{number}", text, request_id=f"r{number}")
        talkative = "script:long?words=8000&tools=0&delta_ms=0"
        await wire.chat_json("talkative", "Talk", request_id="talk", model=talkative)
        lowered.worker()
        for number in range(300):
            done = await wire.terminal(f"r{number}")
            if number == 150:
                too_long(done)
            else:
                assert (done.kind, done.header.attempt) == ("TurnCompleted", 1)
        assert (await wire.terminal("talk")).kind == "TurnFailed"
        await wire.chat_json("talkative", "And now?", request_id="after")
        assert (await wire.terminal("after")).kind == "TurnCompleted"
    one_claim(lowered)


async def test_dead_letters_that_take_little(lowered: Deployment) -> None:
    lowered.ready_worker()
    async with lowered.wire() as wire:
        for limit, kept in ((40_000, 4 * 1024), (2_000, 512), (200, 0)):
            lowered.limit_topic(lowered.topics.dead_letters, limit)
            place = await wire.produce(b"web-1", random.Random(3).randbytes(200_000))

            async def event(place: tuple[int, int] = place) -> bool:
                events = (await lowered.accepted())[0]
                return any(isinstance(e.payload, RequestDeadLettered) and e.payload.offset == place[1] for e in events)

            await eventually_async(event, "its event is there")
            letters = [
                record
                for record in await lowered.dump(lowered.topics.dead_letters)
                if dict(record.headers)["x-turnlog-offset"] == str(place[1]).encode()
            ]
            assert [len(record.value) > kept // 2 for record in letters] == ([True] if kept else [])
            await wire.chat_json("web-1", "still there?", request_id=f"after-{limit}")
            assert (await wire.terminal(f"after-{limit}")).kind == "TurnCompleted"
    one_claim(lowered)


async def test_requests_that_take_little(broker: DevBroker, tmp_path: Path) -> None:
    """Small on its way to the wrong partition, too long for the right one: its sender hears of it."""
    with Deployment(broker.bootstrap_server, tmp_path, partitions=2) as deployment:
        deployment.make_topics()
        deployment.ready_worker()
        topic = deployment.topics.requests
        deployment.limit_topic(topic, 2_000)
        wrong = 1 - partition_of(b"web-1", 2)
        async with (
            deployment.wire() as wire,
            AIOKafkaProducer(**client_options(deployment.settings, "test-gzip"), compression_type="gzip") as packed,
        ):
            body = {"session_id": "web-1", "request_id": "long", "command": {"type": "chat", "text": "abcd " * 1200}}
            await packed.send_and_wait(topic, json.dumps(body).encode(), key=b"web-1", partition=wrong)
            done = await wire.terminal("long")
            assert (done.kind, done.payload.code) == ("RequestRefused", "too_long")
            body["request_id"], body["command"] = "short", {"type": "chat", "text": "abcd"}
            await packed.send_and_wait(topic, json.dumps(body).encode(), key=b"web-1", partition=wrong)
            assert (await wire.terminal("short")).kind == "TurnCompleted"


async def test_replies_that_take_little(lowered: Deployment) -> None:
    lowered.limit_topic(lowered.topics.replies, 100_000)
    lowered.ready_worker()
    async with lowered.wire() as wire:
        text = "y" * 200_000
        await wire.chat_json("web-1", text, request_id="long")
        for number in range(20):
            await wire.chat_json(f"other-{number}", "Hi", request_id=f"r{number}")
        cut = await wire.terminal("long")
        assert (cut.kind, cut.payload.truncated) == ("TurnCompleted", True)
        assert text.startswith(cut.payload.text)
        assert cut.payload.text
        for number in range(20):
            assert (await wire.terminal(f"r{number}")).kind == "TurnCompleted"
        page = await wire_ask(wire, "web-1", "get_history")
        assert (page.kind, page.payload.code) == ("RequestRefused", "answer_too_long")
        await wire.chat_json("web-2", "z" * 50_000, request_id="short")
        assert (await wire.terminal("short")).payload.truncated is False
        page = await wire_ask(wire, "web-2", "get_history")
        assert page.kind == "HistoryPage"
        assert [message.message_seq for message in page.payload.messages] == [1]
        assert page.payload.next_after == 1
    one_claim(lowered)


async def wire_ask(wire: Wire, session_id: str, kind: str) -> Frame:
    request_id = new_id("ask")
    body = {"session_id": session_id, "request_id": request_id, "command": {"type": kind}}
    await wire.produce(session_id.encode(), json.dumps(body).encode())
    return await wire.terminal(request_id)


def one_claim(deployment: Deployment) -> None:
    (worker,) = deployment.processes
    assert worker.running
    assert worker.log.count("serving from request") == 1
    assert "Traceback" not in worker.log
    assert "released" not in worker.log
