"""The text of an attempt on its way out: what is streamed of it, and what is kept of it should it be cancelled."""

import asyncio
from typing import Protocol

from turnlog_schemas import frames as fr
from turnlog_schemas.parts import cut_text
from turnlog_workers.runners.base import TurnInput

_MAX_FRAME_CHARACTERS = 16_384
_PIECES = 512


class Waiting(Protocol):
    """A frame that is not encoded yet."""

    def join(self, text: str) -> bool:
        """Take up what is said next. False: that needs a frame of its own."""
        ...


class DeltaHost(Protocol):
    """What takes the pieces of a running attempt."""

    def send_delta(self, turn: TurnInput, frame: fr.TextDelta | fr.ReasoningDelta) -> Waiting | None:
        """Send an ephemeral frame; it comes back where it may still take up what is said next."""
        ...


class DeltaBuffer:
    """The first piece goes out at once, then at most one frame per interval; pieces in between are joined.

    While its frame waits for its lane, that takes up what is said: most words of a busy worker cost a call or two.
    It knows nothing of its attempt: in a cycle, both would keep their history until the collector comes by.
    """

    def __init__(self, interval_s: float, host: DeltaHost) -> None:
        self._interval_s = interval_s
        self._host = host
        self._turn: TurnInput | None = None
        self._text = ""
        self._reasoning = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0
        self._waiting: Waiting | None = None  #: the newest frame, while it may take up more
        self.first_at: float | None = None  #: when the first piece went out, by the event loop's clock

    def begin(self, turn: TurnInput) -> None:
        """What comes from here on is said in this turn."""
        self._turn = turn

    def add(self, text: str, *, reasoning: bool) -> None:
        """Take a piece."""
        if not text:
            return
        if reasoning != self._reasoning:
            self.flush()
            self._waiting = None
            self._reasoning = reasoning
        elif self._waiting is not None:
            if self._waiting.join(text):
                return
            self._waiting = None
        self._text += text
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._interval_s <= 0 or now >= self._next_at or len(self._text) > _MAX_FRAME_CHARACTERS:
            self.flush()
        elif self._timer is None:
            self._timer = loop.call_at(self._next_at, self.flush)

    def flush(self) -> None:
        """Send what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._text and self._turn is not None:
            text, self._text = self._text, ""
            now = asyncio.get_running_loop().time()
            self._next_at = now + self._interval_s
            if self.first_at is None:
                self.first_at = now
            for start in range(0, len(text), _MAX_FRAME_CHARACTERS):
                piece = text[start : start + _MAX_FRAME_CHARACTERS]
                frame = fr.ReasoningDelta(text=piece) if self._reasoning else fr.TextDelta(text=piece)
                self._waiting = self._host.send_delta(self._turn, frame)

    def close(self) -> None:
        """Drop what waits: its turn goes on elsewhere."""
        self._text = ""
        self._turn = self._waiting = None
        if self._timer is not None:
            self._timer.cancel()


class PartialText:
    """What was streamed since the last message: as much as is kept of it should the turn be cancelled now."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes + 4  # a character more: so that the cut is seen, and marked
        self._pieces: list[str] = []
        self._size_bytes = 0

    def add(self, text: str) -> int:
        """Take a piece; its size in bytes."""
        size = len(text) if text.isascii() else len(text.encode())
        if self._size_bytes < self._limit_bytes:
            left = self._limit_bytes - self._size_bytes
            self._pieces.append(text if size <= left else cut_text(text, left))
            if len(self._pieces) >= _PIECES:
                self._pieces = ["".join(self._pieces)]
        self._size_bytes += size
        return size

    @property
    def text(self) -> str:
        """The beginning of it, perhaps a few bytes longer than a text may be."""
        return "".join(self._pieces)

    def clear(self) -> None:
        """It is the log's now, or nobody's."""
        if self._size_bytes:
            self._pieces, self._size_bytes = [], 0
