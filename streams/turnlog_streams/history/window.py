"""Which messages of a session are held in memory: those that a model may be shown, and what repairs their pairing.

A view made of these alone is the same as one of the whole history (``history.view``), as long as no result comes for a
call that lies more than :data:`CALLS_REACH` messages before the end of what is covered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.view import HistorySummary

CALLS_REACH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is before ``from_seq`` and behind ``to_seq``; of what is between, the newest turn and the newest calls."""

    from_seq: int = 1  #: what a summary covers begins here
    to_seq: int = 0  #: and ends here; below ``from_seq``: nothing is covered
    question_seq: int = 0  #: of the newest question: with it begins the newest turn

    @property
    def calls_from(self) -> int:
        """Covered messages with calls are held from here on: a late result may belong to one."""
        return self.to_seq - CALLS_REACH + 1

    @property
    def is_whole(self) -> bool:
        """Is every message held?"""
        return self.to_seq < self.from_seq

    def holds(self, message: HistoryMessage) -> bool:
        """Is this message held?"""
        seq = message.message_seq
        if not self.from_seq <= seq <= self.to_seq or seq >= self.question_seq:
            return True
        return bool(message.tool_calls) and seq >= self.calls_from

    def of(self, messages: Sequence[HistoryMessage]) -> list[HistoryMessage]:
        """Those that are held."""
        return [message for message in messages if self.holds(message)]


def window_of(summary: HistorySummary | None, question_seq: int) -> Window:
    """What is held of a session with this summary."""
    if summary is None:
        return Window()
    return Window(from_seq=summary.from_seq, to_seq=summary.to_seq, question_seq=question_seq)
