"""Confirmed events on their way to the partition's store."""

import asyncio
from collections.abc import Callable

from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.store.port import PartitionStore


class Unsaved:
    """Collects events; :meth:`save` writes all of them, in order, with the position behind them."""

    def __init__(self, store: PartitionStore) -> None:
        self._store = store
        self._events: list[LoggedEvent] = []
        self._saving = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event: LoggedEvent) -> None:
        """A confirmed event."""
        self._events.append(event)

    async def save(self, position: Callable[[], LogPosition]) -> None:
        """Write everything up to where the owner stands (asked at the moment when the events are taken).

        Raises what the store raises; nothing is lost then, the next call writes it.
        """
        async with self._saving:
            # Together, without a wait in between: rows and checkpoint must speak of the same prefix of the log.
            events, self._events = self._events, []
            upto = position()
            try:
                if upto.next_offset > self._store.position.next_offset:
                    await self._store.write(events, upto)
            except BaseException:
                self._events = events + self._events
                raise
