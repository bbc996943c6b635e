"""Deltas on a busy lane: they join, nothing of them is lost or comes later than what was sent after them."""

import asyncio
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import eventually
from turnlog_schemas import frames as fr
from turnlog_schemas.codec import Codec
from turnlog_schemas.parts import ReplyAddress
from turnlog_schemas.registry import FRAMES
from turnlog_streams.reply import Reply
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka import reply_lane
from turnlog_workers.kafka.record_sender import KafkaRecordSender
from turnlog_workers.kafka.reply_lane import SentFrame, WaitingDelta
from turnlog_workers.kafka.reply_sender import ReplySender
from turnlog_workers.shard.frame_sender import FrameSender

CODEC = Codec(FRAMES)
MOST_BYTES = 64 * 1024


@dataclass
class Batch:
    values: list[bytes] = field(default_factory=list)

    def append(self, *, timestamp: None, key: bytes, value: bytes, headers: Any) -> object:
        self.values.append(value)
        return self

    def close(self) -> None:
        """Nothing is buffered."""


class Broker:
    """Stores what it is sent as soon as ``open`` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.values: list[bytes] = []

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> "asyncio.Future[None]":
        await self.open.wait()
        self.values += batch.values
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stored.set_result(None)
        return stored


class Stream:
    """What a sender of frames needs of a session."""

    kind = "session"

    def __init__(self, stream_id: str, framing: str = "avro") -> None:
        self.stream_id = stream_id
        self.seq = -1
        address = ReplyAddress(framing=framing)
        turns = {f"t{number}": SimpleNamespace(reply=address, request_id=f"r{number}") for number in range(20)}
        self.state = SimpleNamespace(turns=turns)

    def next_frame_seq(self, reply: Reply) -> int:
        self.seq += 1
        return self.seq


class Lane:
    """A sender of frames on one lane to a broker."""

    def __init__(self, *, joins: bool = True) -> None:
        self.broker = Broker()
        settings = Settings(data_dir=Path("unused"), reply_linger_ms=0.0)
        self.sender = ReplySender(settings, source="w", now_ms=lambda: 1)
        self.sender._producer = self.broker  # type: ignore[assignment]
        records = KafkaRecordSender(
            settings,
            None,  # type: ignore[arg-type]
            self.sender,
            partition_count=1,
            source="w",
            now_ms=lambda: 1,
        )
        self.frames = FrameSender(records, 0, epoch=1, replied=-1, joins_deltas=joins)

    def say(self, stream: Any, text: str, turn: int = 0, *, reasoning: bool = False) -> None:
        frame = fr.ReasoningDelta(text=text) if reasoning else fr.TextDelta(text=text)
        self.frames.delta(stream, SimpleNamespace(turn_id=f"t{turn}", attempt=1), frame)  # type: ignore[arg-type]

    def other(self, stream: Any, turn: int = 0, *, terminal: bool = False) -> None:
        frame: Any = fr.RequestRefused(code="busy", reason="") if terminal else fr.TurnStarted(model="m")
        address = stream.state.turns[f"t{turn}"].reply
        self.frames.send(stream, Reply(frame=frame, address=address, request_id="r", turn_id=f"t{turn}", attempt=1))

    async def stored(self) -> list[tuple[fr.FrameHeader, Any]]:
        await self.emptied()
        return [decoded(value) for value in self.broker.values]

    async def emptied(self) -> None:
        self.broker.open.set()
        await eventually(lambda: not self.sender._lanes, "the lane is empty")
        assert self.sender._pending == 0


def decoded(value: bytes) -> tuple[fr.FrameHeader, Any]:
    header, frame = CODEC.decode(value)
    assert isinstance(header, fr.FrameHeader)
    return header, frame


async def test_the_first_delta_goes_alone_and_later_ones_join_before_the_next_frame() -> None:
    lane, stream = Lane(), Stream("s")
    for text in ("a", "b", "c"):
        lane.say(stream, text)
    lane.say(stream, "x", reasoning=True)
    lane.say(stream, "y", reasoning=True)
    lane.say(stream, "d")
    lane.other(stream)
    lane.say(stream, "e")
    lane.say(stream, "f")
    lane.other(stream, terminal=True)
    found = await lane.stored()
    assert [getattr(frame, "text", type(frame).__name__) for _, frame in found] == [
        *("a", "bc", "xy", "d", "TurnStarted", "ef", "RequestRefused")
    ]
    assert [header.frame_seq for header, _ in found] == list(range(7))
    assert lane.sender.joined == 3
    assert not lane.frames._spoken


async def test_with_no_interval_each_piece_is_a_frame() -> None:
    lane, stream = Lane(joins=False), Stream("s")
    for text in "abcd":
        lane.say(stream, text)
    assert [frame.text for _, frame in await lane.stored()] == list("abcd")


async def test_a_release_drops_what_waits_and_nothing_that_another_frame_follows() -> None:
    lane, stream, other = Lane(), Stream("s"), Stream("o")
    for text in ("a", "b", "c"):
        lane.say(stream, text)
        lane.say(other, text)
    lane.other(other)
    lane.frames.close()
    found = await lane.stored()
    texts = {of: [getattr(f, "text", "-") for h, f in found if h.session_id == of] for of in ("s", "o")}
    assert texts == {"s": ["a"], "o": ["a", "bc", "-"]}


@pytest.mark.parametrize("framing", ["avro", "json"])
@pytest.mark.parametrize("text", ["\x01" * 700, "ü" * 900, "\U0001f600" * 500], ids=["control", "two bytes", "emoji"])
async def test_a_joined_frame_is_bounded_whatever_it_says(framing: str, text: str) -> None:
    lane, stream = Lane(), Stream("s", framing)
    for _ in range(200):
        lane.say(stream, text)
    await lane.emptied()
    if framing == "json":
        found = [json.loads(value)["frame"]["text"] for value in lane.broker.values]
    else:
        found = [decoded(value)[1].text for value in lane.broker.values]
    assert "".join(found) == text * 200
    assert max(map(len, lane.broker.values)) <= MOST_BYTES
    assert len(found) < 60


@pytest.mark.parametrize("seed", range(40))
async def test_any_interleaving_says_the_same_text_in_order_before_each_frame(seed: int) -> None:
    chance = random.Random(seed)
    lane = Lane()
    streams = [Stream(f"s{number}") for number in range(4)]
    turns, said = dict.fromkeys(range(4), 0), dict.fromkeys(range(4), "")
    for step in range(150):
        number = chance.randrange(4)
        stream, action = streams[number], chance.random()
        if action < 0.7:
            reasoning, text = chance.random() < 0.2, f"{step},"
            lane.say(stream, text, turns[number], reasoning=reasoning)
            said[number] += f"r{text}" if reasoning else f"t{text}"
        elif action < 0.85:
            terminal = chance.random() < 0.5
            lane.other(stream, turns[number], terminal=terminal)
            said[number] += "!." if terminal else "-."
            turns[number] += terminal
            turns[number] %= 20
        elif action < 0.95:
            (lane.broker.open.clear if chance.random() < 0.5 else lane.broker.open.set)()
        else:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
    found = await lane.stored()
    for number, stream in enumerate(streams):
        heard, of_it = "", [(h, f) for h, f in found if h.session_id == stream.stream_id]
        assert [header.frame_seq for header, _ in of_it] == list(range(len(of_it)))
        for _, frame in of_it:
            if isinstance(frame, fr.TextDelta | fr.ReasoningDelta):
                letter = "r" if isinstance(frame, fr.ReasoningDelta) else "t"
                heard += "".join(f"{letter}{piece}," for piece in frame.text.split(",")[:-1])
            else:
                heard += "!." if isinstance(frame, fr.RequestRefused) else "-."
        assert heard == said[number]


async def test_what_comes_in_the_moment_in_which_a_pause_ends_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    lane, streams = Lane(), [Stream(f"s{number}") for number in range(60)]  # so many that the lane pauses
    paused: list[float] = []

    async def pause(_lane: reply_lane.Lane, pause_s: float) -> bool:
        if pause_s > 0 and not paused:
            paused.append(pause_s)
            lane.other(streams[0], terminal=True)
        return pause_s > 0

    monkeypatch.setattr(lane.sender, "_paused", pause)
    for text in ("a", "b"):
        for stream in streams:
            lane.say(stream, text)
    found = await lane.stored()
    assert paused
    assert isinstance(found[-1][1], fr.RequestRefused)
    assert len(found) == 121
    assert lane.sender.given_up == 0


def test_a_frame_brings_out_the_deltas_of_its_own_session_and_no_others() -> None:
    def delta(key: bytes, text: str) -> WaitingDelta:
        return WaitingDelta(key, text, lambda text: (text.encode(), ()), limit_bytes=100)

    lane = reply_lane.Lane("replies", 0, lasting=True)
    one, two, three = delta(b"a", "1"), delta(b"b", "2"), delta(b"b", "3")
    last = SentFrame(b"b", b"end", (), terminal=True)
    for frame in (one, two, three):
        lane.add(frame)
    assert not lane.queue
    assert not lane.pressed.is_set()
    lane.add(last)
    assert list(lane.queue) == [two, three, last]
    assert lane.pressed.is_set()
    later = delta(b"b", "4")
    lane.add(later)
    assert lane.release() == 2
    assert list(lane.queue) == [two, three, last, one, later]
    lane.add(delta(b"c", "5"))
    assert len(list(lane.give_up())) == 6
    assert not lane.deltas


def test_a_delta_that_cannot_be_made_is_not_sent_empty() -> None:
    def refuse(text: str) -> Any:
        raise ValueError(text)

    delta = WaitingDelta(b"s", "half", refuse, limit_bytes=100)
    for _ in range(2):  # in a batch, and then alone
        with pytest.raises(ValueError, match="half"):
            delta.make()
