"""What waits for one partition of a topic, in order, and what becomes of it when the broker does not take it."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from aiokafka.errors import KafkaError, RecordTooLargeError, UnknownTopicOrPartitionError

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.ports import Headers
from turnlog_workers.kafka.connections import REFUSALS, REFUSED_RECORDS

log = logging.getLogger(__name__)
AGAIN = Backoff(0.5, 5.0)
MAX_TRIES = 12  #: a minute, for what may be given up
MAX_TRIES_IF_REFUSED = 3
#: One record may be to blame: each is tried on its own.
OF_ONE_RECORD = (*REFUSED_RECORDS, RecordTooLargeError)
#: Of a terminal frame that is too long for its topic: then it is cut to this, then to that.
SHORTER_BYTES = (64 * 1024, 4 * 1024, 0)
MANY_FRAMES = 4  #: that wait for a lane: with more, it collects longer, whoever waits
Shorten = Callable[[int], bytes]  #: the frame in about so many bytes


class SentFrame:
    """A frame (or a request of our own): on its way, then stored or given up."""

    __slots__ = ("_cuts", "_shorten", "_stored", "headers", "key", "terminal", "value")

    def __init__(
        self, key: bytes, value: bytes, headers: Headers, *, terminal: bool, shorten: Shorten | None = None
    ) -> None:
        self.key = key
        self.value = value
        self.headers = headers
        self.terminal = terminal  #: sent again when the broker does not take it
        self._shorten = shorten
        self._cuts = 0
        self._stored: bool | None = None

    def cut(self) -> bool:
        """Make it shorter, if it can be."""
        size = len(self.value)
        while self._shorten is not None and self._cuts < len(SHORTER_BYTES):
            self.value = self._shorten(SHORTER_BYTES[self._cuts])
            self._cuts += 1
            if len(self.value) < size:
                return True
        return False

    def on_its_way(self) -> bool:
        return self._stored is None

    def stored(self) -> bool:
        return self._stored is True

    def finish(self, *, stored: bool) -> None:
        """The broker has it, or it is given up: nobody here needs its bytes any more."""
        self._stored = stored
        self.value, self.headers, self._shorten = b"", (), None

    def join(self, text: str) -> bool:
        """Take up what is said next, if this is a delta that waits. False: it needs a frame of its own."""
        return False

    def withdraw(self) -> None:
        """Do not send it, if it is a delta that waits."""

    def make(self) -> int:
        """Encode it, if that is not done; how many deltas have joined it."""
        return 0


def _over(collecting: asyncio.Future[None]) -> None:
    if not collecting.done():
        collecting.set_result(None)


Encoded = tuple[bytes, Headers]


class WaitingDelta(SentFrame):
    """A delta that is encoded when it goes, with what has joined it."""

    __slots__ = ("_encode", "_pieces", "_room_bytes", "withdrawn")

    def __init__(self, key: bytes, text: str, encode: Callable[[str], Encoded], *, limit_bytes: int) -> None:
        """``limit_bytes``: of the joined text in UTF-8; what is longer by itself goes alone."""
        super().__init__(key, b"", (), terminal=False)
        self.withdrawn = False
        self._encode: Callable[[str], Encoded] | None = encode
        self._pieces = [text]
        self._room_bytes = limit_bytes - _size(text)

    def join(self, text: str) -> bool:
        size = _size(text)
        if self._encode is None or self.withdrawn or size > self._room_bytes:
            return False
        self._room_bytes -= size
        self._pieces.append(text)
        return True

    def withdraw(self) -> None:
        self.withdrawn = self._encode is not None

    def make(self) -> int:
        if self._encode is None:
            return 0
        pieces = self._pieces
        self.value, self.headers = self._encode(pieces[0] if len(pieces) == 1 else "".join(pieces))
        self._encode, self._pieces = None, []
        return len(pieces) - 1

    def finish(self, *, stored: bool) -> None:
        super().finish(stored=stored)
        self._encode, self._pieces = None, []


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


DROPPED = SentFrame(b"", b"", (), terminal=False)
DROPPED.finish(stored=False)


class Lane:
    """The frames of one topic and partition (-1: not known yet), in order for each session.

    Deltas that wait for others hold nothing up, and no other session's frame brings them out before their time.
    """

    def __init__(self, topic: str, partition: int, *, lasting: bool) -> None:
        """``lasting``: it is tried for ever, since nobody else would send what it holds."""
        self.topic = topic
        self.partition = partition
        self.lasting = lasting
        self.queue: deque[SentFrame] = deque()
        self.deltas: dict[bytes, list[WaitingDelta]] = {}  #: by key: they come behind what is queued
        self.delta_count = 0
        self.alone = 0  #: so many of the next go one by one
        self.pressed = asyncio.Event()  #: something is queued
        self._hurried = False  #: somebody waits for what is queued
        self._collecting: asyncio.Future[None] | None = None
        self._tries = 0

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"

    def add(self, frame: SentFrame) -> None:
        """Queue a frame, behind the deltas of its session; a delta waits for :meth:`release`."""
        if isinstance(frame, WaitingDelta):
            self.delta_count += 1
            before = self.deltas.get(frame.key)
            if before is None:
                self.deltas[frame.key] = [frame]
            else:
                before.append(frame)
            return
        if self.deltas and (before := self.deltas.pop(frame.key, None)) is not None:
            self.delta_count -= len(before)
            self.queue.extend(before)
        self.queue.append(frame)
        self.pressed.set()

    def hurry(self) -> None:
        """Somebody waits for what is queued now: collect no longer, if little waits."""
        self._hurried = True
        if self._collecting is not None and not self._collecting.done() and len(self.queue) <= MANY_FRAMES:
            self._collecting.set_result(None)

    async def collect(self, linger_s: float) -> None:
        """Let more come: for so long, or until somebody waits for it."""
        hurried, self._hurried = self._hurried and len(self.queue) <= MANY_FRAMES, False
        if hurried or linger_s <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        collecting = self._collecting = loop.create_future()
        timer = loop.call_later(linger_s, _over, collecting)
        try:
            await collecting
        finally:
            timer.cancel()
            self._collecting, self._hurried = None, False

    def release(self) -> int:
        """Queue the deltas; how many they are."""
        for deltas in self.deltas.values():
            self.queue.extend(deltas)
        released, self.deltas, self.delta_count = self.delta_count, {}, 0
        return released

    def next_batch(self, most: int) -> list[SentFrame]:
        """Take what goes next."""
        if self.alone:
            self.alone -= 1
            most = 1
        return [self.queue.popleft() for _ in range(min(len(self.queue), most))]

    def went_well(self) -> None:
        """The broker took some."""
        self._tries = 0

    def failed(self, batch: list[SentFrame], error: BaseException) -> tuple[list[SentFrame], float]:
        """Put back what is to be tried again; what is given up instead, and the pause before the next try."""
        of_one = isinstance(error, OF_ONE_RECORD) or not isinstance(error, KafkaError | OSError)
        if of_one and len(batch) > 1:
            self.queue.extendleft(reversed(batch))
            self.alone = len(batch)
            return [], 0.0
        if of_one and isinstance(error, OF_ONE_RECORD) and batch[0].cut():
            log.warning("a frame is too long for %s: it is cut", self)
            self.queue.appendleft(batch[0])
            self.alone = max(self.alone, 0) + 1
            return [], 0.0
        if of_one:
            return batch, 0.0
        self._tries += 1
        ephemeral = [frame for frame in batch if not frame.terminal]
        self.queue.extendleft(reversed([frame for frame in batch if frame.terminal]))
        most = MAX_TRIES_IF_REFUSED if isinstance(error, (UnknownTopicOrPartitionError, *REFUSALS)) else MAX_TRIES
        if not self.lasting and self._tries >= most:
            return [*ephemeral, *self.give_up()], 0.0
        return ephemeral, AGAIN.next_delay(self._tries)

    def give_up(self) -> Iterable[SentFrame]:
        """Empty it: nobody can store what it holds."""
        self.release()
        given_up, self.queue = self.queue, deque()
        self.alone = self._tries = 0
        return given_up
