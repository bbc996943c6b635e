"""What every sender must do: Kafka's, and the simulation's, on which its seeds rest."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.deployment import Deployment, eventually_async
from tests.simulation.loop import SimLoop
from tests.simulation.ports import SimRecordSender
from tests.simulation.world import World
from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import Forwarded, ForwardReceipt, RequestHeader
from turnlog_schemas.frames import FrameHeader, TextDelta, TurnCompleted, TurnStarted
from turnlog_schemas.parts import ReplyAddress, Usage
from turnlog_schemas.registry import COMMANDS, FRAMES
from turnlog_streams.reply import Reply
from turnlog_streams.topics import partition_of
from turnlog_workers.base.ports import AppendUncertainError, LogError, RecordSender, RequestRecord, Sent
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.event_log import LogProducer
from turnlog_workers.kafka.record_sender import KafkaRecordSender
from turnlog_workers.kafka.reply_sender import ReplySender

PARTITIONS = 3
NOW_MS = 1_790_000_000_000
DONE = TurnCompleted(text="done", usage=Usage())


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A record of the requests topic."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Seen(Protocol):
    """What has arrived."""

    async def frames(self) -> list[tuple[int, FrameHeader, Any]]:
        """Partition, header and frame; those of a partition in order."""
        ...

    async def requests(self) -> list[Stored]: ...

    async def letters(self) -> list[tuple[int, int]]:
        """Partition and offset of the requests that were parked."""
        ...


Body = Callable[[RecordSender, Seen], Coroutine[Any, Any, None]]
Run = Callable[[Body], None]


class SimSeen:
    def __init__(self, world: World) -> None:
        self._world = world

    async def frames(self) -> list[tuple[int, FrameHeader, Any]]:
        return [(seen.partition, seen.header, seen.frame) for seen in self._world.frames]

    async def requests(self) -> list[Stored]:
        return [
            Stored(partition=record.partition, key=record.key, value=record.value, headers=tuple(record.headers))
            for topic in self._world.requests
            for record in topic.records
            if record is not None
        ]

    async def letters(self) -> list[tuple[int, int]]:
        return list(self._world.parked)


class KafkaSeen:
    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._codec = Codec(FRAMES)

    async def frames(self) -> list[tuple[int, FrameHeader, Any]]:
        found = []
        for record in await self._deployment.dump(self._deployment.topics.replies):
            decode = self._codec.from_json if record.value[:1] == b"{" else self._codec.decode
            found.append((record.partition, *decode(record.value)))
        return found

    async def requests(self) -> list[Stored]:
        return [
            Stored(partition=record.partition, key=record.key, value=record.value, headers=tuple(record.headers))
            for record in await self._deployment.dump(self._deployment.topics.requests)
        ]

    async def letters(self) -> list[tuple[int, int]]:
        records = await self._deployment.dump(self._deployment.topics.dead_letters)
        headers = [dict(record.headers) for record in records]
        return [(int(each["x-turnlog-partition"]), int(each["x-turnlog-offset"])) for each in headers]


def in_simulation(body: Body, *, broker: bool = True) -> None:
    loop = SimLoop(random.Random(1))
    world = World(random.Random(2), loop, partitions=PARTITIONS)
    if not broker:
        world.chaos.parking_fails = world.chaos.frames_lost = 1.0
    task = loop.create_task(body(SimRecordSender(world, "w1"), SimSeen(world)))
    try:
        loop.run_until(task.done)
        task.result()
    finally:
        loop.close_down()


def on_kafka(deployment: Deployment, *, connect: bool = True) -> Run:
    settings = deployment.settings

    async def with_sender(body: Body) -> None:
        producer = LogProducer(settings)
        replies = ReplySender(settings, source="w", now_ms=lambda: NOW_MS)
        sender = KafkaRecordSender(
            settings, producer, replies, partition_count=PARTITIONS, source="w", now_ms=lambda: NOW_MS
        )
        try:
            if connect:
                await replies.start()
            await body(sender, KafkaSeen(deployment))
        finally:
            await replies.stop()
            await producer.close()

    return lambda body: asyncio.run(with_sender(body))


@pytest.fixture(params=["simulation", pytest.param("kafka", marks=pytest.mark.broker)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    if request.param == "simulation":
        yield in_simulation
        return
    broker: DevBroker = request.getfixturevalue("broker")
    with Deployment(broker.bootstrap_server, tmp_path, partitions=PARTITIONS, append_timeout_s="5") as deployment:
        deployment.make_topics()
        yield on_kafka(deployment)


@pytest.fixture(params=["simulation", pytest.param("kafka", marks=pytest.mark.broker)])
def run_without_a_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Nothing is acknowledged."""
    if request.param == "simulation":
        yield lambda body: in_simulation(body, broker=False)
        return
    with Deployment("127.0.0.1:1", tmp_path, partitions=PARTITIONS, append_timeout_s="2") as deployment:
        yield on_kafka(deployment, connect=False)


async def done(*sent: Sent) -> None:
    async def all_done() -> bool:
        return all(each.stored() for each in sent)

    await eventually_async(all_done, "everything is stored", interval_s=0.02)


def reply(frame: Any, number: int = 0, **fields: Any) -> Reply:
    address = ReplyAddress(framing=fields.pop("framing", "avro"))
    return Reply(frame=frame, address=address, request_id=f"r-{number}", turn_id="t-1", attempt=1, **fields)


def test_frames_arrive_in_their_order_with_their_place(run: Run) -> None:
    async def body(sender: RecordSender, seen: Seen) -> None:
        frames = [TurnStarted(model="m"), *(TextDelta(text=str(n)) for n in range(30)), DONE]
        sent = [
            sender.reply(reply(frame), stream_id=f"s-{partition}", partition=partition, epoch=7, frame_seq=seq)
            for seq, frame in enumerate(frames)
            for partition in (0, 2)
        ]
        await done(*sent)
        arrived = await seen.frames()
        for partition in (0, 2):
            mine = [(header, frame) for place, header, frame in arrived if place == partition]
            assert [frame for _, frame in mine] == frames
            assert [header for header, _ in mine] == [
                FrameHeader(
                    session_id=f"s-{partition}", request_id="r-0", turn_id="t-1", attempt=1, epoch=7, frame_seq=seq
                )
                for seq in range(len(frames))
            ]
        assert {place for place, _, _ in arrived} == {0, 2}

    run(body)


def test_a_frame_is_done_once_it_has_arrived(run: Run) -> None:
    async def body(sender: RecordSender, seen: Seen) -> None:
        for number in range(5):
            sent = sender.reply(reply(DONE, number), stream_id="s", partition=1, epoch=1, frame_seq=number)
            assert sent.on_its_way()  # it never blocks, so it cannot be there yet
            await done(sent)
            assert [header.request_id for _, header, _ in await seen.frames()] == [f"r-{n}" for n in range(number + 1)]

    run(body)


def test_what_a_channel_answers_is_named_by_both(run: Run) -> None:
    async def body(sender: RecordSender, seen: Seen) -> None:
        made = reply(DONE, session_id="", channel="web")
        await done(sender.reply(made, stream_id="web", partition=1, epoch=1, frame_seq=0))
        ((_, header, _),) = await seen.frames()
        assert (header.session_id, header.channel) == ("", "web")

    run(body)


def test_a_request_of_our_own_goes_to_the_partition_of_its_target(run: Run) -> None:
    async def body(sender: RecordSender, seen: Seen) -> None:
        forwarded = Forwarded(source_kind="session", source_id="s-1", target_kind="channel", seq=1, what="touched")
        receipt = ForwardReceipt(source_kind="session", source_id="s-1", target_kind="channel", target_id="web", seq=1)
        for number in range(4):
            header = RequestHeader(request_id=f"f-{number}", channel=f"web-{number}")
            sent = sender.request(header, forwarded)
            assert sent.on_its_way()
            await done(sent)
            assert len(await seen.requests()) == number + 1  # done: it is there
        await done(sender.request(RequestHeader(request_id="b", session_id="s-1"), receipt))
        found = sorted(await seen.requests(), key=lambda stored: stored.key or b"")
        assert [stored.key for stored in found] == [b"s-1", *(f"web-{number}".encode() for number in range(4))]
        for stored in found:
            assert stored.partition == partition_of(stored.key or b"", PARTITIONS)
        codec = Codec(COMMANDS)
        assert codec.decode(found[0].value or b"") == (RequestHeader(request_id="b", session_id="s-1"), receipt)
        assert codec.decode(found[4].value or b"")[1] == forwarded

    run(body)


def record(**fields: Any) -> RequestRecord:
    values = {"partition": 2, "offset": 17, "key": b"s-1", "value": b"garbage", "headers": (("x", b"1"), ("x", b""))}
    return RequestRecord(**{**values, **fields})


@pytest.mark.parametrize(
    "parked",
    [
        record(),
        record(key=None, value=None, headers=()),
        record(key=b"\xff", value=b"\xff\xfe"),
        record(value=b"x" * (5 << 20)),
        record(headers=tuple((f"h-{n}", b"v" * n) for n in range(300))),
    ],
    ids=["bytes", "nothing", "no text", "5 MiB", "300 headers"],
)
def test_a_dead_letter_is_stored_when_it_is_said_to_be(run: Run, parked: RequestRecord) -> None:
    async def body(sender: RecordSender, seen: Seen) -> None:
        await sender.dead_letters([(parked, "undecodable", "it is garbage")])
        assert await seen.letters() == [(2, 17)]

    run(body)


def test_many_dead_letters_are_all_stored_and_a_bad_one_costs_no_other(run: Run) -> None:
    """Together where they fit together: a long one, and one that no topic takes as it is, are in their midst."""

    async def body(sender: RecordSender, seen: Seen) -> None:
        values = [b"x" * n for n in range(300)]
        values[100], values[200] = b"y" * (1 << 20), b"z" * (9 << 20)
        parked = [record(offset=n, value=value) for n, value in enumerate(values)]
        await sender.dead_letters([(each, "undecodable", "it is garbage") for each in parked])
        assert sorted(await seen.letters()) == [(2, n) for n in range(300)]

    run(body)


def test_what_is_sent_on_is_stored_in_its_partition_as_it_was(run: Run) -> None:
    async def body(sender: RecordSender, seen: Seen) -> None:
        for session_id in (b"s-1", b"s-2", b"s-3", b"s-4"):
            await sender.forward(record(), session_id, b"body of " + session_id)
        found = {stored.key: stored for stored in await seen.requests()}
        assert found == {
            key: Stored(
                partition=partition_of(key, PARTITIONS),
                key=key,
                value=b"body of " + key,
                headers=(("x", b"1"), ("x", b"")),
            )
            for key in (b"s-1", b"s-2", b"s-3", b"s-4")
        }

    run(body)


def test_the_reply_topic_is_known_once_it_was_looked_for(run: Run) -> None:
    async def body(sender: RecordSender, seen: Seen) -> None:
        await sender.look_for_reply_topics()
        sent = sender.reply(reply(DONE), stream_id="s", partition=0, epoch=1, frame_seq=0)
        await done(sent)
        assert [frame for _, _, frame in await seen.frames()] == [DONE]

    run(body)


def test_what_nobody_acknowledges_is_an_error_within_its_time(run_without_a_broker: Run) -> None:
    async def body(sender: RecordSender, seen: Seen) -> None:
        async with asyncio.timeout(30.0):  # of the loop's own time
            with pytest.raises(LogError):
                await sender.dead_letters([(record(), "undecodable", "it is garbage")])
            with pytest.raises(AppendUncertainError):
                await sender.forward(record(), b"s-1", b"body")

    run_without_a_broker(body)


def test_a_frame_that_nobody_takes_is_tried_again_and_not_done(
    run_without_a_broker: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The next owner sends it again: until then the log must not say that it was sent. A piece of text is given up."""

    async def body(sender: RecordSender, seen: Seen) -> None:
        started_at = asyncio.get_running_loop().time()
        piece = sender.reply(reply(TextDelta(text="a")), stream_id="s", partition=0, epoch=1, frame_seq=0)
        last = sender.reply(reply(DONE), stream_id="s", partition=0, epoch=1, frame_seq=1)

        async def tried_again() -> bool:
            refused = sum("not sent" in message for message in caplog.messages)
            return refused >= 2 or asyncio.get_running_loop().time() > started_at + 5.0

        await eventually_async(tried_again, "the frame was tried again", interval_s=0.02)
        assert not piece.on_its_way()
        assert not piece.stored()
        assert last.on_its_way()
        assert await seen_frames(seen) == []

    run_without_a_broker(body)


async def seen_frames(seen: Seen) -> list[Any]:
    """Without a broker nothing can have arrived, and nobody could tell."""
    return [] if isinstance(seen, KafkaSeen) else await seen.frames()
