"""Frames of many sessions out of one reader of the reply topic: each reader of a session has a bounded queue.

A reader that is behind (it came with a position, or its queue was full) reads what it missed again: from the records
that came last, which are kept, or from the topic, where one look serves all that wait for the same partition. So no
frame is lost, nobody waits for a slow reader, and memory is bounded whoever stops reading.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from turnlog.client.replies import ReplyFrame
from turnlog.errors import TurnlogError

log = logging.getLogger(__name__)
_MAX_RECENT_BYTES = 32 * 1024 * 1024  #: of records that are kept for those who are a little behind
_MAX_QUEUED_FRAMES = 512  #: of one reader
_MAX_QUEUED_BYTES = 1024 * 1024  #: of one reader, and one frame
_MAX_LOOKS = 4  #: into the topic at a time
_RECORD_OVERHEAD_BYTES = 200


class Record(Protocol):
    """What is needed of a consumer's record."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


Decode = Callable[[Any], Awaitable[ReplyFrame | None]]
#: The records of a partition from one offset up to another (exclusive), in lists.
ReadRange = Callable[[int, int, int], AsyncGenerator[list[Any], None]]


@dataclass(slots=True, kw_only=True, eq=False)
class _Reader:
    """Somebody who follows a session: what came for it since ``live_from``."""

    key: bytes
    live_from: int
    frames: deque[tuple[ReplyFrame, int]] = field(default_factory=deque)
    queued_bytes: int = 0
    behind: bool = False  #: the queue was full: what came since is not in it
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, reply: ReplyFrame, size: int) -> None:
        if self.behind:
            return
        full = len(self.frames) >= _MAX_QUEUED_FRAMES or self.queued_bytes + size > _MAX_QUEUED_BYTES
        if full and self.frames:
            self.behind = True
        else:
            self.frames.append((reply, size))
            self.queued_bytes += size
        self.woken.set()

    def pop(self) -> ReplyFrame:
        reply, size = self.frames.popleft()
        self.queued_bytes -= size
        return reply


@dataclass(slots=True, kw_only=True, eq=False)
class _Missed:
    """Frames of a session that somebody wants: so many as fit into a queue."""

    key: bytes
    start: int
    end: int
    records: list[Any] = field(default_factory=list)
    size: int = 0
    found: asyncio.Future[int]  #: from which offset on there may be more

    def take(self, record: Any) -> None:
        if self.found.done() or not self.start <= record.offset < self.end:
            return
        size = _size(record)
        if self.records and (len(self.records) >= _MAX_QUEUED_FRAMES or self.size + size > _MAX_QUEUED_BYTES):
            self.found.set_result(record.offset)
        else:
            self.records.append(record)
            self.size += size


class SessionFeed:
    """Fans the records of a reply topic out. Use it from one event loop."""

    def __init__(self, decode: Decode, read_range: ReadRange) -> None:
        self._decode = decode
        self._read_range = read_range
        self._next: dict[int, int] = {}  # by partition: the offset that comes next
        self._readers: dict[bytes, list[_Reader]] = {}
        self._recent: dict[int, deque[Any]] = {}
        self._recent_from: dict[int, int] = {}  # from here on all records of a partition are kept
        self._recent_order: deque[int] = deque()  # their partitions, the oldest first
        self._recent_bytes = 0
        self._wanted: dict[int, list[_Missed]] = {}
        self._looking: dict[int, asyncio.Task[None]] = {}
        self._looks = asyncio.Semaphore(_MAX_LOOKS)
        self._error: TurnlogError | None = None
        self.readers = 0  #: that follow a session now

    def start(self, positions: Mapping[int, int]) -> None:
        """The topic is read from these offsets on, by partition."""
        self._next, self._error = dict(positions), None
        self._recent, self._recent_from = {}, {}
        self._recent_order.clear()
        self._recent_bytes = 0

    # ---- what comes

    def wants(self, record: Record) -> bool:
        """Keep note of a record that came. Does anybody follow its session?"""
        self._next[record.partition] = record.offset + 1
        if record.partition in self._recent:
            self._keep(record)
        return record.key in self._readers

    def deliver(self, record: Record, reply: ReplyFrame) -> None:
        """Give its frame to those who follow its session."""
        size = _size(record)
        for reader in self._readers.get(record.key or b"", ()):
            reader.put(reply, size)

    def _keep(self, record: Record) -> None:
        self._recent[record.partition].append(record)
        self._recent_order.append(record.partition)
        self._recent_bytes += _size(record)
        while self._recent_bytes > _MAX_RECENT_BYTES:
            partition = self._recent_order.popleft()
            gone = self._recent[partition].popleft()
            self._recent_from[partition] = gone.offset + 1
            self._recent_bytes -= _size(gone)

    def fail(self, error: TurnlogError) -> None:
        """Nothing comes any more: whoever follows is told."""
        self._error = error
        for readers in self._readers.values():
            for reader in readers:
                reader.woken.set()
        for looking in self._looking.values():
            looking.cancel()

    # ---- who follows

    async def follow(self, key: bytes, partition: int, start: int | None) -> AsyncGenerator[ReplyFrame, None]:
        """The frames of a session from an offset on (``None``: from now on), in order, each once, without end.

        Raises a :class:`TurnlogError` when nothing can be read any more.
        """
        if partition not in self._recent:
            self._recent[partition], self._recent_from[partition] = deque(), self._next[partition]
        wanted = self._next[partition] if start is None else start
        while True:
            reader = self._register(key, partition)
            try:
                while wanted < reader.live_from:
                    records, wanted = await self._missed(key, partition, wanted, reader.live_from)
                    for record in records:
                        reply = await self._decode(record)
                        if reply is not None:
                            yield reply
                while not reader.behind or reader.frames:
                    if not reader.frames:
                        if self._error is not None:
                            raise self._error
                        reader.woken.clear()
                        await reader.woken.wait()
                        continue
                    reply = reader.pop()
                    if reply.offset >= wanted:
                        wanted = reply.offset + 1
                        yield reply
            finally:
                self._unregister(reader)

    def _register(self, key: bytes, partition: int) -> _Reader:
        if self._error is not None:
            raise self._error
        reader = _Reader(key=key, live_from=self._next[partition])
        self._readers.setdefault(key, []).append(reader)
        self.readers += 1
        return reader

    def _unregister(self, reader: _Reader) -> None:
        readers = self._readers[reader.key]
        readers.remove(reader)
        self.readers -= 1
        if not readers:
            del self._readers[reader.key]

    # ---- what was missed

    async def _missed(self, key: bytes, partition: int, start: int, end: int) -> tuple[list[Any], int]:
        """Some records of a session in a range, and where to go on."""
        missed = _Missed(key=key, start=start, end=end, found=asyncio.get_running_loop().create_future())
        if start >= self._recent_from[partition]:
            for record in self._recent[partition]:
                if record.key == key:
                    missed.take(record)
        else:
            self._wanted.setdefault(partition, []).append(missed)
            if partition not in self._looking:
                self._looking[partition] = asyncio.create_task(self._look(partition), name="missed reply frames")
            await missed.found
        return missed.records, missed.found.result() if missed.found.done() else end

    async def _look(self, partition: int) -> None:
        """Read the topic for all that wait for this partition, until none does."""
        try:
            while self._wanted.get(partition):
                async with self._looks:
                    waiting = self._wanted.pop(partition)
                    try:
                        await self._read_for(partition, waiting)
                    except TurnlogError as error:
                        _fail(waiting, error)
                    except Exception as error:
                        log.exception("reply frames of partition %d cannot be read again", partition)
                        _fail(waiting, TurnlogError(f"reply frames cannot be read again: {type(error).__name__}"))
                    finally:
                        _fail(waiting, self._error or TurnlogError("reply frames are not read any more"))
        finally:
            del self._looking[partition]
            _fail(self._wanted.pop(partition, []), self._error or TurnlogError("reply frames are not read any more"))

    async def _read_for(self, partition: int, waiting: list[_Missed]) -> None:
        by_key: dict[bytes, list[_Missed]] = {}
        for missed in waiting:
            by_key.setdefault(missed.key, []).append(missed)
        first, end = min(missed.start for missed in waiting), max(missed.end for missed in waiting)
        async with aclosing(self._read_range(partition, first, end)) as read:
            async for records in read:
                for record in records:
                    for missed in by_key.get(record.key or b"", ()):
                        missed.take(record)
                if all(missed.found.done() for missed in waiting):
                    return
        for missed in waiting:
            if not missed.found.done():
                missed.found.set_result(missed.end)


def _fail(waiting: list[_Missed], error: TurnlogError) -> None:
    for missed in waiting:
        if not missed.found.done():
            missed.found.set_exception(error)


def _size(record: Record) -> int:
    return len(record.value or b"") + _RECORD_OVERHEAD_BYTES
