"""What an owner reads of the log before it serves, on its way into the store."""

import asyncio
from collections.abc import Callable, Sequence

from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.store.port import PartitionStore


class CatchUp:
    """Collects what is read into store-sized batches; while one is written, the next one is read."""

    def __init__(self, store: PartitionStore, batch_events: int, taken: Callable[[int], None]) -> None:
        """``taken`` hears how many events were read."""
        self._store = store
        self._batch_events = batch_events
        self._taken = taken
        self._events: list[LoggedEvent] = []
        self._writing: asyncio.Task[object] | None = None

    async def take(self, events: Sequence[LoggedEvent], position: LogPosition) -> None:
        """Some more, up to this position."""
        self._events.extend(events)
        self._taken(len(events))
        if len(self._events) >= self._batch_events:
            await self._written()
            self._write(position)

    async def finish(self, position: LogPosition) -> None:
        """Everything is written, up to this position."""
        await self._written()
        if position.next_offset != self._store.position.next_offset:
            self._write(position)
            await self._written()

    def _write(self, position: LogPosition) -> None:
        events, self._events = self._events, []
        self._writing = asyncio.create_task(self._store.write(events, position), name="a batch of the catch-up")
        # Of an abandoned claim: the next one reads and writes the same, and hears of it.
        self._writing.add_done_callback(lambda writing: writing.cancelled() or writing.exception())

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing
