"""Looks at the ends of our topics now and then: foreign claims, and requests that nobody delivers, show there.

While the group rebalances Faust delivers nothing, and that may take seconds: a join waits for members that are dead.
Who owns what is the log's to say, not the group's, so what we own goes on being served: then the looks come quickly,
and what they find is read from the topic.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from turnlog_streams.topics import Topics
from turnlog_workers.base.ports import LogBrokenError, LogError
from turnlog_workers.shard.partition import Shard, recreated
from turnlog_workers.shard.worker_context import Membership

log = logging.getLogger(__name__)
_UNSETTLED_INTERVAL_S = 0.05  #: between two looks while the group rebalances
_SETTLING_S = 0.2  #: a delivery takes some milliseconds, the first ones after a rebalance a little longer
_A_WAITING_REQUEST_S = 0.002  #: a backlog comes partition by partition: a delivery may merely have others before it
_MOST_FOR_A_BACKLOG = 12  #: times the patience without one


class EndsReader(Protocol):
    """Who knows where a topic ends."""

    async def ends(self, topic: str, partitions: Sequence[int], *, committed: bool = False) -> Mapping[int, int]:
        """End offset of each partition; with ``committed`` before what is not. Raises :class:`LogError`."""
        ...

    async def topic_id(self, topic: str) -> str | None:
        """Another one each time that it is made; ``None``: it is not there. Raises :class:`LogError`."""
        ...


class TailWatch:
    """Tells every serving shard where its topics end. ``shards`` is asked anew each time.

    ``broken`` hears the sentence when the requests topic is another one than that with ``requests_id``: what the log
    calls decided was never in it.
    """

    def __init__(
        self,
        reader: EndsReader,
        topics: Topics,
        shards: Mapping[int, Shard],
        *,
        membership: Membership,
        interval_s: float,
        stalled_delivery_s: float,
        now: Callable[[], float],
        requests_id: str,
        broken: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._topics = topics
        self._shards = shards
        self._membership = membership
        self._interval_s = interval_s
        self._stalled_delivery_s = stalled_delivery_s
        self._now = now
        self._requests_id = requests_id
        self._broken = broken
        self._was_away = False  #: a look failed: the topic may have been made again since
        self._assigned_at = -math.inf  #: of the assignment that the next one is about
        self._delivered_before: dict[int, int] = {}  #: by partition, when we first looked after that assignment

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self._until_next_look()
            try:
                await self.look()
            except LogBrokenError as error:
                self._broken(str(error))
                await asyncio.sleep(self._interval_s)
            except LogError as error:
                self._was_away = True
                log.warning("cannot look at the log's end: %s", error)
                await asyncio.sleep(self._interval_s)

    async def _until_next_look(self) -> None:
        """A pause; a short one while nobody else tells us of requests."""
        if self._unsettled:
            await asyncio.sleep(min(_UNSETTLED_INTERVAL_S, self._interval_s))
        else:
            # Not asyncio.wait_for: in Python 3.11 it forgets a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._membership.unsettled.wait()

    @property
    def _unsettled(self) -> bool:
        """Does the group rebalance, or has it only just done so, and nothing was delivered since?"""
        if self._membership.rebalancing:
            return True
        return self._now() - self._membership.assigned_at < self._stalled_delivery_s and not self._delivers()

    def _delivers(self) -> bool:
        """Has Faust delivered something since the assignment? Then it does, however long the others have to wait."""
        delivered = {partition: shard.inbox.delivered_end for partition, shard in self._shards.items()}
        if self._assigned_at != self._membership.assigned_at:
            self._assigned_at, self._delivered_before = self._membership.assigned_at, delivered
        before = self._delivered_before
        return any(end > before.get(partition, 0) for partition, end in delivered.items())

    def _patience_s(self, undelivered: int) -> float:
        """How long a request may be there and not be delivered, among so many of all partitions."""
        if self._membership.rebalancing:
            return 0.0  # nothing is delivered now, and nobody knows for how long
        patience_s = min(_SETTLING_S, self._stalled_delivery_s) if self._unsettled else self._stalled_delivery_s
        return min(patience_s + undelivered * _A_WAITING_REQUEST_S, patience_s * _MOST_FOR_A_BACKLOG)

    async def look(self) -> None:
        """Look once. Raises :class:`LogError`; :class:`LogBrokenError` where the requests topic is another one."""
        partitions = [p for p, shard in self._shards.items() if shard.serving is not None]
        if not partitions:
            self._membership.unanswered_since = None
            return
        if self._membership.unanswered_since is None:
            self._membership.unanswered_since = self._now()
        covered = {p: self._shards[p].inbox.covered for p in partitions}  # before its end: it was below that one
        events = await self._reader.ends(self._topics.events, partitions)
        requests = await self._reader.ends(self._topics.requests, partitions, committed=True)
        await self._check_requests(covered, requests)
        self._membership.unanswered_since = None
        patience_s = self._patience_s(self._undelivered(requests))
        for partition in partitions:
            shard = self._shards.get(partition)
            if shard is not None and shard.serving is not None:
                shard.requests_end = requests[partition]
                shard.serving.notice(events[partition], requests[partition], patience_s=patience_s)

    async def _check_requests(self, covered: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Is it the topic in which these requests were? Cheap, unless there is a doubt."""
        short = [partition for partition, end in ends.items() if covered[partition] >= end]
        if short:  # perhaps a transaction is open that an older worker did not wait for: the high watermark tells
            whole = await self._reader.ends(self._topics.requests, short)
            for partition in short:
                if covered[partition] >= whole[partition]:
                    how_we_know = f"decided up to {covered[partition]}, it ends at {whole[partition]}"
                    raise recreated(partition, how_we_know)
        if self._was_away:  # it may have got as many requests as it had
            found = await self._reader.topic_id(self._topics.requests)
            if found is not None and found != self._requests_id:
                raise recreated(min(covered), f"its id was {self._requests_id}, now it is {found}")
            self._was_away = found is None

    def _undelivered(self, requests: Mapping[int, int]) -> int:
        """How many requests (more or less) are there and were not delivered."""
        count = 0
        for partition, end in requests.items():
            shard = self._shards.get(partition)
            if shard is not None:
                count += max(0, end - max(shard.inbox.delivered_end, shard.inbox.covered + 1))
        return count
