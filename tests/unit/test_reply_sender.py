"""Frames on their way: what the broker does not take is tried again, or given up, and delays no other."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaStorageError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from tests.waiting import eventually
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.reply import Reply
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.kafka import reply_lane
from turnlog_workers.kafka.reply_sender import ReplySender
from turnlog_workers.shard.reply_watermark import Replied

MINE = "chat.replies.mine"
REPLIES = "chat.replies"


@dataclass
class Batch:
    values: list[bytes] = field(default_factory=list)

    def append(self, *, timestamp: None, key: bytes, value: bytes, headers: Any) -> object:
        self.values.append(value)
        return object()

    def close(self) -> None:
        """Nothing is buffered."""


@dataclass
class Producer:
    """A broker's topics, as a producer sees them. ``refuse`` raises what the broker says to a batch."""

    topics: dict[str, int] = field(default_factory=lambda: {REPLIES: 3, "chat.requests": 3, MINE: 3})
    refuse: Callable[[str, list[bytes]], None] = lambda topic, values: None
    stored: list[tuple[str, int, bytes]] = field(default_factory=list)
    asked: int = 0
    starts: bool = True
    stopped: bool = False

    async def start(self) -> None:
        if not self.starts:
            raise KafkaConnectionError

    @property
    def client(self) -> Any:
        return SimpleNamespace(fetch_all_metadata=self._fetch)

    async def _fetch(self) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        there = dict(self.topics)
        return SimpleNamespace(
            topics=lambda exclude_internal_topics: set(there),
            partitions_for_topic=lambda topic: set(range(there[topic])),
        )

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> "asyncio.Future[None]":
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if topic not in self.topics:
            raise UnknownTopicOrPartitionError
        self.refuse(topic, batch.values)
        self.stored += [(topic, partition, value) for value in batch.values]
        stored.set_result(None)
        return stored

    async def stop(self) -> None:
        self.stopped = True


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_lane, "AGAIN", Backoff(0.001, 0.002))


def sender_of(producer: Producer, **settings: Any) -> ReplySender:
    given = Settings(data_dir=Path("unused"), reply_linger_ms=0.0, **settings)
    sender = ReplySender(given, source="w", now_ms=lambda: 1)
    sender._producer = producer  # type: ignore[assignment]
    return sender


def frame(number: int, to: str | None = None, *, terminal: bool = True) -> Reply:
    made: Any = fr.RequestRefused(code="busy", reason=f"{number}") if terminal else fr.TextDelta(text=f"{number}")
    return Reply(frame=made, address=ReplyAddress(reply_to=to), request_id=f"r{number}")


def send(sender: ReplySender, reply: Reply) -> Any:
    return sender.send(reply, stream_id="s", partition=0, epoch=1, frame_seq=0)


@pytest.mark.parametrize(
    "why",
    [UnknownTopicOrPartitionError, TopicAuthorizationFailedError, KafkaStorageError, KafkaTimeoutError],
    ids=["deleted", "forbidden", "full", "no answer"],
)
async def test_a_reply_topic_that_cannot_be_written_pins_nothing_and_delays_no_other(why: type[Exception]) -> None:
    def refuse(topic: str, values: list[bytes]) -> None:
        if topic == MINE:
            raise why

    producer = Producer(refuse=refuse)
    sender = sender_of(producer)
    replied = Replied(-1)
    mine = send(sender, frame(1, MINE))
    replied.add(10, mine)
    others = [send(sender, frame(number)) for number in range(2, 5)]
    assert replied.upto(100) == 9
    await eventually(lambda: all(other.stored() for other in others), "the others are stored")
    await eventually(lambda: not mine.on_its_way(), "it is given up")
    assert not mine.stored()
    assert replied.upto(100) == 99, "the next owner need not try, either"
    await eventually(lambda: not sender._lanes and not sender._draining, "nothing goes on for ever")
    assert sender._pending == 0
    producer.refuse = lambda topic, values: None
    again = send(sender, frame(5, MINE))
    await eventually(again.stored, "it can be written again")


async def test_a_reply_topic_that_is_deleted_is_given_up_at_once_when_the_broker_says_so() -> None:
    producer = Producer()
    sender = sender_of(producer)
    first = send(sender, frame(1, MINE))
    await eventually(first.stored, "it is stored")
    del producer.topics[MINE]
    second = send(sender, frame(2, MINE))
    await eventually(lambda: not second.on_its_way(), "it is given up")
    assert not sender.knows_topic(MINE)
    producer.topics[MINE] = 1
    third = send(sender, frame(3, MINE))
    await eventually(third.stored, "made anew with fewer partitions, it is written")
    assert {partition for topic, partition, _ in producer.stored[1:] if topic == MINE} == {0}


async def test_what_goes_to_our_own_replies_is_tried_until_it_is_stored() -> None:
    down = True

    def refuse(topic: str, values: list[bytes]) -> None:
        if down:
            raise KafkaTimeoutError

    sender = sender_of(Producer(refuse=refuse))
    last, piece = send(sender, frame(1)), send(sender, frame(2, terminal=False))
    replied = Replied(-1)
    replied.add(10, last)
    await eventually(lambda: not piece.on_its_way(), "a piece of text is given up")
    await eventually(lambda: sender._lanes[REPLIES, 0]._tries > 2 * reply_lane.MAX_TRIES, "tried again and again")
    assert last.on_its_way()
    replied.forget_sent()
    assert replied.upto(100) == 9
    down = False
    await eventually(last.stored, "it is stored")
    replied.forget_sent()
    assert not replied._waiting, "nothing is kept of what is out"
    assert replied.upto(100) == 99


async def test_a_forward_is_given_up_so_that_its_owner_sends_it_again() -> None:
    def refuse(topic: str, values: list[bytes]) -> None:
        raise KafkaTimeoutError

    sender = sender_of(Producer(refuse=refuse))
    sent = sender.put("chat.requests", 0, b"k", b"v", ())
    await eventually(lambda: not sent.on_its_way(), "it is given up")
    assert not sent.stored()


async def test_one_frame_that_the_broker_refuses_takes_no_other_with_it() -> None:
    def refuse(topic: str, values: list[bytes]) -> None:
        if b"poison" in values:
            raise MessageSizeTooLargeError

    producer = Producer(refuse=refuse)
    sender = sender_of(producer)
    values = [b"a", b"b", b"poison", b"c"]
    sent = [sender.put(REPLIES, 0, b"k", value, ()) for value in values]
    await eventually(lambda: not any(each.on_its_way() for each in sent), "all have ended")
    assert [each.stored() for each in sent] == [True, True, False, True]
    assert [value for _, _, value in producer.stored] == [b"a", b"b", b"c"]


async def test_an_error_that_is_not_kafkas_ends_no_lane() -> None:
    def refuse(topic: str, values: list[bytes]) -> None:
        if b"poison" in values:
            raise TypeError("a header is no bytes")

    sender = sender_of(Producer(refuse=refuse))
    sent = [sender.put(REPLIES, 0, b"k", value, ()) for value in (b"a", b"poison", b"c")]
    await eventually(lambda: not any(each.on_its_way() for each in sent), "all have ended")
    assert [each.stored() for each in sent] == [True, False, True]


async def test_reply_topics_that_nobody_takes_from_hold_a_bounded_part_of_what_may_wait() -> None:
    def refuse(topic: str, values: list[bytes]) -> None:
        if topic == MINE:
            raise KafkaTimeoutError

    sender = sender_of(Producer(refuse=refuse), max_pending_replies=100)
    await sender.look_for_topics()
    mine = [send(sender, frame(number, MINE)) for number in range(300)]
    assert sum(each.on_its_way() for each in mine) <= 10
    piece = send(sender, frame(301, terminal=False))
    await eventually(piece.stored, "others still get what they stream")


async def test_many_reply_topics_leave_nothing_behind() -> None:
    topics = {f"chat.replies.{number}": 2 for number in range(200)}
    producer = Producer(topics={REPLIES: 3, **topics})
    sender = sender_of(producer)
    sent = [send(sender, frame(number, f"chat.replies.{number}")) for number in range(200)]
    await eventually(lambda: all(each.stored() for each in sent), "all are stored")
    await eventually(lambda: not sender._lanes and not sender._draining, "no lane is left")
    assert producer.asked < 5, "all of them ask together"
    producer.topics = {REPLIES: 3}
    await sender.look_for_topics()
    assert set(sender._counts) == {REPLIES}


async def test_who_cannot_ask_for_topics_hears_it() -> None:
    sender = sender_of(Producer())
    sender._producer = None
    with pytest.raises(LogError):
        await sender.look_for_topics()


async def test_a_producer_whose_sending_ended_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka's ends when a connection is reset at the wrong moment; all that it is given fails from then on."""

    def fail(topic: str, values: list[bytes]) -> None:
        raise KafkaError("Unexpected error during batch delivery")

    broken, fresh = Producer(refuse=fail), Producer()
    sender, made = sender_of(broken), [Producer(starts=False), fresh]

    def new_producer() -> Producer:
        if not tried:
            tried.append("a secret's file is being replaced")
            raise SettingsError(tried[0])
        return made.pop(0)

    tried: list[str] = []
    monkeypatch.setattr(sender, "_new_producer", new_producer)
    sent = [sender.put(REPLIES, partition, b"s", b"frame", []) for partition in range(3)]
    await eventually(lambda: all(each.stored() for each in sent), "the next producer has them")
    assert len(fresh.stored) == 3
    assert not made
    assert broken.stopped


async def test_a_frame_counts_as_sent_when_the_replicas_in_sync_have_it() -> None:
    producer = ReplySender(Settings(), source="w", now_ms=lambda: 1)._new_producer()
    assert producer._sender._acks == -1, "what only a leader has goes with it"
