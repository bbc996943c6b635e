"""What every model of a run is given, held against the log as it then is: nothing of it may be missing or wrong."""

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import takewhile

from tests.checker import accepted_events
from tests.checker.log_view import ACCEPTED, TERMINAL
from tests.checker.requests import home_of
from tests.simulation.world import World
from turnlog_schemas import events as ev
from turnlog_schemas.parts import ToolCall, content_text, text_content
from turnlog_streams.history.messages import HistoryMessage, history_message
from turnlog_streams.history.openai_format import openai_messages, validate_openai
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.turn import without_result
from turnlog_workers.runners.base import Runner, RunnerOutput, TurnInput


class WatchedRunner:
    """A runner whose every input is looked at."""

    def __init__(self, inner: Runner, world: World) -> None:
        self._inner = inner
        self._world = world

    @property
    def alive(self) -> bool:
        return self._inner.alive

    def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        """As the runner does, after a look at what it is given."""
        log = self._world.events[home_of(turn.session_id, self._world.partition_count)]
        where = f"session {turn.session_id}, turn {turn.turn_id}, attempt {turn.attempt}, epoch {turn.fencing_token}"
        if self._world.is_marked(home_of(turn.session_id, self._world.partition_count), f"session:{turn.session_id}"):
            return self._inner.run(turn)  # it may be blank: an owner died between the mark and its event
        for text in what_is_wrong(turn, known_to_owner(log, turn)):
            self._world.finds("model input", where, text)
        return self._inner.run(turn)

    async def aclose(self) -> None:
        await self._inner.aclose()


def known_to_owner(log: Sequence[LoggedEvent], turn: TurnInput) -> list[LoggedEvent]:
    """The session's events up to the end of the owner's epoch: what came after it, a sleeper cannot know."""
    return [
        event
        for event in accepted_events(log)
        if event.header.stream_kind == ev.SESSION
        and event.header.stream_id == turn.session_id
        and event.header.epoch <= turn.fencing_token
    ]


def what_is_wrong(turn: TurnInput, events: Sequence[LoggedEvent]) -> Iterator[str]:
    """Everything in an input that the events do not say."""
    if any(event.header.turn_id == turn.turn_id and isinstance(event.payload, TERMINAL) for event in events):
        return  # it was cancelled this very moment: nobody will hear of it
    stored = stored_messages(events)
    summaries = [event.payload for event in events if isinstance(event.payload, ev.HistoryCompacted)]
    shown = view_of(stored, summaries[-1] if summaries else None)
    if list(turn.assembled) != shown:
        yield f"assembled is {brief(turn.assembled)}, the log says {brief(shown)}"
    mine = [message for message in stored if message.turn_id == turn.turn_id]
    results = list(takewhile(lambda message: message.role == "tool", mine))
    rest = mine[len(results) + bool(turn.user_content) :]
    if list(turn.turn_messages) != rest:
        yield f"the turn's messages are {brief(turn.turn_messages)}, the log says {brief(rest)}"
    shown_results = [message for message in results if message in turn.assembled]  # a summary may cover the others
    if list(turn.tool_outputs) not in (results, shown_results):
        yield f"its tool outputs are {brief(turn.tool_outputs)}, the log says {brief(results)}"
    asked = [event.payload.content for event in events if _accepts(event, turn.turn_id)]
    questions = [message.content for message in turn.assembled if (message.role, message.turn_id) == _user_of(turn)]
    if asked != [turn.user_content] or questions != ([turn.user_content] if turn.user_content else []):
        yield f"the question {asked} is in it as {questions}, and as {turn.user_content}"
    before = [message for message in turn.assembled if message.turn_id != turn.turn_id or message in results]
    if list(turn.history) != before:
        yield "its history is not what is assembled before the turn"
    closing = [{"role": "tool", "tool_call_id": call.call_id, "content": "it will come"} for call in open_calls(turn)]
    try:
        validate_openai([*openai_messages(turn.instructions, turn.assembled), *closing])
    except ValueError as error:
        yield f"no provider would take it: {error}"


def _user_of(turn: TurnInput) -> tuple[str, str]:
    return "user", turn.turn_id


def _accepts(event: LoggedEvent, turn_id: str) -> bool:
    return event.header.turn_id == turn_id and isinstance(event.payload, ACCEPTED)


def stored_messages(events: Sequence[LoggedEvent]) -> list[HistoryMessage]:
    """The history of a session."""
    return [
        history_message(event.header.turn_id or "", event.payload)
        for event in events
        if isinstance(event.payload, ev.MessageStored)
    ]


def view_of(stored: Sequence[HistoryMessage], summary: ev.HistoryCompacted | None) -> list[HistoryMessage]:
    """What a model is to see. Said once more on purpose: here every call has its result, so nothing is repaired."""
    stored = [message for message in stored if message.role != "assistant" or message.tool_calls or _text_of(message)]
    if summary is None:
        return list(stored)
    covered = [message for message in stored if message.message_seq <= summary.to_seq]
    tail = [message for message in stored if message.message_seq > summary.to_seq]
    said = HistoryMessage(message_seq=summary.to_seq, turn_id="", role="summary", content=text_content(summary.summary))
    questions = [message for message in covered if message.role == "user"]
    answered = any(message.role == "user" for message in tail)
    return [said, *([] if answered else questions[-1:]), *tail]


def _text_of(message: HistoryMessage) -> str:
    return (content_text(message.content) or "").strip()


def open_calls(turn: TurnInput) -> tuple[ToolCall, ...]:
    """Stored calls of the turn without a stored result: they may be started again."""
    waiting: tuple[ToolCall, ...] = ()
    for message in turn.turn_messages:
        waiting = message.tool_calls if message.role == "assistant" else without_result(waiting, message.tool_call_id)
    return waiting


def brief(messages: Sequence[HistoryMessage]) -> str:
    """Numbers, roles and beginnings."""
    return ", ".join(f"{m.message_seq} {m.role} {(content_text(m.content) or '')[:12]!r}" for m in messages)
