"""Confirmed events on their way to the partition's store: many at a time, since a commit costs more than an event."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from turnlog_streams.folding.fold import StreamName
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.store.port import DamagedStoreError, PartitionStore, Saved

_MANY_BYTES = 8 * 1024 * 1024  #: of encoded events: in memory they take some times as much


class Unsaved:
    """Collects events; :meth:`save` writes all of them, in order, with the position behind them."""

    def __init__(self, store: PartitionStore, *, many_events: int) -> None:
        self._store = store
        self._many_events = many_events
        self._events: list[LoggedEvent] = []
        self._bytes = 0
        self._saving = asyncio.Lock()
        self._became_many = asyncio.Event()
        self.saved_at = time.time()  #: when the store was as new as the log; seconds since 1970, shown only
        self.failed_at: float | None = None
        self.damage: DamagedStoreError | None = None  #: of the store, whatever showed it: it cannot take them any more

    def __len__(self) -> int:
        return len(self._events)

    @property
    def are_many(self) -> bool:
        """Does a commit pay?"""
        return self.exceed(1)

    def exceed(self, times: int) -> bool:
        """Are they so many times as many as pay for a commit?"""
        return len(self._events) >= times * self._many_events or self._bytes >= times * _MANY_BYTES

    async def until_many(self, timeout_s: float) -> None:
        """Wait for more to come until a commit pays; no longer than this."""
        self._became_many.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._became_many.wait()

    def append(self, event: LoggedEvent, size_bytes: int) -> None:
        """A confirmed event."""
        self._events.append(event)
        self._bytes += size_bytes
        if self._bytes >= _MANY_BYTES or len(self._events) >= self._many_events:
            self._became_many.set()

    async def save(self, position: Callable[[], LogPosition]) -> Mapping[StreamName, Saved]:
        """Write everything up to where the owner stands (asked at the moment when the events are taken).

        How far streams are saved then.

        Raises what the store raises; nothing is lost then, the next call writes it.
        """
        async with self._saving:
            # Together, without a wait in between: rows and checkpoint must speak of the same prefix of the log.
            events, self._events = self._events, []
            size, self._bytes = self._bytes, 0
            upto = position()
            try:
                saved: Mapping[StreamName, Saved] = {}
                if upto.next_offset > self._store.position.next_offset or self._store.outworn:
                    saved = await self._store.write(events, upto)
            except BaseException:
                self._events = events + self._events
                self._bytes += size
                self.failed_at = time.time()
                raise
            self.saved_at = time.time()
            return saved
