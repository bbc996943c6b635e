"""A lane collects a little before it sends; where somebody waits for what is queued, and little is, it goes at once."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import eventually
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.reply import Reply
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.reply_lane import MANY_FRAMES, Lane, SentFrame
from turnlog_workers.kafka.reply_sender import ReplySender

FOR_EVER_S = 3600.0


def lane_with(frames: int) -> Lane:
    lane = Lane("chat.replies", 0, lasting=True)
    for _ in range(frames):
        lane.add(SentFrame(b"k", b"v", (), terminal=False))
    return lane


async def collecting(lane: Lane) -> "asyncio.Task[None]":
    """It collects, and has begun to."""
    task = asyncio.create_task(lane.collect(FOR_EVER_S))
    await asyncio.sleep(0)
    return task


async def test_it_collects_until_somebody_waits() -> None:
    lane = lane_with(MANY_FRAMES)
    task = await collecting(lane)
    assert not task.done()
    lane.hurry()
    await task
    assert not (await collecting(lane)).done(), "what came later is not what was waited for"


async def test_whoever_waited_before_it_began_is_not_forgotten() -> None:
    lane = lane_with(1)
    lane.hurry()
    await lane.collect(FOR_EVER_S)
    assert not (await collecting(lane)).done()


async def test_where_much_waits_it_collects_whoever_waits() -> None:
    lane = lane_with(MANY_FRAMES + 1)
    lane.hurry()
    task = await collecting(lane)
    lane.hurry()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lane = lane_with(MANY_FRAMES + 1)
    await lane.collect(0.001)


class Producer:
    """Remembers the batches that it is given."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []

    def create_batch(self) -> Any:
        values: list[bytes] = []
        append = lambda *, value, **_: values.append(value) or True  # noqa: E731
        return SimpleNamespace(values=values, append=append, close=lambda: None)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> "asyncio.Future[None]":
        self.batches.append(batch.values)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stored.set_result(None)
        return stored

    async def stop(self) -> None:
        """Nothing is connected."""


@pytest.mark.parametrize(
    "last", [fr.TextDelta(text="a"), fr.ReasoningDelta(text="a"), fr.RequestRefused(code="busy", reason="")]
)
async def test_a_turn_begins_with_its_first_words_and_its_end_waits_for_nothing(last: fr.Frame) -> None:
    settings = Settings(data_dir=Path("unused")).model_copy(update={"reply_linger_ms": 1000 * FOR_EVER_S})
    sender, producer = ReplySender(settings, source="w", now_ms=lambda: 1), Producer()
    sender._producer = producer  # type: ignore[assignment]

    async def sent(*frames: fr.Frame) -> None:
        for seq, frame in enumerate(frames):
            reply = Reply(frame=frame, address=ReplyAddress(), request_id="r", turn_id="t", attempt=1)
            sender.send(reply, stream_id="s", partition=0, epoch=1, frame_seq=seq)
            for _ in range(5):
                await asyncio.sleep(0)

    await sent(fr.TurnStarted(model="m"))
    assert producer.batches == []
    await sent(last)
    await eventually(lambda: producer.batches, "both are sent")
    assert [len(batch) for batch in producer.batches] == [2]
    await sender.stop()
