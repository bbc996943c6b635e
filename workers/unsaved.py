"""Confirmed events on their way to the partition's store."""

import asyncio

from streams.reader_rule import LoggedEvent, LogPosition
from workers.store_port import PartitionStore


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

    async def save(self, position: LogPosition) -> None:
        """Write everything up to ``position``, which is where the owner stands at this very moment.

        Raises what the store raises; nothing is lost then, the next call writes it.
        """
        events, self._events = self._events, []
        try:
            async with self._saving:
                if position.next_offset > self._store.position.next_offset:
                    await self._store.write(events, position)
        except BaseException:
            self._events = events + self._events
            raise
