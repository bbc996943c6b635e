"""A sum over the messages of a session, of which only the new ones are looked at."""

from collections.abc import Callable, Sequence

from turnlog_streams.history.messages import HistoryMessage


class RunningSum:
    """What messages come to, each by itself. They are added at the end; where others leave, all are counted again."""

    def __init__(self, each: Callable[[HistoryMessage], int]) -> None:
        self._each = each
        self._start_anew()

    def _start_anew(self) -> None:
        self._count = self._sum = 0  #: so many messages, and what they come to
        self._last: HistoryMessage | None = None  #: of them

    def over(self, messages: Sequence[HistoryMessage]) -> int:
        """The sum over all of them."""
        if self._count and (self._count > len(messages) or messages[self._count - 1] is not self._last):
            self._start_anew()  # a failed decision's messages are gone again, and others may have come
        if self._count < len(messages):
            self._sum += sum(map(self._each, messages[self._count :]))
            self._count, self._last = len(messages), messages[-1]
        return self._sum
