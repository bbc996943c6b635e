"""Looks at the ends of our topics now and then: foreign claims, and requests that nobody delivers, show there."""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from streams.topics import Topics
from workers.ports import LogError
from workers.shard import Shard

log = logging.getLogger(__name__)


class EndsReader(Protocol):
    """Who knows where a topic ends."""

    async def ends(self, topic: str, partitions: Sequence[int], *, committed: bool = False) -> Mapping[int, int]:
        """End offset of each partition; with ``committed`` before what is not. Raises :class:`LogError`."""
        ...


class TailWatch:
    """Tells every serving shard where its topics end. ``shards`` is asked anew each time."""

    def __init__(
        self,
        reader: EndsReader,
        topics: Topics,
        shards: Mapping[int, Shard],
        *,
        interval_s: float,
        stalled_delivery_s: float,
        now: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._topics = topics
        self._shards = shards
        self._interval_s = interval_s
        self._stalled_delivery_s = stalled_delivery_s
        self._now = now
        self._looked: dict[int, tuple[int, int]] = {}  #: by partition, at the last look: delivered, and there
        self._behind_at = -math.inf

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.look()
            except LogError as error:
                log.warning("cannot look at the log's end: %s", error)

    async def look(self) -> None:
        """Look once. Raises :class:`LogError`."""
        partitions = [p for p, shard in self._shards.items() if shard.serving is not None]
        if not partitions:
            return
        events = await self._reader.ends(self._topics.events, partitions)
        requests = await self._reader.ends(self._topics.requests, partitions, committed=True)
        behind = self._intake_behind(requests)
        for partition in partitions:
            shard = self._shards.get(partition)
            if shard is not None and shard.serving is not None:
                shard.serving.notice(events[partition], requests[partition], intake_behind=behind)

    def _intake_behind(self, requests: Mapping[int, int]) -> bool:
        """Did Faust, a short while ago, still deliver what was old? A backlog comes partition by partition."""
        now = self._now()
        before, self._looked = self._looked, {}
        for partition, end in requests.items():
            shard = self._shards.get(partition)
            if shard is not None:
                delivered = shard.inbox.delivered_end
                delivered_before, end_before = before.get(partition, (delivered, end))
                if delivered_before < delivered < end_before:
                    self._behind_at = now
                self._looked[partition] = (delivered, end)
        return now - self._behind_at < self._stalled_delivery_s
