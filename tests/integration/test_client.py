"""The client against a real broker. Who answers is scripted: a small task that reads requests and writes frames."""

import asyncio
import contextlib
import gzip
import io
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from fastavro import schemaless_writer
from kafka import KafkaAdminClient

from tests import raw_batches
from tests.raw_batches import Raw
from tests.waiting import eventually
from turnlog import (
    BrokerUnreachableError,
    Client,
    NotFoundError,
    Position,
    ReplyFrame,
    RequestRefusedError,
    SessionBusyError,
    Settings,
    TurnlogError,
    TurnTimedOutError,
)
from turnlog.feed.feeding import run_feed
from turnlog.feed.plan import FeedOptions, plan_feed
from turnlog_schemas.codec import Codec, RequestCodec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.frames import (
    Frame,
    FrameHeader,
    MessageStored,
    RequestRefused,
    TextDelta,
    TurnAccepted,
    TurnCompleted,
    TurnStarted,
)
from turnlog_schemas.mapping import to_dict
from turnlog_schemas.parts import Usage, content_text, text_content
from turnlog_schemas.registry import FRAMES, derive, load
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import MIB
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_ports import free_port
from turnlog_workers.kafka import batch_codecs

PARTITIONS = 3


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A frame as the script says it."""

    frame: Frame
    epoch: int = 1
    attempt: int = 1
    seq: int = 0


@dataclass(frozen=True, kw_only=True)
class Received:
    """A request as it was on the wire."""

    header: RequestHeader
    command: Chat
    partition: int
    record: Any


Script = Callable[[Received, int], Iterable[Sent]]
"""From a request and how often it came before to its frames."""


def echo(request: Received, times: int) -> Iterable[Sent]:
    text = content_text(request.command.content) or ""
    return [
        Sent(frame=TurnAccepted(), attempt=0),
        Sent(frame=TurnStarted(model="echo:")),
        Sent(frame=TextDelta(text=text), seq=1),
        Sent(frame=MessageStored(message_seq=2, role="assistant", content=text_content(text)), seq=2),
        Sent(frame=TurnCompleted(text=text, usage=Usage()), seq=3),
    ]


@dataclass
class Responder:
    """Answers requests as its script says."""

    settings: Settings
    script: Script = echo
    json_frames: bool = False
    received: list[Received] = field(default_factory=list)
    producer: AIOKafkaProducer | None = None

    async def answer(self) -> None:
        topic = self.settings.topics.requests
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.bootstrap_server, auto_offset_reset="earliest")
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.bootstrap_server)
        await consumer.start()
        try:
            await producer.start()
            self.producer = producer
            consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
            async for record in consumer:
                header, command, _ = RequestCodec().decode_request(record.value)
                request = Received(header=header, command=command, partition=record.partition, record=record)
                times = [earlier.header.request_id for earlier in self.received].count(header.request_id)
                self.received.append(request)
                for sent in self.script(request, times):
                    await self.send(request, sent)
        finally:
            await producer.stop()
            await consumer.stop()

    async def send(self, request: Received, sent: Sent) -> None:
        header = FrameHeader(
            session_id=request.header.session_id or "",
            request_id=request.header.request_id or "",
            turn_id="t",
            attempt=sent.attempt,
            epoch=sent.epoch,
            frame_seq=sent.seq,
        )
        codec = Codec(FRAMES)
        value = codec.encode_json(header, sent.frame) if self.json_frames else codec.encode(header, sent.frame)
        await self.write(request.record.key, value)

    async def write(self, key: bytes, value: bytes) -> None:
        assert self.producer is not None
        partition = partition_of(key, PARTITIONS)
        await self.producer.send_and_wait(self.settings.topics.replies, value, key=key, partition=partition)


def make_topics(settings: Settings) -> None:
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_server)
    try:
        wanted = {"num_partitions": PARTITIONS, "replication_factor": 1}
        schemas = {"num_partitions": 1, "replication_factor": 1}
        topics = settings.topics
        admin.create_topics({topics.requests: wanted, topics.replies: wanted, topics.schemas: schemas})
    finally:
        admin.close()


@pytest.fixture
async def settings(broker: DevBroker) -> Settings:
    settings = Settings(bootstrap_server=broker.bootstrap_server, prefix=f"t{uuid.uuid4().hex[:8]}")
    await asyncio.to_thread(make_topics, settings)
    return settings


@contextlib.asynccontextmanager
async def answering(
    settings: Settings, script: Script = echo, *, json_frames: bool = False
) -> AsyncIterator[Responder]:
    responder = Responder(settings=settings, script=script, json_frames=json_frames)
    task = asyncio.create_task(responder.answer())
    try:
        yield responder
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_chat_streams_its_frames_and_ends_with_a_result(settings: Settings) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with answering(settings) as responder, Client(settings) as client:
        turn = client.chat("web-1", "Hello", request_id="r1", model="echo:", traceparent=trace)
        replies = [reply async for reply in turn]
        result = await turn.result()
        assert (result.status, result.text, result.request_id) == ("completed", "Hello", "r1")
        result.raise_for_status()
        assert [message.role for message in result.messages] == ["assistant"]
        sent = echo(responder.received[0], 0)
        assert [reply.frame for reply in replies] == [each.frame for each in sent]
        assert [reply.offset for reply in replies] == list(range(replies[0].offset, replies[0].offset + 5))

        request = responder.received[0]
        assert request.record.key == b"web-1"
        assert request.partition == partition_of(b"web-1", PARTITIONS)
        headers = dict(request.record.headers)
        assert headers["traceparent"] == trace.encode()
        assert headers["ce_type"] == b"turnlog.commands.Chat"
        assert headers["content-type"] == b"application/avro"


async def test_the_answer_to_the_very_first_request_is_never_missed(settings: Settings) -> None:
    async with answering(settings):
        for number in range(6):
            async with Client(settings) as client:
                result = await client.chat("web-1", str(number), resend_after_s=60).result(timeout_s=60)
                assert result.text == str(number)


async def test_many_turns_side_by_side_get_their_own_answers(settings: Settings) -> None:
    async with answering(settings), Client(settings) as client:
        turns = [client.chat(f"web-{number % 7}", f"text {number}") for number in range(60)]
        results = await asyncio.gather(*(turn.result(timeout_s=60) for turn in turns))
        assert [result.text for result in results] == [f"text {number}" for number in range(60)]


async def test_enqueue_says_where_the_request_is(settings: Settings) -> None:
    async with answering(settings), Client(settings) as client:
        sent = await client.enqueue("web-1", "Hello")
        again = await client.enqueue("web-1", "Hello", request_id=sent.request_id)
        assert sent.partition == again.partition == partition_of(b"web-1", PARTITIONS)
        assert again.offset == sent.offset + 1
        result = await client.chat("web-1", "Hello", request_id=sent.request_id).result(timeout_s=60)
        assert result.text == "Hello"


async def test_a_client_that_hears_nothing_sends_the_same_request_again(settings: Settings) -> None:
    def second_time(request: Received, times: int) -> Iterable[Sent]:
        return echo(request, times) if times == 2 else ()

    async with answering(settings, second_time) as responder, Client(settings) as client:
        turn = client.chat("web-1", "Hello", resend_after_s=0.1)
        assert (await turn.result(timeout_s=60)).text == "Hello"
        assert turn.resends >= 2
        assert len({request.record.value for request in responder.received}) == 1


async def test_silence_ends_at_the_timeout_with_what_to_check(settings: Settings) -> None:
    async with Client(settings) as client:
        with pytest.raises(TurnTimedOutError, match=r"nothing heard; sent once\. Is a worker running"):
            await client.chat("web-1", "Hello", timeout_s=0.3).result()


async def test_takeovers_duplicates_and_zombies(settings: Settings) -> None:
    def story(request: Received, times: int) -> Iterable[Sent]:
        start, first = Sent(frame=TurnStarted(model="m")), Sent(frame=TextDelta(text="half"), seq=1)
        yield from [Sent(frame=TurnAccepted(), attempt=0), start, first, first]
        yield Sent(frame=TurnStarted(model="m"), epoch=9, attempt=2)
        yield Sent(frame=TextDelta(text="zombie"), seq=2)
        yield Sent(frame=TextDelta(text="whole"), epoch=9, attempt=2, seq=1)
        yield start
        yield Sent(frame=TurnCompleted(text="whole", usage=Usage()), epoch=12, attempt=2)
        yield Sent(frame=TurnCompleted(text="whole", usage=Usage()), epoch=13, attempt=2)

    async with answering(settings, story), Client(settings) as client:
        turn = client.chat("web-1", "Hello")
        seen = [(reply.header.attempt, type(reply.frame).__name__) async for reply in turn]
        assert seen == [
            (0, "TurnAccepted"),
            (1, "TurnStarted"),
            (1, "TextDelta"),
            (2, "TurnStarted"),
            (2, "TextDelta"),
            (2, "TurnCompleted"),
        ]
        assert turn.view.text == "whole"


@pytest.mark.parametrize(("code", "error"), [("busy", SessionBusyError), ("archived", RequestRefusedError)])
async def test_a_refusal_is_an_error(settings: Settings, code: str, error: type[RequestRefusedError]) -> None:
    def refuse(request: Received, times: int) -> Iterable[Sent]:
        return [Sent(frame=RequestRefused(code=code, reason="not now"), attempt=0)]

    async with answering(settings, refuse), Client(settings) as client:
        with pytest.raises(error, match=rf"refused \({code}\): not now"):
            await client.chat("web-1", "Hello").result(timeout_s=60)


async def test_json_frames_and_frames_that_nobody_knows(settings: Settings) -> None:
    strange = [
        b"",
        b"\x00\x00\x00\x00\x01abc",
        b"\xc3\x01" + b"12345678" + b"a newer frame",
        b'{"session_id": "web-1", "request_id": "r1", "frame": {"type": "poll_opened"}}',
        b"{broken",
    ]
    async with answering(settings, json_frames=True) as responder, Client(settings) as client:
        await client.chat("web-1", "first").result(timeout_s=60)
        turn = client.chat("web-1", "Hello", request_id="r1")
        for value in strange:
            await responder.write(b"web-1", value)
        assert [type(reply.frame).__name__ async for reply in turn][-1] == "TurnCompleted"
        assert client.failure is None


async def test_records_that_cannot_be_parsed_are_passed_over(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's among the replies, before and behind a good one, in other partitions and in the same batch."""
    value = (
        b'{"session_id": "web-1", "request_id": "r0", "frame": {"type": "request_refused", "code": "c", "reason": ""}}'
    )
    good, bad = Raw(key=b"web-1", value=value), Raw(key=b"web-1", value=value, headers=[(b"caf\xe9", b"")])
    huge = raw_batches.record(0, Raw(key=b"web-1", value=bytes(MIB)))
    monkeypatch.setattr(batch_codecs, "MAX_BATCH_BYTES", MIB)
    strange = [
        raw_batches.batch([bad]),
        raw_batches.batch([bad, good, bad]),
        raw_batches.batch([good], attributes=1, payload=gzip.compress(huge)),
    ]
    async with answering(settings) as responder, Client(settings) as client:
        first_turn = client.chat("web-1", "first", request_id="r1")
        assert (await first_turn.result(timeout_s=60)).text == "first"
        home = partition_of(b"web-1", PARTITIONS)
        for partition in (home, (home + 1) % PARTITIONS):
            for data in strange:
                assert responder.producer is not None
                await raw_batches.produce(responder.producer, settings.topics.replies, partition, data)
        for text in ("second", "third"):
            assert (await client.chat("web-1", text).result(timeout_s=60)).text == text
        assert client.failure is None
        async with asyncio.timeout(30):
            seen = await first(client.follow("web-1", from_position="beginning"), 16)
        assert sum(reply.header.request_id == "r0" for reply in seen) == 1, (
            "and so does whoever begins at the beginning"
        )
    assert "ignored, the key of a header is not UTF-8" in caplog.text
    assert "ignored, the batch cannot be taken apart: it is larger than 1048576 bytes" in caplog.text
    assert "Hello" not in caplog.text


async def test_frames_of_a_newer_writer_are_read_by_its_published_schemas(settings: Settings) -> None:
    raw = derive(FRAMES, TurnCompleted)
    raw["fields"].append({"name": "mood", "type": "string", "default": ""})
    newer, frame = load(json.dumps(raw)), TurnCompleted(text="from the future", usage=Usage())

    def nobody(request: Received, times: int) -> Iterable[Sent]:
        return ()

    async with (
        answering(settings, nobody) as responder,
        Client(settings) as client,
        client.chat("web-1", "Hello", request_id="r1", resend_after_s=60) as turn,
    ):
        await eventually(lambda: responder.received, "the request")
        assert responder.producer is not None
        await responder.producer.send_and_wait(
            settings.topics.schemas, newer.text.encode(), key=newer.fingerprint.hex().encode()
        )
        buffer = io.BytesIO(b"\xc3\x01" + newer.fingerprint)
        buffer.seek(0, io.SEEK_END)
        header = to_dict(FrameHeader)(FrameHeader(session_id="web-1", request_id="r1"))
        schemaless_writer(buffer, newer.parsed, {**header, **to_dict(TurnCompleted)(frame), "mood": "fine"})
        await responder.write(b"web-1", buffer.getvalue())
        assert (await turn.result(timeout_s=60)).text == "from the future"


async def first(stream: AsyncGenerator[ReplyFrame, None], count: int) -> list[ReplyFrame]:
    """So many frames, then the stream is closed."""
    out: list[ReplyFrame] = []
    async with contextlib.aclosing(stream) as frames:
        async for frame in frames:
            out.append(frame)
            if len(out) == count:
                break
    return out


async def test_a_stream_is_taken_up_where_a_reader_left(settings: Settings) -> None:
    async with answering(settings), Client(settings) as client:
        for session, text in (("web-1", "one"), ("web-2", "other"), ("web-1", "two")):
            await client.chat(session, text, request_id=text).result(timeout_s=60)
        async with asyncio.timeout(30):
            whole = await first(client.follow("web-1", from_position="beginning"), 10)
            assert {reply.header.request_id for reply in whole} == {"one", "two"}
            rest = await first(client.follow("web-1", from_position=whole[3].position), 6)
            assert rest == whole[4:]
            two = [reply async for reply in client.follow("web-1", request_id="two", from_position="beginning")]
            assert two == whole[5:]
            everybody = await first(client.follow(from_position="beginning"), 15)
            assert {reply.header.session_id for reply in everybody} == {"web-1", "web-2"}

        gone = Position(partition=whole[0].partition, offset=whole[-1].offset + 1000)
        with pytest.raises(NotFoundError, match=r"is not there.*Read the session's history"):
            await first(client.follow("web-1", from_position=gone), 1)


async def test_following_from_now_on_and_with_duplicates(settings: Settings) -> None:
    def twice(request: Received, times: int) -> Iterable[Sent]:
        return [sent for sent in echo(request, times) for _ in range(2)]

    async with answering(settings, twice), Client(settings) as client, asyncio.timeout(30):
        await client.chat("web-1", "before").result()
        following = asyncio.ensure_future(first(client.follow("web-1"), 5))
        while not following.done():
            await client.chat("web-1", "now").result()
        assert all(reply.header.request_id != "before" for reply in following.result())
        raw = await first(client.follow("web-1", from_position="beginning", deduplicate=False), 10)
        assert [reply.frame for reply in raw[::2]] == [reply.frame for reply in raw[1::2]]


async def test_what_is_not_there_gets_a_sentence(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match=r"topic nothing\.replies does not exist.*turnlog topics init"):
        async with Client(settings, prefix="nothing"):
            pass
    port = free_port()
    with pytest.raises(BrokerUnreachableError, match=rf"no broker answers at 127.0.0.1:{port}.*turnlog up"):
        async with Client(settings, bootstrap_server=f"127.0.0.1:{port}"):
            pass


async def test_a_request_beyond_what_the_broker_takes_is_refused(settings: Settings) -> None:
    async with Client(settings) as client:
        with pytest.raises(RequestRefusedError, match=r"too_long.*1100\d\d\d bytes"):
            await client.chat("web-1", "x" * 1_100_000).result(timeout_s=60)


async def test_closing_the_client_ends_what_is_followed(settings: Settings) -> None:
    async with Client(settings) as client:
        turn = await client.chat("web-1", "Hello").__aenter__()
        waiting = asyncio.ensure_future(turn.result())
        await asyncio.sleep(0)
    with pytest.raises(TurnlogError, match="the client was closed"):
        await waiting


async def test_a_broker_that_is_killed_and_comes_back_is_no_error(tmp_path: Path) -> None:
    def quiet_at_first(request: Received, times: int) -> Iterable[Sent]:
        return echo(request, times) if request.header.request_id != "r1" or times else ()

    broker = DevBroker(tmp_path, preferred_port=None)
    await asyncio.to_thread(broker.start)
    try:
        settings = Settings(bootstrap_server=broker.bootstrap_server, prefix="t")
        await asyncio.to_thread(make_topics, settings)
        async with Client(settings) as client:
            async with answering(settings):
                await client.chat("web-1", "before").result(timeout_s=60)
            turn = client.chat("web-1", "Hello", request_id="r1", resend_after_s=1)
            async with turn:
                await asyncio.to_thread(broker.kill)
                await asyncio.to_thread(broker.start)
                async with answering(settings, quiet_at_first):
                    assert (await turn.result(timeout_s=40)).text == "Hello"
                    assert (await client.chat("web-1", "after").result(timeout_s=60)).text == "after"
    finally:
        await asyncio.to_thread(broker.stop)


async def test_feeding_twice_sends_the_same_requests(settings: Settings, tmp_path: Path) -> None:
    lines = [
        {"id": f"c{number}", "messages": [{"role": "user", "content": f"{number}.{turn}"} for turn in range(3)]}
        for number in range(8)
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    plan = await asyncio.to_thread(plan_feed, path, FeedOptions(concurrency=3))
    async with answering(settings) as responder:
        reports = [await run_feed(plan, settings) for _ in range(2)]
    assert [(report.exit_code, report.turns) for report in reports] == [(0, 24), (0, 24)]
    seen = [(request.header.request_id, request.command) for request in responder.received]
    assert len(seen) == 48
    assert len({request_id for request_id, _ in seen}) == 24
    assert sorted(seen[:24], key=lambda each: each[0] or "") == sorted(seen[24:], key=lambda each: each[0] or "")
    of_one = [content_text(command.content) for request_id, command in seen[:24] if "-c5-" in (request_id or "")]
    assert of_one == ["5.0", "5.1", "5.2"]
