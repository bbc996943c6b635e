"""Bad requests on a real broker: each gets its refusal or its dead letter, and the partition goes on."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

from tests.deployment import Deployment, Wire, eventually_async
from tests.waiting import eventually
from turnlog.cli.app import app
from turnlog_schemas.codec import RequestCodec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.events import RequestDeadLettered, RequestRefused, TurnAccepted
from turnlog_schemas.parts import text_content
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import RequestRecord
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.dead_letters import SIZES, dead_letter

PARTITIONS = 3


@pytest.fixture(scope="module")
def deployment(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One worker for all of them: a bad request that harms it fails the tests after it, too."""
    folder = tmp_path_factory.mktemp("bad-input")
    with Deployment(broker.bootstrap_server, folder, partitions=PARTITIONS) as deployment:
        deployment.make_topics()
        deployment.ready_worker(max_text_bytes="20000")
        yield deployment


@pytest.fixture
async def wire(deployment: Deployment) -> AsyncIterator[Wire]:
    async with deployment.wire() as wire:
        yield wire


_numbers = iter(range(1_000_000))


def new_id(what: str) -> str:
    return f"{what}-{next(_numbers)}"


async def goes_on(wire: Wire, partition: int) -> None:
    """The partition still answers."""
    session_id = next(
        session_id
        for session_id in (new_id("after") for _ in range(1000))
        if partition_of(session_id.encode(), PARTITIONS) == partition
    )
    request_id = new_id("after")
    await wire.chat_json(session_id, "still there?", request_id=request_id)
    assert (await wire.terminal(request_id)).kind == "TurnCompleted"


def chat(**fields: Any) -> dict[str, Any]:
    return {"command": {"type": "chat", "text": "hello", **fields}}


REFUSED = {
    "empty text": (chat(text=""), "empty_text"),
    "blank text": (chat(text=" \n\t"), "empty_text"),
    "no text": ({"command": {"type": "chat"}}, "empty_text"),
    "text of another type": (chat(text=5), "invalid_command"),
    "no command": ({}, "invalid_command"),
    "a command of another type": ({"command": "chat"}, "invalid_command"),
    "unknown command": ({"command": {"type": "dance"}}, "unknown_command"),
    "a command without a type": ({"command": {"text": "x"}}, "unknown_command"),
    "unknown field of the command": (chat(colour="red"), "invalid_command"),
    "unknown common field": ({**chat(), "colour": "red"}, "invalid_command"),
    "wrong type of a common field": ({**chat(), "metadata": {"a": 1}}, "invalid_command"),
    "unknown on_busy": (chat(on_busy="hurry"), "invalid_command"),
    "a lone surrogate": (chat(text="\ud800"), "invalid_command"),
    "a part that is no text": (
        {"command": {"type": "chat", "content": [{"kind": "file_ref", "uri": "x"}]}},
        "invalid_command",
    ),
    "too long": (chat(text="x" * 20_001), "too_long"),
    "a model that is not allowed": (chat(model="anthropic:best"), "model_not_allowed"),
    "a reply topic outside the prefix": ({**chat(), "reply_to": "elsewhere"}, "reply_topic"),
    "a reply topic that is not there": ({**chat(), "reply_to": "{replies}.nowhere"}, "reply_topic"),
    "the event log as reply topic": ({**chat(), "reply_to": "{events}"}, "reply_topic"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_be_read_is_refused(deployment: Deployment, wire: Wire, name: str) -> None:
    body, code = REFUSED[name]
    session_id, request_id = new_id("web"), new_id("r")
    body = {"session_id": session_id, "request_id": request_id, **body}
    if "reply_to" in body:
        topics = deployment.topics
        body["reply_to"] = body["reply_to"].format(replies=topics.replies, events=topics.events)
    partition, _ = await wire.produce(session_id.encode(), json.dumps(body).encode())
    refused = await wire.terminal(request_id)
    assert (refused.kind, refused.payload.code) == ("RequestRefused", code)
    assert refused.payload.reason
    assert refused.is_json
    assert refused.record.topic == deployment.topics.replies
    events = await deployment.events_of(session_id)
    assert [type(event.payload) for event in events] == [RequestRefused]
    assert events[0].payload.request_id == request_id
    await wire.produce(session_id.encode(), json.dumps(body).encode())
    again = await wire.terminal(request_id, count=2)
    assert again.payload == refused.payload
    assert len(await deployment.events_of(session_id)) == 1
    await goes_on(wire, partition)


async def test_a_wrong_request_id_is_refused_under_its_place(deployment: Deployment, wire: Wire) -> None:
    session_id = new_id("web")
    for wrong in (7, "", "x" * 257):
        value = json.dumps({"session_id": session_id, "request_id": wrong, **chat()}).encode()
        partition, offset = await wire.produce(session_id.encode(), value)
        refused = await wire.terminal(wrong if wrong and wrong != 7 else place(deployment, partition, offset))
        assert (refused.kind, refused.payload.code) == ("RequestRefused", "invalid_command")
    await goes_on(wire, partition)


def place(deployment: Deployment, partition: int, offset: int) -> str:
    return f"{deployment.topics.requests}-{partition}-{offset}"


def avro(session_id: str, text: str = "hello") -> bytes:
    return RequestCodec().encode(RequestHeader(session_id=session_id), Chat(content=text_content(text)))


UNREADABLE = {
    "random bytes": (random.Random(1).randbytes(200), "undecodable"),
    "nothing": (None, "undecodable"),
    "no bytes": (b"", "undecodable"),
    "truncated Avro": (avro("web-1")[:-3], "undecodable"),
    "Avro and more": (avro("web-1") + b"x", "undecodable"),
    "unknown fingerprint": (b"\xc3\x01" + b"12345678" + avro("web-1")[10:], "unknown_fingerprint"),
    "Confluent framing": (b"\x00\x00\x00\x00\x07" + avro("web-1")[10:], "undecodable"),
    "broken JSON": (b'{"session_id": "web-1", ', "undecodable"),
    "JSON that is not UTF-8": (b'{"session_id": "\xff\xfe"}', "undecodable"),
    "deeply nested": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "undecodable"),
    "no id": (json.dumps(chat()).encode(), "undecodable"),
    "an id that is none": (json.dumps({"session_id": "a b", **chat()}).encode(), "undecodable"),
    "an id of another type": (json.dumps({"session_id": 7, **chat()}).encode(), "undecodable"),
    "a key that is not the id": (json.dumps({"session_id": "web-1", **chat()}).encode(), "key_mismatch"),
    "the largest that a broker takes": (random.Random(2).randbytes(1024 * 1024 - 2000), "undecodable"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_cannot_be_read_is_parked(deployment: Deployment, wire: Wire, name: str) -> None:
    value, code = UNREADABLE[name]
    key = new_id("key").encode()
    partition, offset = await wire.produce(key, value, headers={"x-mine": b"1"})

    async def parked() -> Any:
        for record in await deployment.dump(deployment.topics.dead_letters):
            headers = dict(record.headers)
            if "x-turnlog-mark" in headers:
                continue  # what an operator did with one
            place = int(headers["x-turnlog-partition"]), int(headers["x-turnlog-offset"])
            if place == (partition, offset):
                return record, headers
        return None

    record, headers = await eventually_async(parked, f"the dead letter of {name}")
    assert (record.key, record.value or b"") == (key, value or b"")
    assert headers["x-turnlog-topic"] == deployment.topics.requests.encode()
    assert headers["x-turnlog-code"] == code.encode()
    assert headers["x-turnlog-reason"]
    assert headers["x-mine"] == b"1"
    await goes_on(wire, partition)
    letters = [
        event.payload
        for event in (await deployment.accepted())[partition]
        if isinstance(event.payload, RequestDeadLettered) and event.payload.offset == offset
    ]
    assert [letter.code for letter in letters] == [code]


async def test_a_record_on_the_wrong_partition_is_sent_on(deployment: Deployment, wire: Wire) -> None:
    """Its place was its identity: it is written down before the place changes."""
    session_id = new_id("web")
    right = partition_of(session_id.encode(), PARTITIONS)
    wrong = (right + 1) % PARTITIONS
    body = {"session_id": session_id, **chat()}
    _, offset = await wire.produce(session_id.encode(), json.dumps(body).encode(), partition=wrong)
    json_id = place(deployment, wrong, offset)
    done = await wire.terminal(json_id)
    assert (done.kind, done.record.partition, done.is_json) == ("TurnCompleted", right, True)
    _, offset = await wire.produce(session_id.encode(), avro(session_id), partition=wrong)
    avro_id = place(deployment, wrong, offset)
    done = await wire.terminal(avro_id)
    assert (done.kind, done.record.partition, done.is_json) == ("TurnCompleted", right, False)

    named = new_id("r")
    body["request_id"] = named
    for partition in (wrong, right):
        await wire.produce(session_id.encode(), json.dumps(body).encode(), partition=partition)
        await wire.terminal(named, count=1 if partition == wrong else 2)
    accepted = [e.payload for e in await deployment.events_of(session_id) if isinstance(e.payload, TurnAccepted)]
    assert [event.request_id for event in accepted] == [json_id, avro_id, named]
    everywhere = await deployment.accepted()
    assert not [event for event in everywhere[wrong] if event.header.stream_id == session_id]
    await goes_on(wire, wrong)


async def test_a_record_without_a_key_finds_its_session(deployment: Deployment, wire: Wire) -> None:
    session_id = new_id("web")
    right = partition_of(session_id.encode(), PARTITIONS)
    for partition in range(PARTITIONS):
        request_id = new_id("r")
        body = {"session_id": session_id, "request_id": request_id, **chat()}
        await wire.produce(None, json.dumps(body).encode(), partition=partition)
        done = await wire.terminal(request_id)
        assert (done.kind, done.record.partition) == ("TurnCompleted", right)


async def test_a_refused_wrong_placed_request_is_answered_once(deployment: Deployment, wire: Wire) -> None:
    """What cannot be read as a command cannot be given an id: it is refused where it belongs, by its bytes."""
    session_id = new_id("web")
    right = partition_of(session_id.encode(), PARTITIONS)
    body = {"session_id": session_id, "request_id": new_id("r"), "command": {"type": "dance"}}
    await wire.produce(session_id.encode(), json.dumps(body).encode(), partition=(right + 1) % PARTITIONS)
    refused = await wire.terminal(body["request_id"])
    assert (refused.payload.code, refused.record.partition) == ("unknown_command", right)


async def test_busy_sessions(deployment: Deployment, wire: Wire) -> None:
    session_id, first = new_id("web"), new_id("r")
    await wire.chat_json(session_id, "go", request_id=first, model="script:s?hang_s=3&hang_at=start&words=1")
    await wire.wait_for(first, "TurnStarted")
    refused = new_id("r")
    await wire.chat_json(session_id, "now!", request_id=refused, on_busy="reject")
    assert (await wire.terminal(refused)).payload.code == "busy"
    waiting = new_id("r")
    await wire.chat_json(session_id, "later", request_id=waiting)
    accepted = await wire.wait_for(waiting, "TurnAccepted")
    assert accepted.payload.queued_turns == 1
    await goes_on(wire, partition_of(session_id.encode(), PARTITIONS))  # long before the slow one ends
    assert not [frame for frame in wire.of(first) if frame.terminal]
    assert (await wire.terminal(first)).kind == (await wire.terminal(waiting)).kind == "TurnCompleted"


async def test_the_worker_has_survived_it_all(deployment: Deployment) -> None:
    (worker,) = deployment.processes
    await eventually(lambda: worker.running, "the worker runs")
    assert "Traceback" not in worker.log


# ---- what an operator makes of dead letters


async def turnlog(deployment: Deployment, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, documents and what is said beside them, of ``turnlog dead-letters ARGUMENTS --json``."""
    settings = deployment.settings
    where = ("--bootstrap-server", settings.bootstrap_server, "--prefix", settings.prefix)
    command = ["dead-letters", *arguments, "--json", *where]
    done = await asyncio.to_thread(CliRunner().invoke, app, command)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


async def park(deployment: Deployment, request: RequestRecord, *, limit_bytes: int = SIZES[0]) -> str:
    """Park a request as a worker does that cannot decide it, for once; the letter's id."""
    topics = deployment.topics
    key, value, headers = dead_letter(request, topics.requests, "undecidable", "a defect", limit_bytes=limit_bytes)
    producer = AIOKafkaProducer(**client_options(deployment.settings, "test-parking"), acks="all")
    async with producer:
        await producer.send_and_wait(topics.dead_letters, key=key, value=value, headers=list(headers), partition=0)
    return f"{request.partition}@{request.offset}"


async def test_a_dead_letter_that_is_redriven_twice_is_one_turn(deployment: Deployment, wire: Wire) -> None:
    session_id = new_id("redriven")
    body = json.dumps({"session_id": session_id, **chat()}).encode()
    place = 900_000 + len(session_id)
    request = RequestRecord(partition=0, offset=place, key=session_id.encode(), value=body)
    whole = await park(deployment, request)
    cut = await park(deployment, replace(request, offset=place + 1, value=b"x" * 5_000), limit_bytes=SIZES[-1])
    garbage = await park(deployment, replace(request, offset=place + 2, value=b"garbage"))

    code, waiting, _ = await turnlog(deployment, "list", "--session", session_id, "--limit", "0")
    assert (code, [each["id"] for each in waiting]) == (0, [whole, cut, garbage])
    assert {(each["state"], each["code"]) for each in waiting} == {("waiting", "undecidable")}

    request_id = f"{deployment.topics.requests}-0-{place}"
    for count in (1, 2):
        code, (sent,), _ = await turnlog(deployment, "redrive", whole)
        assert (code, sent["request_id"]) == (0, request_id)
        answer = await wire.terminal(request_id, count=count)
        assert answer.kind == "TurnCompleted"
    events = await deployment.events_of(session_id)
    assert [type(event.payload) for event in events].count(TurnAccepted) == 1

    code, refused, _ = await turnlog(deployment, "redrive", "--session", session_id)
    assert (code, [(each["id"], each["done"]) for each in refused]) == (5, [(cut, False), (garbage, False)])
    code, discarded, _ = await turnlog(deployment, "discard", garbage)
    assert (code, [each["id"] for each in discarded]) == (0, [garbage])
    _, waiting, _ = await turnlog(deployment, "list", "--session", session_id)
    assert [each["id"] for each in waiting] == [cut]
    _, every, _ = await turnlog(deployment, "list", "--session", session_id, "--all")
    assert [each["state"] for each in every] == ["redriven", "waiting", "discarded"]
    assert every[0]["sent_to"] == sent["sent_to"]

    code, (shown,), _ = await turnlog(deployment, "show", whole)
    assert (code, shown["value"], shown["key"], shown["state"]) == (0, body.decode(), session_id, "redriven")
    for arguments, expected in ((("show", "0@1"), 4), (("redrive", "0@1"), 4), (("redrive",), 2), (("show", "x"), 2)):
        code, _, said = await turnlog(deployment, *arguments)
        assert code == expected, said
