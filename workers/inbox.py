"""Requests of one assignment that are not confirmed yet, and their acknowledgements in order.

Whatever was dropped, skipped or never delivered is read from the topic itself, so a full inbox may drop.
"""

import logging
from collections.abc import Callable

from workers.logs import at
from workers.ports import RequestLog, RequestRecord

log = logging.getLogger(__name__)
_FILL_BATCH = 500


class Inbox:
    """The inbox of one assigned partition. It survives releases; only the end of the assignment empties it."""

    def __init__(self, *, limit: int, ack: Callable[[int], None]) -> None:
        self._records: dict[int, RequestRecord | None] = {}  # None: the topic has no record there
        self._dropped: set[int] = set()  # delivered when there was no room, and to be acknowledged all the same
        self._limit = limit
        self._ack = ack
        self.covered = -1  #: the confirmed fold covers every request up to here
        self.known_end = 0  #: some request below this offset exists and must be decided
        self.delivered_end = 0  #: behind the highest delivery
        self._silent_since: tuple[int, float] | None = None  #: ``delivered_end`` and when it was first seen so

    def __len__(self) -> int:
        return len(self._records)

    @property
    def full(self) -> bool:
        """Should deliveries be held back?"""
        return len(self._records) >= self._limit

    def deliver(self, record: RequestRecord) -> None:
        """Take a delivery: acknowledge it if it is covered, keep it if there is room (again, after a rebalance)."""
        self.delivered_end = max(self.delivered_end, record.offset + 1)
        self.known_end = max(self.known_end, self.delivered_end)
        if record.offset <= self.covered:
            self._ack(record.offset)
        elif not self.full:
            self._records[record.offset] = record
        else:
            self._dropped.add(record.offset)

    def put(self, offset: int, record: RequestRecord | None) -> None:
        """Keep what was read from the topic."""
        self._records.setdefault(offset, record)

    def has(self, offset: int) -> bool:
        """Is the request at this offset here (or known not to exist)?"""
        return offset in self._records

    def get(self, offset: int) -> RequestRecord | None:
        """The request at an offset that is here."""
        return self._records[offset]

    def missing_from(self, offset: int) -> int:
        """End (exclusive) of the missing range that starts at ``offset``; ``offset`` itself when none is missing."""
        if offset in self._records or offset >= self.known_end:
            return offset
        above = [known for known in self._records if known > offset]
        return min(above, default=self.known_end)

    async def fill(self, requests: RequestLog, partition: int, start: int, end: int) -> int:
        """Read (some of) a missing range from the topic: requests that were not delivered.

        ``start``, or a higher offset if the broker has deleted what lies below it: then nothing is read.
        """
        first, _ = await requests.bounds(partition)
        if first > start:
            return min(first, end)
        end = min(end, start + _FILL_BATCH)
        found: dict[int, RequestRecord] = {}
        async for records in requests.read(partition, start, end):
            found.update((record.offset, record) for record in records)
        for offset in range(start, end):
            self.put(offset, found.get(offset))
        log.info(
            "read %d requests that were not delivered, from %d",
            len(found),
            start,
            extra=at(partition=partition, offset=start),
        )
        return start

    def cover(self, upto: int) -> None:
        """Everything up to here is confirmed: acknowledge it, in order, and forget it."""
        first, self.covered = self.covered + 1, max(self.covered, upto)
        if self._dropped:
            self._cover_dropped()
            return
        few = self.covered - first < len(self._records)
        for offset in range(first, self.covered + 1) if few else sorted(self._records):
            if offset <= self.covered and offset in self._records:
                del self._records[offset]
                self._ack(offset)

    def _cover_dropped(self) -> None:
        """As above, with those that were delivered and had no room: nobody else would acknowledge them."""
        for offset in sorted({*self._records, *self._dropped}):
            if offset > self.covered:
                return
            self._dropped.discard(offset)
            self._records.pop(offset, None)
            self._ack(offset)

    def silent_for(self, wanted: int, requests_end: int, now: float) -> float:
        """Seconds since the last delivery while the request ``wanted`` is there and does not come; 0: nothing is amiss.

        Counted from the first call that finds it so, and from the start after every delivery: slow is not lost.
        """
        if wanted >= requests_end or self.has(wanted):
            self._silent_since = None
            return 0.0
        if self._silent_since is None or self._silent_since[0] != self.delivered_end:
            self._silent_since = (self.delivered_end, now)
        return now - self._silent_since[1]
