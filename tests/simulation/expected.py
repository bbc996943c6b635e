"""What the checker cannot know: how the turns of this workload must come out, since their models are scripts."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from tests.checker import Anomaly, History, accepted_events
from tests.checker.log_view import LogView, TurnLog
from tests.odd_runners import ANY_CODE, CODES, COMPLETED, PREFIX, Odd, odd_of
from tests.simulation.inputs import stored_messages, view_of
from tests.simulation.summaries import BEGINNING, SUMMARY_MODEL
from tests.simulation.summaries import FAILURES as SUMMARY_FAILURES
from tests.simulation.worker import script_of
from turnlog_schemas import events as ev
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.history.tokens import prompt_tokens, with_margin
from turnlog_streams.history.view import BY_MODEL, GIVEN
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.runners.playback import role_of
from turnlog_workers.runners.script import plan_turn, with_client_calls

#: Failures that a script asks for, and those that bounds of the worker bring about.
FAILURES = {"scripted_failure", "suspected_poison", "turn_timeout"}
#: Of odd runners, too; and batches of a few kilobytes do not hold all that a runner may yield.
ODD_FAILURES = {"suspected_poison", "turn_timeout", "outcome_not_recorded"}


def check_turns(history: History) -> Iterator[Anomaly]:
    """Every turn that failed for no good reason, or said something else than its script."""
    view = LogView(history)
    numbers: dict[str, int] = {}
    for log in history.log.values():
        numbers.update(_turn_numbers(accepted_events(log)))
    for turn in view.turns.values():
        if turn.turn_id not in numbers or not turn.ends:
            continue
        end = turn.ends[0].payload
        model = turn.starts[0].payload.model
        if model.startswith(PREFIX):
            yield from _as_odd(turn, odd_of(model))
            continue
        if isinstance(end, ev.TurnFailed) and end.code not in FAILURES:
            yield Anomaly(kind="turn failed", where=turn.where, text=f"{end.code}: {end.reason}")
        yield from _as_planned(turn, numbers[turn.turn_id], whole=isinstance(end, ev.TurnCompleted))


def _as_odd(turn: TurnLog, odd: Odd) -> Iterator[Anomaly]:
    """Turns of odd runners end with the code of their kind, whoever runs them."""
    end = turn.ends[0].payload
    code = end.code if isinstance(end, ev.TurnFailed) else COMPLETED
    if not isinstance(end, ev.TurnCancelled) and code not in _codes_of(odd):
        yield Anomaly(kind="turn ended otherwise", where=turn.where, text=f"{odd.name}: {code!r}, not {odd.code!r}")


def _codes_of(odd: Odd) -> set[str]:
    if odd.code == ANY_CODE:
        return {COMPLETED, "overloaded", *CODES, *ODD_FAILURES}
    return {odd.code, *ODD_FAILURES}


def _turn_numbers(events: Sequence[LoggedEvent]) -> dict[str, int]:
    """The number of each started turn in its session, from 1."""
    numbers: dict[str, int] = {}
    started: dict[str, int] = {}
    for event in events:
        if isinstance(event.payload, ev.TurnStarted) and event.payload.cause == "first":
            session_id = event.header.stream_id
            started[session_id] = started.get(session_id, 0) + 1
            numbers[event.header.turn_id or ""] = started[session_id]
    return numbers


def _as_planned(turn: TurnLog, number: int, *, whole: bool) -> Iterator[Anomaly]:
    """What is stored is the script's beginning, all of it if the turn was completed."""
    seed, options = script_of(turn.starts[0].payload.model)
    plan = plan_turn(seed, number, options)
    begun = turn.accepted.payload if turn.accepted is not None else None
    if begun is not None and begun.content:
        plan = with_client_calls(plan, begun.tools, options)
    steps = plan.steps
    inputs = list(takewhile(lambda message: message.payload.role == "tool", turn.messages))
    stored = [message.payload for message in turn.messages[len(inputs) :] if message.payload.role != "user"]
    stored = [message for message in stored if not _closes_a_client_call(message)]
    told = [(message.role, None if message.interrupted else message.content) for message in stored]
    planned = [(role_of(step), step.content) for step in steps]
    for index, (role, content) in enumerate(told):
        interrupted = stored[index].interrupted
        if index >= len(planned) or (role, content) != (planned[index][0], None if interrupted else planned[index][1]):
            text = f"message {index + 1} after the user's ({role}) is not the one of its script"
            yield Anomaly(kind="not as planned", where=turn.where, text=text)
            return
    if whole and len(told) != len(planned):
        yield Anomaly(kind="not as planned", where=turn.where, text=f"{len(told)} messages of {len(planned)}")


def _closes_a_client_call(message: ev.MessageStored) -> bool:
    """Nobody else runs it: no script has a result of it."""
    return message.interrupted and (message.tool_call_id or "").startswith("client_")


# ---- history compactions


def check_history_compactions(history: History, deployment: HistoryCompactionPolicy) -> Iterator[Anomaly]:
    """Every run that failed for no good reason, that wrote what its model did not say, or that left too much."""
    for (partition, session_id), events in LogView(history).sessions.items():
        bounds, instructions = deployment, None
        for index, event in enumerate(events):
            where = f"partition {partition}, session {session_id}, @{event.offset}"
            payload = event.payload
            if isinstance(payload, ev.SessionCreated):
                new = payload.new_session
                instructions = new.instructions
                bounds = deployment.overridden(max_tokens=new.history_max_tokens, keep_tail=new.history_keep_tail)
            elif isinstance(payload, ev.HistoryCompactionFailed) and payload.code not in (*SUMMARY_FAILURES, "erased"):
                text = f"{payload.code}: {payload.reason}"
                yield Anomaly(kind="history compaction failed", where=where, text=text)
            elif isinstance(payload, ev.HistoryCompacted):
                by_model = payload.method == BY_MODEL
                if by_model and not (payload.summary.startswith(BEGINNING) and payload.model == SUMMARY_MODEL):
                    text = f"{payload.model} wrote {payload.summary[:50]!r}"
                    yield Anomaly(kind="summary of somebody else", where=where, text=text)
                if payload.trigger == "automatic" and not bounds.automatic:
                    yield Anomaly(kind="unwanted history compaction", where=where, text=f"{bounds}")
                if payload.method != GIVEN:
                    yield from _still_too_long(where, payload, events[:index], bounds, instructions)


def _still_too_long(
    where: str,
    made: ev.HistoryCompacted,
    before: Sequence[LoggedEvent],
    bounds: HistoryCompactionPolicy,
    instructions: str | None,
) -> Iterator[Anomaly]:
    """Right after a run the history is within its limit, unless what must stay is larger by itself."""
    stored = stored_messages(before)[: made.history_seq]
    tokens = with_margin(prompt_tokens(view_of(stored, made), instructions))
    steps = sum(message.role != "tool" for message in stored[made.to_seq :])
    if tokens > bounds.limit_tokens and steps > 1:
        text = f"{tokens} tokens of {bounds.limit_tokens}, and {steps} messages that need none before them"
        yield Anomaly(kind="history compaction left too much", where=where, text=text)
