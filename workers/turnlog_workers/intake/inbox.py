"""Requests of one assignment that are not confirmed yet, and their acknowledgements in order.

Whatever was dropped, skipped or never delivered is read from the topic itself, so a full inbox may drop.
"""

import logging
from collections.abc import Callable

from turnlog_workers.base.counted import counted
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import RequestLog, RequestRecord, UnreadableRange

log = logging.getLogger(__name__)
_FILL_BATCH = 500


class Inbox:
    """The inbox of one assigned partition. It survives releases; only the end of the assignment empties it."""

    def __init__(self, *, limit: int, ack: Callable[[int], None]) -> None:
        # None: the topic has no record there, or it is in an unreadable range, which is kept at its first offset.
        self._records: dict[int, RequestRecord | UnreadableRange | None] = {}
        self._dropped: set[int] = set()  # delivered when there was no room, and to be acknowledged all the same
        self._skipped = range(0)  # passed over by the delivery, and to be acknowledged all the same
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

    def skip(self, start: int, end: int) -> None:
        """The delivery goes on at ``end``, whatever is before it: all of that is to be read from the topic."""
        self.delivered_end = max(self.delivered_end, end)
        self.known_end = max(self.known_end, end)
        for offset in range(start, min(end, self.covered + 1)):
            self._ack(offset)
        if self._skipped.stop > self.covered + 1:
            start = min(start, self._skipped.start)
        self._skipped = range(start, max(end, self._skipped.stop))

    def put(self, offset: int, record: RequestRecord | UnreadableRange | None) -> None:
        """Keep what was read from the topic."""
        self._records.setdefault(offset, record)

    def has(self, offset: int) -> bool:
        """Is the request at this offset here (or known not to exist)?"""
        return offset in self._records

    def get(self, offset: int) -> RequestRecord | UnreadableRange | None:
        """What is at an offset that is here."""
        return self._records[offset]

    def missing_from(self, offset: int) -> int:
        """End (exclusive) of the missing range that starts at ``offset``; ``offset`` itself when none is missing."""
        if offset in self._records or offset >= self.known_end:
            return offset
        above = [known for known in self._records if known > offset]
        return min(above, default=self.known_end)

    async def fill(
        self, requests: RequestLog, partition: int, start: int, end: int, *, log_level: int = logging.INFO
    ) -> int:
        """Read (some of) a missing range from the topic: requests that were not delivered.

        ``start``, or a higher offset if the broker has deleted what lies below it: then nothing is read.
        """
        first, _ = await requests.bounds(partition)
        if first > start:
            return min(first, end)
        end = min(end, start + _FILL_BATCH)
        found: dict[int, RequestRecord | UnreadableRange] = {}
        async for records in requests.read(partition, start, end):
            found.update((item.first if isinstance(item, UnreadableRange) else item.offset, item) for item in records)
        for offset in range(start, end):
            self.put(offset, found.get(offset))
        log.log(
            log_level if found else logging.DEBUG,  # a marker of a transaction is nothing to talk of
            "read %s from %d on, past the group's delivery",
            counted(len(found), "request"),
            start,
            extra=at(partition=partition, offset=start),
        )
        return start

    def cover(self, upto: int) -> None:
        """Everything up to here is confirmed: acknowledge it, in order, and forget it."""
        first, self.covered = self.covered + 1, max(self.covered, upto)
        if self._dropped or self._skipped.stop > first:
            self._cover_passed_over(first)
            return
        few = self.covered - first < len(self._records)
        for offset in range(first, self.covered + 1) if few else sorted(self._records):
            if offset <= self.covered and offset in self._records:
                del self._records[offset]
                self._ack(offset)

    def _cover_passed_over(self, first: int) -> None:
        """As above, with what had no room or was skipped: nobody else would acknowledge it."""
        due = {offset for offset in (*self._records, *self._dropped) if offset <= self.covered}
        due.update(range(max(first, self._skipped.start), min(self.covered + 1, self._skipped.stop)))
        for offset in sorted(due):
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
