"""What a runner sees of a session: the summary, and every message that it does not cover, word for word.

The log is never edited: what a model would refuse is repaired or left out here. Calls and results are paired by
position, since ids repeat in real conversations. A summary has a role of its own: it is nobody's message, and never
stored as one.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from turnlog_schemas.parts import ToolCall, text_content
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.turn import INTERRUPTED_TEXT

SUMMARY_ROLE = "summary"
BY_MODEL = "model"
BY_TRUNCATION = "truncation"
GIVEN = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySummary:
    """What stands for a range of messages: a recorded history compaction."""

    history_compaction_id: str
    from_seq: int
    to_seq: int  #: both ends inclusive
    text: str
    history_seq: int  #: the highest message_seq of the session when it was recorded
    method: str = BY_MODEL  #: or ``truncation``: no model read the messages; or ``given``: its request brought it

    def covers(self, message_seq: int) -> bool:
        """Does it stand for this message?"""
        return self.from_seq <= message_seq <= self.to_seq


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryView:
    """An assembled history: the summary (role ``summary``), the user's latest question, the messages not covered."""

    messages: tuple[HistoryMessage, ...]
    added: int = 0  #: results made up for calls that have none (``interrupted``), and calls shown a second time
    dropped: int = 0  #: results that belong to no call, or that a later one replaced


def assemble(
    history: Sequence[HistoryMessage], summary: HistorySummary | None = None, *, keep_open_calls: bool = False
) -> HistoryView:
    """The view of a whole history, in order of message_seq.

    ``keep_open_calls``: calls at the very end stay open, since the runner is about to run them.
    """
    if summary is None:
        return _repaired(history, (), keep_open_calls)
    start = bisect_left(history, summary.from_seq, key=_seq)
    end = bisect_right(history, summary.to_seq, key=_seq)
    covered, tail = history[start:end], history[end:]
    shown = [*history[:start], summary_message(summary)]
    if not any(message.role == "user" for message in tail):
        shown += latest_question(covered)
    return _repaired([*shown, *tail], covered, keep_open_calls)


def _seq(message: HistoryMessage) -> int:
    return message.message_seq


def summary_message(summary: HistorySummary) -> HistoryMessage:
    """The summary as a view shows it."""
    return HistoryMessage(message_seq=summary.to_seq, turn_id="", role=SUMMARY_ROLE, content=text_content(summary.text))


def latest_question(messages: Sequence[HistoryMessage]) -> list[HistoryMessage]:
    """The last user message, as a list of one, or none."""
    return next(([message] for message in reversed(messages) if message.role == "user"), [])


def _repaired(
    messages: Sequence[HistoryMessage], covered: Sequence[HistoryMessage], keep_open_calls: bool
) -> HistoryView:
    shown: list[HistoryMessage] = []
    for message in messages:  # each turn looks at its whole history: no call for a message, nearly always
        role, content = message.role, message.content
        if role == "tool" or message.tool_calls:
            break
        says = content and (text := content[0].text) and not text.isspace()
        if says or role != "assistant" or not says_nothing(message):
            shown.append(message)
    else:  # nothing to repair, mostly
        return HistoryView(messages=tuple(shown))
    repair = _Repair(covered)
    for message in messages:
        if message.role == "tool":
            repair.result(message)
        elif not says_nothing(message):
            if repair.unfinished:
                repair.close()
            repair.message(message)
    if not keep_open_calls:
        repair.close()
    repair.late_results()
    return HistoryView(messages=tuple(repair.out), added=repair.added, dropped=repair.dropped)


def says_nothing(message: HistoryMessage) -> bool:
    """Is it a model's message without text and without calls? The log keeps it; no model is shown it."""
    if message.role != "assistant" or message.tool_calls:
        return False
    return all(not part.text or part.text.isspace() for part in message.content or ())


class _Repair:
    """Walks a history once. A *group* is an assistant message with calls and the results right after it."""

    def __init__(self, covered: Sequence[HistoryMessage]) -> None:
        self.out: list[HistoryMessage] = []
        self.added = 0
        self.dropped = 0
        self._covered = covered
        self._caller: HistoryMessage | None = None  # the group's assistant message
        self._caller_at = 0  # where it stands
        self._open: list[tuple[str, ToolCall]] = []  # id as stored, call as shown
        self._answers: dict[str, int] = {}  # of the group: id as stored -> where its newest answer stands
        self._made: dict[str, tuple[HistoryMessage, ToolCall]] = {}  # id as stored -> newest call shown
        self._late: list[tuple[HistoryMessage, HistoryMessage]] = []  # caller with one call, and the result

    @property
    def unfinished(self) -> bool:
        """Is there anything to close?"""
        return bool(self._open or self._late)

    def message(self, message: HistoryMessage) -> None:
        """Anything but a result. The group before it is closed."""
        if self._answers:
            self._answers = {}
        if not message.tool_calls:
            self.out.append(message)
            return
        self._caller, self._caller_at = message, len(self.out)
        shown = _with_distinct_ids(message)
        stored_ids = (call.call_id for call in message.tool_calls)
        self._open = list(zip(stored_ids, shown.tool_calls, strict=True))
        self._made.update((stored_id, (shown, call)) for stored_id, call in self._open)
        self.out.append(shown)

    def result(self, result: HistoryMessage) -> None:
        """A result answers the first open call of its id. It is dropped only where there was never such a call."""
        call_id = result.tool_call_id or ""
        mine = next((index for index, (stored_id, _) in enumerate(self._open) if stored_id == call_id), None)
        if mine is not None:
            self._answer(mine, result)
        elif call_id in self._answers:
            self._replace_answer(call_id, result)
        elif caller := self._caller_of(call_id):
            call = caller.tool_calls[0]
            self._late.append((caller, replace(result, tool_call_id=call.call_id)))
            if not self._open:
                self.late_results()
        elif self._open:
            self._answer(0, result)
        else:
            self.dropped += 1

    def _answer(self, index: int, result: HistoryMessage) -> None:
        stored_id, call = self._open.pop(index)
        self._answers[stored_id] = len(self.out)
        self.out.append(result if result.tool_call_id == call.call_id else replace(result, tool_call_id=call.call_id))

    def _replace_answer(self, call_id: str, result: HistoryMessage) -> None:
        """A second answer replaces an interim one ("pending"), unless it only says that nothing is known."""
        self.dropped += 1
        index = self._answers[call_id]
        before = self.out[index]
        if before.interrupted or not result.interrupted:
            self.out[index] = replace(result, tool_call_id=before.tool_call_id)

    def _caller_of(self, call_id: str) -> HistoryMessage | None:
        """Who made the newest call of this id, with that call alone: its group is over, or covered by the summary."""
        if call_id in self._made:
            message, call = self._made[call_id]
            return replace(message, content=None, tool_calls=(call,))
        for message in reversed(self._covered):
            for stored in reversed(message.tool_calls):
                if stored.call_id == call_id:
                    return _with_distinct_ids(replace(message, content=None, tool_calls=(stored,)))
        return None

    def late_results(self) -> None:
        """Results that came after their group: the call is shown again, right before its result.

        They go before a group that stays open at the end of the history.
        """
        at = self._caller_at if self._open else len(self.out)
        self.out[at:at] = [message for pair in self._late for message in pair]
        self.added += len(self._late)
        self._late = []

    def close(self) -> None:
        """Nothing more comes for this group: open calls get a result that says so."""
        for _, call in self._open:
            assert self._caller is not None
            closed = HistoryMessage(
                message_seq=self._caller.message_seq,
                turn_id=self._caller.turn_id,
                role="tool",
                content=text_content(INTERRUPTED_TEXT),
                tool_call_id=call.call_id,
                name=call.name,
                interrupted=True,
            )
            self.out.append(closed)
            self.added += 1
        self._open = []
        self.late_results()


def _with_distinct_ids(message: HistoryMessage) -> HistoryMessage:
    """Within one message no provider takes an id twice, nor an empty one. The same object where nothing is wrong."""
    ids = [call.call_id for call in message.tool_calls]
    if all(ids) and len(set(ids)) == len(ids):
        return message
    taken = set(ids)
    calls: list[ToolCall] = []
    seen: set[str] = set()
    for call in message.tool_calls:
        shown = call
        if not call.call_id or call.call_id in seen:
            number = 2
            while (fresh := f"{call.call_id or 'call'}-{number}") in taken:
                number += 1
            taken.add(fresh)
            shown = replace(call, call_id=fresh)
        seen.add(call.call_id)
        calls.append(shown)
    return replace(message, tool_calls=tuple(calls))
