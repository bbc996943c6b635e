"""What carries a client's requests out and its frames in: the connection on Kafka, and the fake of the unit tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from aiokafka import AIOKafkaProducer

from tests.deployment import Deployment
from tests.fake_line import PARTITIONS, FakeLine
from tests.waiting import eventually
from turnlog.client.connection import Connection
from turnlog.client.exchange import Exchange, Line
from turnlog.client.replies import ReplyFrame
from turnlog.client.request_sender import PreparedRequest
from turnlog.errors import BrokerUnreachableError, RequestRefusedError, TurnlogError
from turnlog_schemas.codec import Codec
from turnlog_schemas.frames import Frame, FrameHeader, TextDelta, TurnCompleted
from turnlog_schemas.parts import Usage
from turnlog_schemas.registry import FRAMES
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options

DONE = TurnCompleted(text="done", usage=Usage())
_FRAMES = Codec(FRAMES)


class ClosableLine(Line, Protocol):
    async def close(self) -> None: ...


class Side(Protocol):
    """A line, and the other end of it."""

    line: ClosableLine

    async def arrive(self, key: str, request_id: str, *frames: Frame, framing: str = "avro") -> None:
        """Frames with this key are in the reply topic."""
        ...


class FakeSide:
    def __init__(self) -> None:
        self.fake = FakeLine()
        self.line: ClosableLine = self.fake

    async def arrive(self, key: str, request_id: str, *frames: Frame, framing: str = "avro") -> None:
        for frame in frames:
            self.fake.arrive(key, ReplyFrame(header=header_of(key, request_id), frame=frame, partition=0, offset=0))


class KafkaSide:
    def __init__(self, deployment: Deployment, connection: Connection, producer: AIOKafkaProducer) -> None:
        self.line: ClosableLine = connection
        self._topic = deployment.topics.replies
        self._producer = producer

    async def arrive(self, key: str, request_id: str, *frames: Frame, framing: str = "avro") -> None:
        encode = _FRAMES.encode_json if framing == "json" else _FRAMES.encode
        for frame in frames:
            value = encode(header_of(key, request_id), frame)
            partition = partition_of(key.encode(), PARTITIONS)
            await self._producer.send_and_wait(self._topic, value, key=key.encode(), partition=partition)


@asynccontextmanager
async def on_kafka(deployment: Deployment) -> AsyncIterator[KafkaSide]:
    connection = Connection(
        deployment.settings, client_id="test-line", connect_timeout_s=20.0, send_timeout_s=20.0, resend_after_s=20.0
    )
    async with AIOKafkaProducer(**client_options(deployment.settings, "test-line")) as producer:
        await connection.open()
        try:
            yield KafkaSide(deployment, connection, producer)
        finally:
            await connection.close()


@asynccontextmanager
async def on_fake() -> AsyncIterator[FakeSide]:
    yield FakeSide()


@pytest.fixture(scope="module")
def deployment(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Topics without a worker: the tests answer."""
    made = Deployment(broker.bootstrap_server, tmp_path_factory.mktemp("line"), partitions=PARTITIONS)
    made.make_topics()
    return made


@pytest.fixture(params=["fake", pytest.param("kafka", marks=pytest.mark.broker)])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Side]:
    opened: AbstractAsyncContextManager[Side]
    opened = on_fake() if request.param == "fake" else on_kafka(request.getfixturevalue("deployment"))
    async with opened as side:
        yield side


class Listener(Exchange):
    """Keeps what it hears; the first terminal frame ends it."""

    def __init__(self, line: Line, key: str, request_id: str, value: bytes = b"body") -> None:
        request = PreparedRequest(key=key, request_id=request_id, value=value, headers=())
        super().__init__(request, line, timeout_s=60.0, resend_after_s=60.0)
        self.heard: list[object] = []

    @property
    def ended(self) -> bool:
        return DONE in self.heard

    def _take(self, reply: ReplyFrame) -> None:
        self.heard.append(reply.frame)

    async def end(self) -> None:
        """Sends, and waits for the end."""
        await self._until_ended()


def header_of(key: str, request_id: str) -> FrameHeader:
    return FrameHeader(session_id=key, request_id=request_id, turn_id="t", attempt=1, epoch=1, frame_seq=0)


def prepared(key: str, value: bytes = b"body") -> PreparedRequest:
    return PreparedRequest(key=key, request_id="r", value=value, headers=(("x", b"1"),))


async def test_a_request_is_stored_in_the_partition_of_its_key(side: Side) -> None:
    for key in ("web-1", "web-2", "web-3", "web-4"):
        first = await side.line.send(prepared(key))
        second = await side.line.send(prepared(key))
        assert first.partition == second.partition == partition_of(key.encode(), PARTITIONS)
        assert second.offset == first.offset + 1


async def test_each_hears_the_frames_of_its_own_request(side: Side) -> None:
    mine, also_mine = Listener(side.line, "web-1", "r-1"), Listener(side.line, "web-1", "r-1")
    other, elsewhere = Listener(side.line, "web-1", "r-2"), Listener(side.line, "web-2", "r-1")
    everybody = (mine, also_mine, other, elsewhere)
    for each in everybody:
        await each.__aenter__()
    await side.arrive("web-1", "r-1", TextDelta(text="a"), TextDelta(text="b"), DONE, DONE)
    await side.arrive("web-2", "r-1", TextDelta(text="c"), framing="json")
    await side.arrive("web-1", "r-3", DONE)
    await side.arrive("web-1", "r-2", DONE)
    await mine.end()
    await also_mine.end()
    await other.end()
    await eventually(lambda: elsewhere.heard, "the frame of the other session")
    assert mine.heard == also_mine.heard == [TextDelta(text="a"), TextDelta(text="b"), DONE]
    assert other.heard == [DONE]
    assert elsewhere.heard == [TextDelta(text="c")]
    for each in everybody:
        await each.aclose()


async def test_whoever_left_hears_nothing(side: Side) -> None:
    left, stays = Listener(side.line, "web-1", "r-1"), Listener(side.line, "web-1", "r-1")
    async with stays:
        async with left:
            pass
        side.line.unregister(left)  # once more is fine
        await side.arrive("web-1", "r-1", DONE)
        await stays.end()
    assert left.heard == []
    with pytest.raises(TurnlogError, match="not followed any more"):
        await left.end()


async def test_what_came_before_is_not_heard(side: Side) -> None:
    await side.arrive("web-1", "r-1", TextDelta(text="old"))
    late = Listener(side.line, "web-2", "r-9")
    async with late:
        await side.arrive("web-2", "r-9", DONE)  # behind the old one, if it were heard
        await late.end()
    early = Listener(side.line, "web-1", "r-1")
    async with early:
        await side.arrive("web-1", "r-1", DONE)
        await early.end()
    assert early.heard == [DONE]


async def test_a_request_that_is_too_long_is_refused_and_the_next_one_is_sent(side: Side) -> None:
    too_long = Listener(side.line, "web-1", "r-1", value=b"x" * (2 << 20))
    with pytest.raises(RequestRefusedError) as caught:
        await too_long.end()
    assert caught.value.code == "too_long"
    for _ in range(2):
        assert (await side.line.send(prepared("web-1"))).partition == partition_of(b"web-1", PARTITIONS)


async def test_closing_ends_whoever_waits_and_whoever_comes(side: Side) -> None:
    waiting = Listener(side.line, "web-1", "r-1")
    async with waiting:
        end = asyncio.ensure_future(waiting.end())
        await side.line.close()
        with pytest.raises(TurnlogError, match="client was closed"):
            await end
    with pytest.raises(TurnlogError, match="not connected"):
        await Listener(side.line, "web-1", "r-2").end()


async def test_no_broker_is_unreachable_and_the_same_request_may_be_tried_again(tmp_path: Path) -> None:
    fake = FakeLine(fails=1)
    with pytest.raises(BrokerUnreachableError):
        await fake.send(prepared("web-1"))
    assert (await fake.send(prepared("web-1"))).offset == 0
    settings = Deployment("127.0.0.1:1", tmp_path).settings
    connection = Connection(settings, client_id="t", connect_timeout_s=2.0, send_timeout_s=2.0, resend_after_s=20.0)
    with pytest.raises(BrokerUnreachableError, match="no broker answers"):
        await connection.open()
