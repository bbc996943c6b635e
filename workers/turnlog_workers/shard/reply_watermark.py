"""Which terminal frames are out: what the events say of it (``replied``) is where the next owner begins to answer."""

from collections import deque

from turnlog_workers.base.ports import Sent


class Replied:
    """Terminal frames of one epoch that are on their way, in the order of their events."""

    def __init__(self, upto: int) -> None:
        self._upto = upto
        self._waiting: deque[tuple[int, Sent]] = deque()

    def add(self, offset: int, sent: Sent) -> None:
        """A frame that reports the event at this offset is on its way."""
        self._waiting.append((offset, sent))

    def upto(self, log_end: int) -> int:
        """No owner has to send the terminal frames of events up to this offset again.

        They are stored, or given up: nobody can store them, and who asks again is answered. ``log_end``: where
        confirmed events end.
        """
        self.forget_sent()
        upto = self._waiting[0][0] - 1 if self._waiting else log_end - 1
        self._upto = max(self._upto, upto)
        return self._upto

    def forget_sent(self) -> None:
        """Let go of the frames that are not on their way any more: with no event to come, nobody asks :meth:`upto`."""
        while self._waiting and not self._waiting[0][1].on_its_way():
            self._waiting.popleft()
