"""The session aggregate against a model of plain lists and dicts, and its laws:

the same command twice adds nothing; folding in parts is folding at once; history order is turn order; every accepted
turn ends at most once, and no other way than by its own end.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from tests.given import SESSION_ID, USAGE, call, cancel, chat, complete, fail, fold, message, refuse, resume
from turnlog_schemas import events as ev
from turnlog_schemas.parts import ReplyAddress, ToolCall
from turnlog_streams.facts import Fact
from turnlog_streams.folding.leaving import leaving
from turnlog_streams.history.compaction import AUTOMATIC, MANUAL
from turnlog_streams.history.view import BY_MODEL, BY_TRUNCATION, HistorySummary
from turnlog_streams.lookups import Found, RowsInMemory
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import Refuse
from turnlog_streams.session.commands import (
    AcceptChat,
    FailHistoryCompaction,
    RecordHistoryCompaction,
    RecordMessage,
    RequestHistoryCompaction,
    SessionCommand,
    SkipHistoryCompaction,
)
from turnlog_streams.session.decide import decide
from turnlog_streams.session.history_compactions import MAX_OWED_RUNS
from turnlog_streams.session.needs import known_answer, session_needs
from turnlog_streams.session.state import Session, evolve
from turnlog_streams.turn import Answer

POLICY = Policy(
    allow_models=("echo:*",),
    max_text_bytes=10,
    max_queued_turns=2,
    max_runner_attempts=2,
    max_takeovers=2,
    max_summary_instructions_bytes=10,
)
TERMINAL = (ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled)


@dataclass
class ModelTurn:
    name: str
    attempt: int = 0
    failures: int = 0
    takeovers: int = 0
    calls: list[ToolCall] = field(default_factory=list)


@dataclass
class Model:
    """What a session is, told a second time and in other words."""

    turns: dict[str, ModelTurn] = field(default_factory=dict)  #: those that are open, in order of acceptance
    running: str | None = None
    answers: dict[str, str] = field(default_factory=dict)  #: request id -> how it ended, or open
    history: list[tuple[str, str]] = field(default_factory=list)  #: name of the turn, role
    owed: list[str] = field(default_factory=list)  #: requests for history compactions that go on
    summaries: list[HistorySummary] = field(default_factory=list)  #: each with all that the one before stands for
    told: dict[str, tuple[str, int, bool]] = field(default_factory=dict)  #: by request: summary, up to, made for it
    failed_at: list[int] = field(default_factory=list)  #: automatic runs in vain since a model's last summary
    looked_at: int = 0  #: up to where the last run read
    draining: bool = False

    @property
    def waiting(self) -> list[str]:
        return [name for name in self.turns if name != self.running]

    def start_next(self) -> None:
        if self.running is None and self.turns and not self.draining:
            self.running = next(iter(self.turns))
            self.turns[self.running].attempt = 1
            self.history.append((self.running, "user"))

    def end(self, how: str, *, partial: str = "", go_on: bool = True) -> None:
        assert self.running is not None
        if how != "completed":
            self.close(list(self.turns[self.running].calls))
        if partial:
            self.history.append((self.running, "assistant"))
        del self.turns[self.running]
        self.answers[self.running] = how
        self.running = None
        if go_on:
            self.start_next()

    def cancel(self, name: str, *, partial: str = "", go_on: bool = True) -> None:
        """A turn, running or not, ends on purpose."""
        if name == self.running:
            self.end("cancelled", partial=partial, go_on=go_on)
        else:
            del self.turns[name]
            self.answers[name] = "cancelled"

    def close(self, calls: list[ToolCall]) -> None:
        assert self.running is not None
        turn = self.turns[self.running]
        for tool in calls:
            turn.calls.remove(tool)
            self.history.append((turn.name, "tool"))

    def again(self) -> None:
        assert self.running is not None
        turn = self.turns[self.running]
        turn.attempt += 1
        unsafe = {tool.call_id for tool in turn.calls if not tool.idempotent}
        self.close([tool for tool in turn.calls if tool.call_id in unsafe])

    def compacted(self, name: str | None, made: HistorySummary) -> str:
        """A run made a summary: ``HistoryCompacted``, ``HistoryCompactionSkipped`` or nothing."""
        if name is not None and name not in self.owed:
            return ""
        if not self.is_news(made, automatic=name is None):
            if name is None:
                return ""
            self.paid(name, changed=False)
            return "HistoryCompactionSkipped"
        self.summaries.append(made)
        self.looked_at = max(self.looked_at, made.history_seq)
        if made.method == BY_MODEL:
            self.failed_at.clear()
        if name is not None:
            self.paid(name, changed=True)
        return "HistoryCompacted"

    def is_news(self, made: HistorySummary, *, automatic: bool) -> bool:
        if not self.summaries:
            return True
        newest = self.summaries[-1]
        if made.history_compaction_id == newest.history_compaction_id:
            return False
        before, now = set(range(newest.from_seq, newest.to_seq + 1)), set(range(made.from_seq, made.to_seq + 1))
        if before == now:  # somebody wants other words, or words of a model
            return not automatic and (made.method == BY_MODEL or newest.method == BY_TRUNCATION)
        return before < now and (not automatic or made.to_seq > newest.to_seq)

    def paid(self, name: str, *, changed: bool) -> None:
        self.owed.remove(name)
        self.answers[name] = "compacted"
        newest = self.summaries[-1] if self.summaries else None
        self.told[name] = (newest.text, newest.to_seq, changed) if newest else ("", 0, False)


class SessionMachine(RuleBasedStateMachine):
    """Every command that a session can get, right and wrong, in every order."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(session_id=SESSION_ID)
        self.rows = RowsInMemory()  #: of what has left the state
        self.model = Model()
        self.facts: list[Fact] = []
        self.past: list[SessionCommand] = []
        self.count = 0

    @property
    def policy(self) -> Policy:
        return Policy(
            allow_models=POLICY.allow_models,
            max_text_bytes=POLICY.max_text_bytes,
            max_queued_turns=POLICY.max_queued_turns,
            max_runner_attempts=POLICY.max_runner_attempts,
            max_takeovers=POLICY.max_takeovers,
            max_summary_instructions_bytes=POLICY.max_summary_instructions_bytes,
            start_turns=not self.model.draining,
        )

    def do(self, command: SessionCommand) -> list[Fact]:
        """Decide, fold, and do the same thing again: the second time adds nothing."""
        facts = decide(self.session, command, self.policy, self.found(command))
        for fact in facts:
            before, self.session = self.session, evolve(self.session, fact)
            self.rows = self.rows.with_written(leaving(before, self.session, fact))
        self.facts += facts
        self.past.append(command)
        assert decide(self.session, command, self.policy, self.found(command)) == []
        return facts

    def found(self, command: SessionCommand) -> Found:
        """What is looked up before it is decided."""
        return self.rows.find(partial(session_needs, self.session, command))

    def answer(self, name: str) -> Answer:
        """What a request is answered, however long ago it was."""
        found = self.session.answers.find(f"r{name}", self.rows.answers)
        assert found is not None
        return found

    def next_name(self) -> str:
        self.count += 1
        return str(self.count)

    # ---- requests

    @rule(
        target=requests,
        on_busy=st.sampled_from(["enqueue", "enqueue", "reject", "interrupt"]),
        wrong=st.sampled_from(["", "", "", "model", "long"]),
        partial=st.sampled_from(["", "Half an"]),
    )
    def new_chat(self, on_busy: str, wrong: str, partial: str) -> AcceptChat:
        name = self.next_name()
        model = "gpt:9" if wrong == "model" else None
        request = chat(name, "x" * 11 if wrong == "long" else "Hi", on_busy=on_busy, model=model, partial=partial)
        full = len(self.model.waiting) >= POLICY.max_queued_turns
        busy = self.model.turns and (on_busy == "reject" or (on_busy == "enqueue" and full))
        facts = self.do(request)
        if wrong or busy:
            (refused,) = facts
            assert isinstance(refused.event, ev.RequestRefused)
            assert refused.event.code == {"model": "model_not_allowed", "long": "too_long"}.get(wrong, "busy")
            self.model.answers[name] = "refused"
        else:
            for open_turn in list(self.model.turns) if on_busy == "interrupt" else []:
                self.model.cancel(open_turn, partial=partial, go_on=False)
            self.model.turns[name] = ModelTurn(name)
            self.model.answers[name] = "open"
            self.model.start_next() if len(self.model.turns) == 1 else None
        return request

    @rule(target=requests)
    def new_wrong_request(self) -> Refuse:
        request = refuse(self.next_name())
        assert [type(fact.event) for fact in self.do(request)] == [ev.RequestRefused]
        self.model.answers[str(self.count)] = "refused"
        return request

    @rule(data=st.data(), partial=st.sampled_from(["", "Half an"]))
    def somebody_cancels(self, data: st.DataObject, partial: str) -> None:
        """The running turn, one that waits, one that ended, or none at all."""
        name = self.next_name()
        wanted = data.draw(st.none() | st.sampled_from(["never", *self.model.turns, *list(self.model.answers)[-2:]]))
        facts = self.do(cancel(name, wanted, partial=partial))
        turn = wanted or self.model.running
        if turn in self.model.turns:
            self.model.cancel(turn, partial=partial)
            self.model.answers[name] = "cancelled"
        else:
            wrong = "not_running" if self.session.exists else "not_found"
            assert [fact.event.code for fact in facts if isinstance(fact.event, ev.RequestRefused)] == [wrong]
            self.model.answers[name] = "refused"

    @rule(target=requests, wishes=st.sampled_from([None, "short", "x" * 11]), times=st.sampled_from([1, 1, 1, 12]))
    def somebody_wants_a_summary(self, wishes: str | None, times: int) -> RequestHistoryCompaction:
        for _ in range(times):
            name = self.next_name()
            request = RequestHistoryCompaction(
                request_id=f"r{name}", command_hash=f"h{name}", instructions=wishes, reply=ReplyAddress()
            )
            (fact,) = self.do(request)
            wrong = "not_found" if not self.session.exists else "too_long" if len(wishes or "") > 10 else ""
            wrong = wrong or ("busy" if len(self.model.owed) == MAX_OWED_RUNS else "")
            if wrong:
                assert isinstance(fact.event, ev.RequestRefused)
                assert fact.event.code == wrong
                self.model.answers[name] = "refused"
            else:
                assert isinstance(fact.event, ev.HistoryCompactionRequested)
                self.model.owed.append(name)
                self.model.answers[name] = "compacting"
        return request

    @rule(request=requests)
    def the_producer_retries(self, request: AcceptChat | Refuse | RequestHistoryCompaction) -> None:
        assert self.do(request) == []

    @rule(request=requests, other=st.sampled_from(["a", "b"]))
    def a_request_id_is_used_again(self, request: AcceptChat | Refuse | RequestHistoryCompaction, other: str) -> None:
        name = request.request_id.removeprefix("r")
        known = known_answer(self.session, request.request_id, other, Found(answers=self.rows.answers)) is not None
        facts = self.do(chat(name, command_hash=other))
        codes = [fact.event.code for fact in facts if isinstance(fact.event, ev.RequestRefused)]
        assert codes == ([] if known else ["conflict"])
        assert len(facts) == len(codes)

    # ---- outcomes of the runner

    @precondition(lambda self: self.model.running)
    @rule(calls=st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=3))
    def the_assistant_speaks(self, calls: list[tuple[str, bool]]) -> None:
        turn = self.running()
        tools = tuple(call(call_id, idempotent=idempotent) for call_id, idempotent in calls)
        (fact,) = self.do(self.message_of(turn, "assistant", tools))
        assert isinstance(fact.event, ev.MessageStored)
        turn.calls = list(fact.event.tool_calls)
        turn.takeovers = 0
        self.model.history.append((turn.name, "assistant"))

    @precondition(lambda self: self.model.running and self.running().calls)
    @rule(data=st.data())
    def a_tool_answers(self, data: st.DataObject) -> None:
        turn = self.running()
        call_id = data.draw(st.sampled_from([tool.call_id for tool in turn.calls]))
        self.do(self.message_of(turn, "tool", call_id=call_id))
        turn.calls.remove(next(tool for tool in turn.calls if tool.call_id == call_id))
        turn.takeovers = 0
        self.model.history.append((turn.name, "tool"))

    @precondition(lambda self: self.model.running)
    @rule()
    def the_runner_ends(self) -> None:
        turn = self.running()
        facts = self.do(complete(turn.name, turn.attempt))
        assert isinstance(facts[0].event, ev.TurnCompleted)
        self.model.end("completed")

    @precondition(lambda self: self.model.running)
    @rule(retryable=st.booleans())
    def the_runner_fails(self, retryable: bool) -> None:
        turn = self.running()
        self.do(fail(turn.name, turn.attempt, retryable=retryable))
        turn.failures += 1
        if retryable and turn.failures < POLICY.max_runner_attempts:
            self.model.again()
        else:
            self.model.end("failed")

    @precondition(lambda self: self.model.running)
    @rule()
    def the_owner_is_lost(self) -> None:
        turn = self.running()
        self.do(resume(turn.name, turn.attempt))
        if turn.takeovers >= POLICY.max_takeovers:
            self.model.end("failed")
        else:
            turn.takeovers += 1
            self.model.again()

    # ---- outcomes of history compactions

    def some_run(self, data: st.DataObject) -> str | None:
        """By itself, on request, or one whose request is answered by an owner before."""
        over = list(self.model.told)[-2:]
        return data.draw(st.none() | st.sampled_from(["never", *over, *self.model.owed * 3]))

    @precondition(lambda self: self.model.history)
    @rule(
        data=st.data(), method=st.sampled_from([BY_MODEL, BY_MODEL, BY_TRUNCATION]), from_seq=st.sampled_from([1, 1, 2])
    )
    def a_run_makes_a_summary(self, data: st.DataObject, method: str, from_seq: int) -> None:
        name, count = self.some_run(data), len(self.model.history)
        to_seq = data.draw(st.integers(min(from_seq, count), count))
        words = data.draw(st.sampled_from("ab"))
        made = HistorySummary(
            history_compaction_id=f"{from_seq}-{to_seq}-{method}-{words}",
            from_seq=min(from_seq, count),
            to_seq=to_seq,
            text=f"{words} {to_seq}",
            history_seq=count,
            method=method,
        )
        command = RecordHistoryCompaction(
            summary=made,
            trigger=AUTOMATIC if name is None else MANUAL,
            model="fast:",
            tokens_before=9,
            tokens_after=5,
            usage=USAGE,
            request_id=name and f"r{name}",
        )
        facts = self.do(command)
        assert "".join(type(fact.event).__name__ for fact in facts) == self.model.compacted(name, made)

    @precondition(lambda self: self.model.history)
    @rule(data=st.data())
    def a_run_fails(self, data: st.DataObject) -> None:
        name, count, model = self.some_run(data), len(self.model.history), self.model
        command = FailHistoryCompaction(
            history_seq=count,
            trigger=AUTOMATIC if name is None else MANUAL,
            code="overloaded",
            reason="try later",
            model="fast:",
            usage=USAGE,
            request_id=name and f"r{name}",
        )
        facts = self.do(command)
        known = name not in model.owed if name is not None else bool(model.failed_at) and count <= model.looked_at
        assert [type(fact.event) for fact in facts] == ([] if known else [ev.HistoryCompactionFailed])
        if known:
            return
        if name is None:
            model.failed_at.append(count)
            model.looked_at = count
        else:
            model.owed.remove(name)
            model.answers[name] = "not_compacted"

    @rule(data=st.data())
    def a_run_finds_nothing_to_do(self, data: st.DataObject) -> None:
        name = self.some_run(data) or "never"
        facts = self.do(SkipHistoryCompaction(request_id=f"r{name}"))
        assert len(facts) == (name in self.model.owed)
        if facts:
            self.model.paid(name, changed=False)

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def anything_old_comes_again(self, data: st.DataObject) -> None:
        """Every command of the past, once its effect is there, is spent for ever."""
        old = data.draw(st.sampled_from(self.past))
        if isinstance(old, RecordMessage) and self.is_current(old):
            return  # with the position taken by another message it is a retry of that one
        if isinstance(old, FailHistoryCompaction) and old.request_id is None and not self.model.failed_at:
            return  # where a summary came in between, it is as good as a new failure
        assert self.do(old) == []

    def is_current(self, old: RecordMessage) -> bool:
        turn = self.session.turns.get(old.turn_id)
        return turn is not None and turn.attempt == old.attempt and old.message_seq > self.session.messages

    # ---- draining

    @precondition(lambda self: not self.model.draining)
    @rule()
    def the_worker_drains(self) -> None:
        self.model.draining = True

    @precondition(lambda self: self.model.draining)
    @rule()
    def a_new_owner_resumes_what_waits(self) -> None:
        self.model.draining = False
        running = self.model.running
        waiting = self.model.waiting[:1]
        for name in waiting:
            self.do(resume(name, self.model.turns[name].attempt))
        if running is None:
            self.model.start_next()

    # ---- what always holds

    def running(self) -> ModelTurn:
        assert self.model.running is not None
        return self.model.turns[self.model.running]

    def message_of(
        self, turn: ModelTurn, role: str, calls: tuple[ToolCall, ...] = (), call_id: str | None = None
    ) -> RecordMessage:
        seq = len(self.model.history) + 1
        return message(seq, name=turn.name, attempt=turn.attempt, role=role, calls=calls, call_id=call_id)

    @invariant()
    def the_state_is_what_the_model_says(self) -> None:
        session, model = self.session, self.model
        assert session.running == (f"t{model.running}" if model.running else None)
        assert list(session.queue) == [f"t{name}" for name in model.waiting]
        assert set(session.turns) == {f"t{name}" for name in model.turns}
        assert session.messages == len(model.history)
        for name, turn in model.turns.items():
            state = session.turns[f"t{name}"]
            assert (state.attempt, state.runner_failures, state.takeovers_in_a_row) == (
                turn.attempt,
                turn.failures,
                turn.takeovers,
            )
            assert list(state.open_calls) == turn.calls
        assert {name: self.answer(name).kind for name in model.answers} == model.answers
        assert [run.request_id for run in session.owed_runs] == [f"r{name}" for name in model.owed]
        state = session.history_compaction
        by_model = [made for made in model.summaries if made.method == BY_MODEL]
        assert state.summary == (model.summaries[-1] if model.summaries else None)
        assert state.base == (by_model[-1] if by_model else None)
        assert (state.failures, state.attempted_seq) == (len(model.failed_at), model.looked_at)
        answers = {name: self.answer(name).compacted for name in model.told}
        told = {name: (a.summary, a.to_seq, a.changed) for name, a in answers.items() if a is not None}
        assert told == model.told

    @invariant()
    def the_log_is_sound(self) -> None:
        stored = [fact for fact in self.facts if isinstance(fact.event, ev.MessageStored)]
        told = [(fact.turn_id, fact.event.message_seq, fact.event.role) for fact in stored]  # type: ignore[union-attr]
        expected = [(f"t{name}", seq, role) for seq, (name, role) in enumerate(self.model.history, 1)]
        assert told == expected
        accepted = [fact.turn_id for fact in self.facts if isinstance(fact.event, ev.TurnAccepted)]
        spoken = [turn_id for turn_id, _, role in told if role == "user"]
        in_turn = iter(accepted)  # some were cancelled while they waited
        assert all(turn_id in in_turn for turn_id in spoken), "history order is the order of acceptance"
        ends = Counter(fact.turn_id for fact in self.facts if isinstance(fact.event, TERMINAL))
        assert set(ends.values()) <= {1}
        assert set(ends) | set(self.session.turns) == set(accepted)
        assert not set(ends) & set(self.session.turns)

    @invariant()
    def nothing_waits_for_nothing(self) -> None:
        assert self.model.draining or self.model.running or not self.model.turns

    def teardown(self) -> None:
        """Folding in two parts, cut anywhere, is folding at once, and is what the owner had in memory."""
        assert fold(self.facts) == self.session
        assert self.session.version == len(self.facts)
        state = Session(session_id=SESSION_ID)
        for cut, fact in enumerate(self.facts):
            assert fold(self.facts[cut:], state) == self.session
            state = evolve(state, fact)


SessionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestSession = SessionMachine.TestCase
