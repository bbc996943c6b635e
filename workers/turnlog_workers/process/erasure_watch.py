"""What an erasure reaches late, in a worker of a sealed prefix: files of partitions that are not its own, late keys.

The owner of a partition deletes rows as it reads the event. Whoever owned it before still has a file of then, and may
never own it again.
"""

import asyncio
import logging
from collections.abc import Callable

from turnlog_workers.base.ports import LogError
from turnlog_workers.base.tasks import kept_running
from turnlog_workers.kafka.session_keys import ErasureMarks, Send, SessionKeys
from turnlog_workers.kafka.topic_reader import TopicReader
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.port import StoreError
from turnlog_workers.store.store_files import delete_outworn, partitions_of_files

log = logging.getLogger(__name__)
_LOOK_S = 600.0


class ErasureWatch:
    """Looks at once, and again and again."""

    def __init__(self, keys: SessionKeys, marks: ErasureMarks, stores: StoreDirectory, partitions: range) -> None:
        """``partitions``: of the topic."""
        self._keys = keys
        self._marks = marks
        self._stores = stores
        self._partitions = partitions

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.look()
            except (LogError, StoreError, OSError) as error:
                log.warning("whether something was erased elsewhere cannot be seen now: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Once. Raises :class:`LogError`, :class:`StoreError` or ``OSError``."""
        await self._keys.look_again()  # what is late among them goes with the next append
        for partition in await asyncio.to_thread(partitions_of_files, self._stores.path):
            if partition in self._partitions:
                await self._marks.refresh(partition)
        for path in await self._stores.run(delete_outworn, self._stores.path, self._marks.newest_ms):
            log.info("%s is deleted: something was erased since, and its partition is not ours", path)


def watched_keys(
    topic: str,
    partitions: int,
    stores: StoreDirectory,
    reader: TopicReader,
    send: Send,
    *,
    gave_up: Callable[[str], None],
) -> tuple[SessionKeys, "asyncio.Task[None]"]:
    """A worker's keys, and the watch over what it erases late."""
    keys = SessionKeys(topic, partitions, reader, send)
    watch = ErasureWatch(keys, ErasureMarks(topic, reader), stores, range(partitions))
    return keys, kept_running(watch.run, "the watch over erasures", gave_up=gave_up)
