"""Server-sent events out of bytes, however the network cut them. Pure, and bounded.

Source: the HTML standard, "Parsing an event stream". Lines end in LF, CR LF or CR; an event ends with an empty line; of
its fields only ``event`` and ``data`` are of interest here. Unlike there, an event whose empty line is missing at the
end of the stream is not dropped: :meth:`SseReader.end` gives it, and the caller sees whether it is whole.
"""

from dataclasses import dataclass

MAX_EVENT_BYTES = 4 * 1024 * 1024  #: of one event, its unfinished line included: some servers send a message in one
_BOM = b"\xef\xbb\xbf"


class EventTooLargeError(ValueError):
    """An event, or a line that does not end, is larger than the reader takes."""


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event. ``data`` has its lines joined with LF; bytes that are no UTF-8 are U+FFFD in it."""

    data: str
    name: str = ""  #: of its ``event`` field


class SseReader:
    """Takes the bytes of one stream as they come."""

    __slots__ = ("_after_cr", "_begun", "_data", "_line", "_max_bytes", "_name", "_size")

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_event_bytes
        self._line: list[bytes] = []  # pieces of the line that has not ended
        self._data: list[bytes] = []  # lines of the event that has not ended
        self._name = b""
        self._size = 0  # of both
        self._after_cr = False  # an LF that comes first now belongs to that CR
        self._begun = False

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that end in these bytes. Raises :class:`EventTooLargeError`."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *more = data.split(b"\n")
        self._grow(first)
        if not more:
            return []
        events: list[SseEvent] = []
        lines = [b"".join(self._line), *more[:-1]]
        self._size -= len(lines[0])
        self._line = []
        for line in lines:
            event = self._take(line)
            if event is not None:
                events.append(event)
        self._grow(more[-1])
        return events

    def end(self) -> SseEvent | None:
        """Nothing follows: the event that was not ended by an empty line, if there is one."""
        line, self._line = b"".join(self._line), []
        event = self._take(line) if line else None
        return event or self._take(b"")

    def _grow(self, piece: bytes) -> None:
        if piece:
            self._line.append(piece)
            self._count(len(piece))

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._max_bytes:
            raise EventTooLargeError(f"an event of more than {self._max_bytes} bytes")

    def _take(self, line: bytes) -> SseEvent | None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatched()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._count(len(value) + 1)
        elif field == b"event":
            self._name = value[:1000]
        return None

    def _dispatched(self) -> SseEvent | None:
        data, name = self._data, self._name
        self._data, self._name, self._size = [], b"", 0
        if not data:
            return None
        return SseEvent(data=b"\n".join(data).decode(errors="replace"), name=name.decode(errors="replace"))
