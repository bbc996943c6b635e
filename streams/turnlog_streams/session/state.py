"""The session aggregate: its state, and what events do to it (``session.decide`` has what commands decide).

Stream name: the session id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from immutables import Map

from turnlog_schemas import events as ev
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import NewSession, ReplyAddress, Usage, added
from turnlog_streams.answers import NO_ANSWERS, Answers, refusal_answer, refusal_key
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import NO_MARKS, NO_WAITS, Forward, Marks, delivered, pending, source_key, waits_after
from turnlog_streams.history.compaction import (
    HistoryCompactionPolicy,
    HistoryCompactionState,
    compacted_answer,
    newest_summary_answer,
    recorded_summary,
)
from turnlog_streams.history.tokens import PromptMeasure
from turnlog_streams.records import changed
from turnlog_streams.session.erased_state import Erasure, erased
from turnlog_streams.turn import Answer, AwaitedCall, Turn, without_result

NO_TURNS: Map[str, Turn] = Map()
KEPT_ANSWERS = 32  #: of done requests
KEPT_MARKS = 32  #: of channels that told something
NOT_YET_COMPACTED = HistoryCompactionState()


_HistoryCompaction = (
    ev.HistoryCompactionRequested | ev.HistoryCompacted | ev.HistoryCompactionFailed | ev.HistoryCompactionSkipped
)


# ---- state


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedRun:
    """A history compaction that somebody asked for, and that is not done yet."""

    request_id: str
    instructions: str | None
    reply: ReplyAddress


@dataclass(frozen=True, kw_only=True)  # no slots: see ``records``
class Session:
    """What decisions need to know. The messages themselves are folded in ``history.messages``."""

    session_id: str
    version: int = 0  #: of the stream
    exists: bool = False
    archived: bool = False
    active: bool = True  #: until its channel says that another session is
    channel: str | None = None  #: that it belongs to, if any
    title: str = ""
    instructions: str | None = None
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    messages: int = 0  #: the highest message_seq
    question_seq: int = 0  #: of the newest question
    turn_count: int = 0  #: turns ever started
    running: str | None = None  #: turn id
    last_started: str | None = None  #: turn id
    queue: tuple[str, ...] = ()  #: accepted, not started, in order
    turns: Map[str, Turn] = NO_TURNS  #: those without a terminal event
    answers: Answers = NO_ANSWERS
    waits: Map[str, frozenset[int]] = NO_WAITS
    forward_seq: int = 0
    marks: Marks = NO_MARKS
    outbox: tuple[Forward, ...] = ()
    history_max_tokens: int | None = None  #: the session's own bounds of history compaction
    history_keep_tail: int | None = None
    params: GenerationParams | None = None  #: of its turns, where their requests say nothing else
    history_compaction: HistoryCompactionState = NOT_YET_COMPACTED
    owed_runs: tuple[OwedRun, ...] = ()  #: history compactions on request, in order
    measure: PromptMeasure | None = None  #: of the newest model call that reported one
    awaited: tuple[AwaitedCall, ...] = ()  #: calls of its newest message whose outputs its client owes
    erasure: Erasure | None = None  #: its texts are gone, and it takes nothing more

    def history_policy(self, deployment: HistoryCompactionPolicy) -> HistoryCompactionPolicy:
        """The bounds of its history compaction."""
        return deployment.overridden(max_tokens=self.history_max_tokens, keep_tail=self.history_keep_tail)

    @property
    def last_turn(self) -> str | None:
        """The turn that the next one comes behind; one that was cancelled before it started is none."""
        return self.queue[-1] if self.queue else self.last_started

    @property
    def open_turns(self) -> int:
        """Turns that are accepted and not ended."""
        return len(self.turns)


def evolve(session: Session, fact: Fact) -> Session:
    """The state after an accepted event. Never refuses a recorded fact."""
    if len(session.answers.settled) > KEPT_ANSWERS:
        session = changed(session, answers=session.answers.newest(KEPT_ANSWERS))
    event, version = fact.event, session.version + 1
    match event:
        case ev.SessionCreated():
            return _created(session, event.new_session)
        case ev.TurnAccepted() | ev.ToolOutputsAccepted():
            return _accepted(session, fact.turn_id or "", event)
        case ev.TurnStarted():
            return _started(session, fact.turn_id or "", fact.attempt, event)
        case ev.MessageStored():
            return _stored(session, fact.turn_id, event)
        case ev.TurnCompleted():
            kind = "requires_action" if event.requires_action else "completed"
            return _ended(session, fact, kind, "", "", event.usage)
        case ev.TurnFailed():
            return _ended(session, fact, "failed", event.code, event.reason, event.usage)
        case ev.TurnCancelled():
            return _cancelled(session, fact, event)
        case ev.TurnHidden():
            hidden = Answer(command_hash=event.command_hash, turn_id=fact.turn_id, kind="hidden", reply=event.reply)
            return changed(session, version=version, answers=session.answers.settle(event.request_id, hidden))
        case ev.RequestRefused():
            answers = session.answers.settle(refusal_key(event), refusal_answer(event))
            return changed(session, version=version, answers=answers)
        case (
            ev.HistoryCompactionRequested()
            | ev.HistoryCompacted()
            | ev.HistoryCompactionFailed()
            | ev.HistoryCompactionSkipped()
        ):
            return _after_history_compaction(session, event)
        case _:
            return _after_lifecycle(session, event)


def _created(session: Session, new: NewSession) -> Session:
    return changed(
        session,
        version=session.version + 1,
        exists=True,
        channel=new.channel,
        title=new.title or "",
        instructions=new.instructions,
        model=new.model,
        metadata=new.metadata or {},
        history_max_tokens=new.history_max_tokens,
        history_keep_tail=new.history_keep_tail,
        params=new.params,
    )


def _after_lifecycle(session: Session, event: ev.Event) -> Session:
    """What a session hears and tells; anything else is a fact of another kind of stream, and never refused."""
    version = session.version + 1
    match event:
        case ev.SessionTitled():
            return changed(session, version=version, title=event.title)
        case ev.SessionUpdated():
            return _updated(session, event)
        case ev.SessionArchived():
            return changed(session, version=version, archived=True)
        case ev.SessionErased():
            return erased(session, event)
        case ev.SessionActivated():
            return changed(session, version=version, active=True)
        case ev.SessionDeactivated():
            return changed(session, version=version, active=False)
        case ev.CommandForwarded():
            return changed(session, version=version, forward_seq=event.seq, outbox=pending(session.outbox, event))
        case ev.ForwardDelivered():
            return _after_delivery(session, event)
        case ev.ForwardReceived():
            marks = session.marks.heard(source_key(event.source_kind, event.source_id), event.seq, keep=KEPT_MARKS)
            return changed(session, version=version, marks=marks)
        case ev.RequestDecided():
            return _decided(session, event)
        case _:
            return changed(session, version=version)


def _updated(session: Session, event: ev.SessionUpdated) -> Session:
    measure = session.measure if event.instructions == session.instructions else None  # of a prompt with others
    said = {"title": event.title, "model": event.model, "instructions": event.instructions}
    return changed(session, version=session.version + 1, metadata=event.metadata, measure=measure, **said)


def _decided(session: Session, event: ev.RequestDecided) -> Session:
    answer = Answer(command_hash=event.command_hash, kind="decided", session_id=event.session_id, reply=event.reply)
    if not event.waits_for:
        answers = session.answers.settle(event.request_id, answer)
        return changed(session, version=session.version + 1, answers=answers)
    return changed(
        session,
        version=session.version + 1,
        answers=session.answers.waiting(event.request_id, answer),
        waits=session.waits.set(event.request_id, frozenset(event.waits_for)),
    )


def _after_delivery(session: Session, event: ev.ForwardDelivered) -> Session:
    waits, ready = waits_after(session.waits, event.seq)
    answers = session.answers
    for request_id in ready:
        answers = answers.settle(request_id, answers.known[request_id])
    return changed(
        session,
        version=session.version + 1,
        outbox=delivered(session.outbox, event.seq),
        answers=answers,
        waits=waits,
    )


def _after_history_compaction(session: Session, event: _HistoryCompaction) -> Session:
    version = session.version + 1
    match event:
        case ev.HistoryCompactionRequested():
            return _owed(session, event)
        case ev.HistoryCompacted():
            state = session.history_compaction.after_summary(recorded_summary(event))
            session = changed(session, version=version, history_compaction=state)
            return _paid(session, event.request_id, kind="compacted", compacted=compacted_answer(event))
        case ev.HistoryCompactionFailed():
            state = session.history_compaction.after_failure(event.history_seq, event.trigger)
            session = changed(session, version=version, history_compaction=state)
            return _paid(session, event.request_id, kind="not_compacted", code=event.code, reason=event.reason)
        case ev.HistoryCompactionSkipped():
            answer = newest_summary_answer(session.history_compaction)
            session = changed(session, version=version)
            return _paid(session, event.request_id, kind="compacted", compacted=answer)


def _owed(session: Session, event: ev.HistoryCompactionRequested) -> Session:
    reply = event.reply
    answer = Answer(command_hash=event.command_hash, kind="compacting", reply=reply)
    run = OwedRun(request_id=event.request_id, instructions=event.instructions, reply=reply)
    return changed(
        session,
        version=session.version + 1,
        owed_runs=(*session.owed_runs, run),
        answers=session.answers.waiting(event.request_id, answer),
    )


def _paid(session: Session, request_id: str | None, **answered: Any) -> Session:
    answer = session.answers.known.get(request_id or "")
    if request_id is None or answer is None:
        return session
    return changed(
        session,
        owed_runs=tuple(run for run in session.owed_runs if run.request_id != request_id),
        answers=session.answers.settle(request_id, changed(answer, **answered)),
    )


def _accepted(session: Session, turn_id: str, event: ev.TurnAccepted | ev.ToolOutputsAccepted) -> Session:
    reply = event.reply
    turn = Turn(
        turn_id=turn_id,
        request_id=event.request_id,
        content=event.content,
        requested_model=event.model,
        requested_params=event.params,
        reply=reply,
        tools=event.tools,
        outputs=event.outputs if isinstance(event, ev.ToolOutputsAccepted) else (),
        name=event.name,
    )
    return changed(
        session,
        version=session.version + 1,
        turns=session.turns.set(turn_id, turn),
        queue=(*session.queue, turn_id),
        answers=session.answers.waiting(
            event.request_id,
            Answer(command_hash=event.command_hash, turn_id=turn_id, reply=reply, created=event.opened),
        ),
    )


def _started(session: Session, turn_id: str, attempt: int, event: ev.TurnStarted) -> Session:
    turn = session.turns[turn_id]
    turn = changed(
        turn,
        attempt=attempt,
        model=event.model,
        params=event.params,
        outputs=(),
        runner_failures=turn.runner_failures + (event.cause == "retry"),
        takeovers_in_a_row=turn.takeovers_in_a_row + (event.cause == "takeover"),
    )
    if event.usage is not None:
        turn = changed(turn, spent=added(turn.spent, event.usage))
    return changed(
        session,
        version=session.version + 1,
        turns=session.turns.set(turn_id, turn),
        running=turn_id,
        last_started=turn_id,
        queue=tuple(queued for queued in session.queue if queued != turn_id),
        turn_count=session.turn_count + (event.cause == "first"),
    )


def _stored(session: Session, turn_id: str | None, event: ev.MessageStored) -> Session:
    version = session.version + 1
    question_seq = event.message_seq if event.role == "user" else session.question_seq
    before = session.turns.get(turn_id or "")
    if before is None:
        awaited = _awaited_behind(session.awaited, event)
        return changed(session, version=version, messages=event.message_seq, question_seq=question_seq, awaited=awaited)
    turn = before
    if session.awaited and event.role != "tool":  # an owner of an older version knew of none
        session = changed(session, awaited=())
    if session.awaited:
        turn = changed(turn, results_first=turn.results_first + 1)
        session = changed(session, awaited=without_result(session.awaited, event.tool_call_id))
    elif event.role == "tool":
        turn = changed(turn, open_calls=without_result(turn.open_calls, event.tool_call_id))
    elif event.role == "assistant":
        turn = changed(turn, open_calls=event.tool_calls, answer_seq=event.message_seq)
    if event.role != "user" and not event.interrupted and turn.takeovers_in_a_row:
        turn = changed(turn, takeovers_in_a_row=0)
    if event.usage is not None:
        turn = changed(turn, spent=added(turn.spent, event.usage))
    if turn is before:
        return changed(session, version=version, messages=event.message_seq, question_seq=question_seq)
    return changed(
        session,
        version=version,
        messages=event.message_seq,
        question_seq=question_seq,
        turns=session.turns.set(turn.turn_id, turn),
    )


def _awaited_behind(awaited: tuple[AwaitedCall, ...], event: ev.MessageStored) -> tuple[AwaitedCall, ...]:
    """The calls whose outputs are owed behind a message that a session was opened with."""
    match event.role:
        case "assistant":
            return tuple([AwaitedCall(call_id=call.call_id, name=call.name) for call in event.tool_calls])
        case "tool":
            return without_result(awaited, event.tool_call_id)
        case _:
            return ()


def _ended(session: Session, fact: Fact, kind: str, code: str, reason: str, usage: Usage) -> Session:
    turn = session.turns[fact.turn_id or ""]
    awaited = session.awaited
    if kind == "requires_action":
        awaited = tuple([AwaitedCall(call_id=c.call_id, name=c.name) for c in turn.open_calls if c.client])
    answer = changed(
        session.answers.known[turn.request_id],
        kind=kind,
        pending=tuple([call.call_id for call in awaited]) if kind == "requires_action" else (),
        code=code,
        reason=reason,
        usage=usage,
        attempt=fact.attempt,
        answer_seq=turn.answer_seq,
    )
    measure = session.measure
    if usage.last_input_tokens > 0 and turn.answer_seq and kind != "cancelled":  # its text is of a later call
        # The turn's last model call wrote its last message (or a later one that was not stored).
        measure = PromptMeasure(input_tokens=usage.last_input_tokens, through_seq=turn.answer_seq - 1)
    return changed(
        session,
        version=session.version + 1,
        measure=measure,
        awaited=awaited,
        turns=session.turns.delete(turn.turn_id),
        answers=session.answers.settle(turn.request_id, answer),
        running=None if session.running == turn.turn_id else session.running,
        queue=tuple(queued for queued in session.queue if queued != turn.turn_id),
    )


def _cancelled(session: Session, fact: Fact, event: ev.TurnCancelled) -> Session:
    turn = session.turns[fact.turn_id or ""]
    session = _ended(session, fact, "cancelled", "cancelled", event.reason, event.usage)
    if event.by is None:
        return session
    by = Answer(
        command_hash=event.by.command_hash,
        turn_id=fact.turn_id,
        kind="cancelled",
        code="cancelled",
        reason=event.reason,
        attempt=fact.attempt,
        answer_seq=turn.answer_seq,
        usage=event.usage,
        reply=event.by.reply,
    )
    return changed(session, answers=session.answers.settle(event.by.request_id, by))
