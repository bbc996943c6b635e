"""The store of a shard: opened where it stands, made anew, or made of a long log before anybody claims."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping

from turnlog_streams.reader_rule import LogPosition, record_id
from turnlog_workers.base.ports import LogBrokenError
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.port import PartitionStore, StoreError

log = logging.getLogger(__name__)


class ShardStore:
    """Open, being opened, or closed."""

    def __init__(
        self, context: WorkerContext, partition: int, place: Mapping[str, object], told: Callable[[int], None]
    ) -> None:
        """``told`` hears of events that are read."""
        self._context = context
        self._partition = partition
        self._place = place
        self._told = told
        self._opening: asyncio.Task[PartitionStore] | None = None

    async def open(self, fresh: str) -> tuple[PartitionStore, int]:
        """The store, of this very log, and the log's end. ``fresh``: why it is to be made anew; empty: it is not.

        Raises :class:`LogError` or :class:`StoreError`.
        """
        store = await self._opened_as(fresh)
        begin, end = await self._context.event_log.bounds(self._partition)
        if begin > 0:
            raise LogBrokenError(
                f"events[{self._partition}] begins at {begin}: the event log lost its first records; its retention "
                "must be unlimited (run: turnlog doctor)"
            )
        if not await self._same_log(store.position, end):
            fresh = "it is of another event log"
            store = await self._opened_as(fresh)
        builds = self._context.builds
        if builds is not None and store.position.next_offset == 0 and builds.pay(end):
            await self._let_go()
            made = await builds.build(self._partition, end, tolerant=bool(fresh), told=self._told)
            store = await (self._opened_as(fresh) if made is None else self._opened(made))
        return store, end

    async def close(self) -> None:
        """For good. Raises :class:`StoreError`."""
        if self._opening is None:
            return
        opening, self._opening = self._opening, None
        try:
            store = await opening
        except Exception as error:
            log.warning("the store was not opened: %s", error, extra=self._place)
            return
        await store.close()

    async def _opened_as(self, fresh: str) -> PartitionStore:
        stores = self._context.stores
        if not fresh:
            return await self._opened(lambda: stores.open(self._partition))
        await self._let_go()
        return await self._opened(lambda: stores.open_fresh(self._partition, fresh))

    async def _let_go(self) -> None:
        """Of the store that is open."""
        opening, self._opening = self._opening, None
        if opening is not None:
            try:
                await (await opening).close()
            except StoreError as error:  # as it may be of one that is damaged: it is put away
                log.warning("the store was not closed in order: %s", error, extra=self._place)

    async def _opened(self, make: Callable[[], Coroutine[None, None, PartitionStore]]) -> PartitionStore:
        """The store that is open or being opened. Opening goes on when we are cancelled: :meth:`close` closes it."""
        if self._opening is None:
            self._opening = asyncio.create_task(make(), name=f"store {self._partition}")
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except Exception:
            self._opening = None
            raise

    async def _same_log(self, position: LogPosition, end: int) -> bool:
        """Does the record before the checkpoint still have the id that the store remembers?"""
        if position.next_offset == 0:
            return True
        if position.next_offset > end:
            return False
        async for events in self._context.event_log.read(
            self._partition, position.next_offset - 1, position.next_offset
        ):
            for event in events:
                return record_id(event.header, event.payload) == position.last_event_id
        return False
