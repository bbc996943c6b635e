"""Time to the first delta: from an attempt's beginning to the first piece that went out, told with the turn's end."""

import asyncio
from typing import Any

from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_workers.sessions.streamed_text import DeltaBuffer


class Host:
    """Keeps the frames."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def send_delta(self, turn: Any, frame: Any) -> None:
        self.frames.append(frame)


async def test_the_first_piece_counts_and_no_later_one() -> None:
    host = Host()
    buffer = DeltaBuffer(0.0, host)
    assert buffer.first_at is None
    buffer.begin(object())  # type: ignore[arg-type]
    buffer.flush()
    assert buffer.first_at is None, "nothing was said"
    before = asyncio.get_running_loop().time()
    buffer.add("thinking", reasoning=True)
    first = buffer.first_at
    assert first is not None
    assert before <= first <= asyncio.get_running_loop().time()
    buffer.add("said", reasoning=False)
    assert buffer.first_at == first
    assert host.frames == [fr.ReasoningDelta(text="thinking"), fr.TextDelta(text="said")]


def test_events_of_older_versions_do_not_say_it() -> None:
    for ended in (ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled):
        assert ended.__dataclass_fields__["first_delta_ms"].default is None
