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
        self.waiting: Waiting | None = None

    def send_delta(self, turn: Any, frame: Any) -> "Waiting | None":
        self.frames.append(frame)
        return self.waiting


class Waiting:
    """A frame that may still take up text."""

    def __init__(self) -> None:
        self.open = True
        self.text = ""

    def join(self, text: str) -> bool:
        self.text += text if self.open else ""
        return self.open


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


async def test_a_frame_that_waits_takes_up_what_is_said_next() -> None:
    host = Host()
    host.waiting = first = Waiting()
    buffer = DeltaBuffer(0.001, host)
    buffer.begin(object())  # type: ignore[arg-type]
    for text in ("a", "b", "c"):
        buffer.add(text, reasoning=False)
    assert (host.frames, first.text) == ([fr.TextDelta(text="a")], "bc")
    first.open = False  # it went
    buffer.add("d", reasoning=False)
    buffer.add("e", reasoning=False)
    buffer.flush()
    assert "".join(frame.text for frame in host.frames) == "ade"
    host.waiting = Waiting()
    buffer.add("thought", reasoning=True)
    buffer.flush()
    assert host.frames[-1] == fr.ReasoningDelta(text="thought"), "never in a frame of text"
    buffer.add(" more", reasoning=True)
    assert host.waiting.text == " more"
    buffer.close()
    buffer.add("late", reasoning=True)
    buffer.flush()
    assert (host.waiting.text, host.frames[-1].text) == (" more", "thought")


def test_events_of_older_versions_do_not_say_it() -> None:
    for ended in (ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled):
        assert ended.__dataclass_fields__["first_delta_ms"].default is None
