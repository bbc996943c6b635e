"""One reader of the reply topic, many of its sessions: nothing lost, nothing twice, memory bounded."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

from turnlog.client import session_feed
from turnlog.client.replies import ReplyFrame
from turnlog.client.reply_consumer import ReplyRecord
from turnlog.client.session_feed import SessionFeed
from turnlog.errors import TurnlogError
from turnlog_schemas.frames import FrameHeader, TextDelta

TOPIC = "chat.replies"


@dataclass
class Topic:
    """A partition of a reply topic in memory, and the feed that reads it."""

    records: list[ReplyRecord] = field(default_factory=list)
    looks: list[tuple[int, int]] = field(default_factory=list)
    gate: asyncio.Event | None = None  #: looks wait for it

    def __post_init__(self) -> None:
        self.feed = SessionFeed(self._decode, self._range)
        self.feed.start({0: 0})

    async def _decode(self, record: Any) -> ReplyFrame | None:
        header = FrameHeader(session_id=record.key.decode(), request_id="r")
        frame = TextDelta(text=record.value.decode())
        return ReplyFrame(header=header, frame=frame, partition=0, offset=record.offset)

    async def _range(self, partition: int, start: int, end: int) -> AsyncGenerator[list[Any], None]:
        self.looks.append((start, end))
        if self.gate is not None:
            await self.gate.wait()
        for at in range(start, end, 10):
            yield self.records[at : min(at + 10, end)]

    async def comes(self, *keys: str, size: int = 5) -> None:
        for key in keys:
            offset = len(self.records)
            record = ReplyRecord(
                topic=TOPIC, partition=0, offset=offset, key=key.encode(), value=str(offset).encode().rjust(size)
            )
            self.records.append(record)
            if self.feed.wants(record):
                reply = await self._decode(record)
                assert reply is not None
                self.feed.deliver(record, reply)

    def of(self, key: str) -> list[int]:
        return [record.offset for record in self.records if record.key == key.encode()]


async def some(frames: AsyncGenerator[ReplyFrame, None], count: int) -> list[int]:
    return [(await asyncio.wait_for(anext(frames), 60)).offset for _ in range(count)]


async def begun(topic: Topic, key: str, start: int | None = None) -> AsyncGenerator[ReplyFrame, None]:
    """A reader that is registered: it waits for its first frame."""
    frames = topic.feed.follow(key.encode(), 0, start)
    waiting = topic.feed.readers
    first = asyncio.ensure_future(anext(frames))
    for _ in range(10):
        await asyncio.sleep(0)
    assert topic.feed.readers == waiting + 1

    async def with_first() -> AsyncGenerator[ReplyFrame, None]:
        async with aclosing(frames):
            yield await first
            async for reply in frames:
                yield reply

    return with_first()


async def test_each_reader_gets_its_session_from_now_on() -> None:
    topic = Topic()
    await topic.comes("a", "b")
    a, b = await begun(topic, "a"), await begun(topic, "b")
    await topic.comes("a", "b", "c", "a")
    assert await some(a, 2) == [2, 5]
    assert await some(b, 1) == [3]
    assert topic.looks == []
    await a.aclose()
    await b.aclose()
    assert topic.feed.readers == 0


async def test_a_position_is_caught_up_with_and_goes_on_live() -> None:
    topic = Topic()
    await topic.comes(*"abcab" * 10)
    reader = await begun(topic, "a", 7)
    await topic.comes(*"abcab" * 10)
    expected = [offset for offset in topic.of("a") if offset >= 7]
    assert await some(reader, len(expected)) == expected
    assert topic.looks == [(7, 50)]
    await reader.aclose()


async def test_what_came_last_needs_no_look_into_the_topic() -> None:
    topic = Topic()
    first = await begun(topic, "b")
    await topic.comes(*"ab" * 20)
    reader = topic.feed.follow(b"a", 0, 4)
    expected = [offset for offset in topic.of("a") if offset >= 4]
    assert await some(reader, len(expected)) == expected
    assert topic.looks == []
    await reader.aclose()
    await first.aclose()


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_feed, "_MAX_RECENT_BYTES", 10 * 300)
    topic = Topic()
    first = await begun(topic, "b")
    await topic.comes(*"ab" * 50, size=100)
    assert len(topic.feed._recent[0]) == 10
    reader = topic.feed.follow(b"a", 0, 4)
    assert await some(reader, 48) == topic.of("a")[2:]
    assert topic.looks == [(4, 100)]
    await reader.aclose()
    await first.aclose()


async def test_a_slow_reader_holds_a_bounded_number_of_frames_and_misses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_feed, "_MAX_QUEUED_FRAMES", 5)
    monkeypatch.setattr(session_feed, "_MAX_RECENT_BYTES", 0)
    topic = Topic()
    slow, quick = await begun(topic, "a"), await begun(topic, "a")
    seen = []
    for _ in range(40):
        await topic.comes("a", "b")
        seen += await some(quick, 1)
        assert all(len(reader.frames) <= 5 for reader in topic.feed._readers[b"a"])
    assert seen == topic.of("a")
    assert await some(slow, 40) == topic.of("a")
    assert topic.looks, "what did not fit was read again"
    await topic.comes("a")
    assert await some(slow, 1) == await some(quick, 1) == [80]
    await slow.aclose()
    await quick.aclose()


async def test_large_frames_fill_a_queue_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_feed, "_MAX_QUEUED_BYTES", 1000)
    topic = Topic()
    slow = await begun(topic, "a")
    await topic.comes(*"a" * 20, size=400)
    (reader,) = topic.feed._readers[b"a"]
    assert reader.queued_bytes <= 1000
    await topic.comes("a", size=5000)
    assert await some(slow, 21) == topic.of("a")
    await slow.aclose()


async def test_one_look_serves_all_that_wait_for_a_partition() -> None:
    topic = Topic()
    topic.gate = asyncio.Event()
    await topic.comes(*"abcdefgh" * 20)
    readers = {key: asyncio.ensure_future(some(topic.feed.follow(key.encode(), 0, 0), 20)) for key in "abcdefgh"}
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(topic.looks) == 1
    topic.gate.set()
    for key, reader in readers.items():
        assert await reader == topic.of(key)
    assert len(topic.looks) <= 2, "one that was under way, and one for all the others"


async def test_whoever_follows_is_told_when_nothing_comes_any_more() -> None:
    topic = Topic()
    reader = await begun(topic, "a")
    await topic.comes("a")
    topic.feed.fail(TurnlogError("the reader stopped"))
    assert await some(reader, 1) == [0], "what came before is not lost"
    with pytest.raises(TurnlogError, match="the reader stopped"):
        await anext(reader)
    with pytest.raises(TurnlogError, match="the reader stopped"):
        await anext(topic.feed.follow(b"a", 0, None))


async def test_a_look_that_fails_is_an_error_of_those_that_wait_for_it() -> None:
    topic = Topic()
    await topic.comes(*"ab" * 5)

    async def broken(partition: int, start: int, end: int) -> AsyncGenerator[list[Any], None]:
        raise TurnlogError("the broker is away")
        yield []

    topic.feed._read_range = broken
    with pytest.raises(TurnlogError, match="the broker is away"):
        await anext(topic.feed.follow(b"a", 0, 0))
    topic.feed._read_range = topic._range
    assert await some(topic.feed.follow(b"a", 0, 0), 5) == topic.of("a")


async def test_two_thousand_readers() -> None:
    topic = Topic()
    keys = [f"s{number}" for number in range(2000)]
    readers = [await begun(topic, key) for key in keys]
    await topic.comes(*keys, *keys)
    for number, reader in enumerate(readers):
        assert await some(reader, 2) == [number, 2000 + number]
        await reader.aclose()
