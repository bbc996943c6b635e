"""A sum over the messages of a session, of which only the new ones are looked at."""

from collections.abc import Callable, Sequence

from turnlog_streams.history.messages import HistoryMessage


class RunningSum:
    """What messages come to, each by itself. They are added at the end, and taken away there."""

    def __init__(self, each: Callable[[HistoryMessage], int]) -> None:
        self._each = each
        self._count = self._sum = 0  #: so many messages, and what they come to

    def over(self, messages: Sequence[HistoryMessage]) -> int:
        """The sum over all of them."""
        if self._count > len(messages):  # a failed decision's messages are gone again
            self._count = self._sum = 0
        if self._count < len(messages):
            self._sum += sum(map(self._each, messages[self._count :]))
            self._count = len(messages)
        return self._sum
