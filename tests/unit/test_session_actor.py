"""The session actor on the real decisions, with models that the test writes: turns and history compactions in order."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from tests.one_session import LIMITS, LONG, SMALL, OneSession
from tests.waiting import eventually
from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession, ReplyAddress, ToolCall, Usage, content_text, text_content
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.history.compaction_plan import session_tokens
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.summary_prompt import SYSTEM
from turnlog_streams.history.view import BY_MODEL, BY_TRUNCATION, SUMMARY_ROLE
from turnlog_streams.session.commands import Cancel, RecordHistoryCompaction, SessionCommand
from turnlog_workers.runners.base import (
    AssistantMessage,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolResult,
    TurnInput,
    UsageReport,
)
from turnlog_workers.sessions.history_compactor import CompactionInput
from turnlog_workers.store.port import NoRoomError


async def test_a_history_over_its_limit_is_compacted_while_nobody_waits() -> None:
    session = OneSession()
    for number in range(6):
        await session.say(f"question {number}")
    (made, *_) = session.of(ev.HistoryCompacted)
    assert (made.trigger, made.method, made.model, made.from_seq) == ("automatic", BY_MODEL, "fast:", 1)
    assert made.summary == "The user asked for words."
    assert made.usage.model_calls == 1
    assert made.tokens_after < made.tokens_before
    at = session.kinds.index("HistoryCompacted")
    assert session.kinds[at - 1] == "TurnCompleted", "after the turn, not in front of the next one"
    assert session_tokens(session.live.session_history()) <= 600
    turns = [turn for turn in session.given if turn.allow_tools]
    assert next(message.role for message in turns[-1].assembled) == SUMMARY_ROLE
    assert len(session.live.history) == 12, "every message is there"
    assert [content_text(m.content) for m in turns[-1].assembled if m.role == "user"][-1] == "question 5"


async def test_the_summary_model_has_no_tools_and_sees_data_only() -> None:
    session = OneSession()
    for number in range(6):
        await session.say(f"question {number}", new_session=NewSession(instructions="Be kind."))
    summary_calls = [turn for turn in session.given if turn.model == "fast:"]
    assert summary_calls
    for turn in summary_calls:
        assert not turn.allow_tools
        assert turn.instructions == SYSTEM
        assert not turn.history
        assert not turn.assembled
        assert "Be kind." not in (content_text(turn.user_content) or ""), "instructions are never summarised"
    assert "question 0" in (content_text(summary_calls[0].user_content) or "")
    assert all(not runner.alive for runner in session.runners if runner.model == "fast:")


async def test_the_last_message_is_recorded_with_the_end_of_its_turn_also_if_its_cost_is_told_after_it() -> None:
    async def tells_its_cost_last(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield AssistantMessage(content=text_content("Done."))
        yield UsageReport(usage=Usage(input_tokens=3, output_tokens=2))

    session = OneSession(main=tells_its_cost_last)
    await session.say("a question")
    assert session.submitted == [["RecordMessage", "CompleteTurn"]]
    assert session.of(ev.TurnCompleted)[0].usage == Usage(input_tokens=3, output_tokens=2)


async def test_a_turn_is_compacted_between_its_tool_steps_in_the_same_attempt() -> None:
    async def uses_tools(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        done = sum(message.role == "tool" for message in turn.turn_messages)
        for number in range(done, 8):
            yield TextDelta(text=f"{number} ")
            yield AssistantMessage(content=None, tool_calls=(ToolCall(call_id="c", name="look", arguments="{}"),))
            yield ToolResult(call_id="c", content=text_content(f"result {number} {LONG}"), name="look")
        yield AssistantMessage(content=text_content("Done."))

    session = OneSession(main=uses_tools)
    await session.say("a question for tools")
    assert session.of(ev.HistoryCompacted), "in the middle of the turn"
    assert len(session.of(ev.TurnStarted)) == 1, "one attempt, no takeover"
    (done,) = session.of(ev.TurnCompleted)
    assert 0 <= done.first_delta_ms <= done.duration_ms, "of the attempt, whatever was compacted in it"
    results = [m for m in session.live.history if m.role == "tool"]
    assert [(content_text(m.content) or "")[:8] for m in results] == [f"result {n}" for n in range(8)]
    assert session.deltas == [f"{number} " for number in range(8)], "nothing is said twice"
    turns = [turn for turn in session.given if turn.allow_tools]
    assert len(turns) > 1
    assert all(turn.attempt == 1 and turn.turn_number == 1 for turn in turns)
    for turn in turns:
        assert not turn.turn_messages or turn.turn_messages[-1].role == "tool", "stopped behind a stored result"
        assert "a question for tools" in [content_text(m.content) for m in turn.assembled if m.role == "user"]
    assert len(turns[-1].turn_messages) > len(turns[-1].assembled), (
        "the runner counts what is stored, not what is shown"
    )
    mains = [runner for runner in session.runners if runner.model == "main:"]
    assert len(mains) == len(turns), "each went on with a new runner"
    assert all(not runner.alive for runner in mains[:-1])


class Unread(OneSession):
    """What it does not hold cannot be read."""

    async def earlier_messages(self, session_id: str, after: int, upto: int) -> list[HistoryMessage]:
        raise NoRoomError("the disk is full")

    def compaction_input(self, session_id: str, usage: Usage | None = None) -> CompactionInput:
        return replace(super().compaction_input(session_id, usage), not_held_to=1)


async def test_messages_that_cannot_be_read_cost_no_turn() -> None:
    session = Unread()
    for number in range(6):
        await session.say(f"question {number}")
    assert len(session.of(ev.TurnCompleted)) == 6
    assert not session.of(ev.HistoryCompacted)
    assert not session.of(ev.TurnFailed)
    session.__class__ = OneSession
    await session.say("they can be read again")
    assert session.of(ev.HistoryCompacted)


async def test_not_between_the_results_of_parallel_calls() -> None:
    async def parallel(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if not turn.turn_messages:
            calls = tuple(ToolCall(call_id=f"c{n}", name="look", arguments="{}") for n in range(6))
            yield AssistantMessage(content=None, tool_calls=calls)
            for call in calls:
                yield ToolResult(call_id=call.call_id, content=text_content(LONG * 2), name="look")
        yield AssistantMessage(content=text_content("Done."))

    session = OneSession(main=parallel)
    await session.say("all at once")
    turns = [turn for turn in session.given if turn.allow_tools]
    assert len(session.of(ev.TurnCompleted)) == 1
    for turn in turns[1:]:
        assert sum(m.role == "tool" for m in turn.turn_messages) == 6
    for made in session.of(ev.HistoryCompacted):
        after = session.live.history[made.to_seq : made.to_seq + 1]
        assert not after or after[0].role != "tool", "a tail never begins with a result"


@pytest.mark.parametrize(
    ("fast", "code"),
    [
        ("raises", "runner_error"),
        ("refuses", "overloaded"),
        ("says nothing", "empty_summary"),
        ("calls a tool", "tool_call"),
        ("hangs", "summary_timeout"),
    ],
)
async def test_a_model_that_fails_costs_no_turn(fast: str, code: str) -> None:
    async def play(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if fast == "raises":
            raise ValueError("secret in here")
        if fast == "refuses":
            raise RunnerError("overloaded", "try later")
        if fast == "calls a tool":
            yield AssistantMessage(content=None, tool_calls=(ToolCall(call_id="c", name="look", arguments="{}"),))
        if fast == "hangs":
            await asyncio.Event().wait()
        yield AssistantMessage(content=text_content("  "))

    session = OneSession(fast=play, limits=replace(LIMITS, summary_timeout_s=0.05))
    for number in range(8):
        await session.say(f"question {number}")
    assert len(session.of(ev.TurnCompleted)) == 8
    failed, made = session.of(ev.HistoryCompactionFailed), session.of(ev.HistoryCompacted)
    assert {event.code for event in failed} == {code}
    assert all("secret" not in event.reason for event in failed)
    assert {event.method for event in made} == {BY_TRUNCATION}
    assert len(failed) < 8, "the model is left alone until there is new material"
    assert session_tokens(session.live.session_history()) <= 600
    assert session.of(ev.HistoryCompactionFailed)[0].trigger == "automatic"


async def test_one_on_request_returns_the_summary_and_the_next_one_has_nothing_to_do() -> None:
    session = OneSession(policy=replace(SMALL, history=HistoryCompactionPolicy(max_tokens=-1, keep_tail=2)))
    for number in range(3):
        await session.say(f"question {number}")
    assert not session.of(ev.HistoryCompacted), "no automatic one below zero"
    session.ask("first", instructions="Keep the numbers.")
    await session.settle()
    (made,) = session.of(ev.HistoryCompacted)
    assert (made.trigger, made.request_id, made.to_seq) == ("manual", "first", 4)
    assert "Keep the numbers." in (content_text(session.given[-1].user_content) or "")
    calls = len(session.given)
    session.ask("second", instructions="Keep the numbers.")
    await session.settle()
    assert session.of(ev.HistoryCompactionSkipped)[0].request_id == "second"
    assert len(session.given) == calls, "without a model call"
    assert not session.live.state.owed_runs


async def test_one_on_request_that_fails_says_so_and_changes_nothing() -> None:
    async def refuses(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        raise RunnerError("overloaded", "try later")
        yield

    session = OneSession(fast=refuses)
    for number in range(2):
        await session.say(f"question {number}")
    session.ask("first")
    await session.settle()
    (failed,) = session.of(ev.HistoryCompactionFailed)
    assert (failed.request_id, failed.code, failed.trigger) == ("first", "overloaded", "manual")
    assert not session.of(ev.HistoryCompacted)


async def test_requests_wait_for_the_running_turn_and_the_next_turn_waits_for_them() -> None:
    go_on = asyncio.Event()
    order: list[str] = []

    async def waits(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        order.append(f"turn {turn.turn_number}")
        await go_on.wait()
        yield AssistantMessage(content=text_content(LONG))

    async def notes(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        order.append("summary")
        yield AssistantMessage(content=text_content("What was said."))

    session = OneSession(main=waits, fast=notes, policy=replace(SMALL, history=HistoryCompactionPolicy(keep_tail=1)))
    session.chat("one")
    session.ask()
    session.chat("two")
    await eventually(lambda: order, "the first turn runs")
    assert not session.of(ev.HistoryCompacted)
    go_on.set()
    await session.settle()
    assert order == ["turn 1", "summary", "turn 2"]
    assert session.given[-1].assembled[0].role == SUMMARY_ROLE, "made when the turn began, not when it was accepted"
    assert len(session.runners) == 3, "the second turn has a runner that does not know the longer history"


async def test_a_cancelled_turn_stops_the_run_that_it_waits_for() -> None:
    stuck = asyncio.Event()

    async def hangs(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        stuck.set()
        await asyncio.Event().wait()
        yield

    session = OneSession(fast=hangs)
    turn_id = session.chat(LONG * 4, new_session=NewSession(instructions="x", history_keep_tail=0))
    await session.settle()
    turn_id = session.chat(LONG * 4)
    await asyncio.wait_for(stuck.wait(), 60)
    session.tell(
        Cancel(
            request_id="c", command_hash="h", turn_id=turn_id, reply=ReplyAddress(), partial=session.actor.partial_text
        )
    )
    await session.settle()
    assert session.kinds[-1] == "TurnCancelled"


async def test_no_turn_sees_a_summary_that_is_not_confirmed() -> None:
    """A turn is cancelled while the summary that it wanted is on its way to the log; another one waits."""
    submitted, confirmed = asyncio.Event(), asyncio.Event()

    class SlowLog(OneSession):
        async def submit(self, session_id: str, commands: Sequence[SessionCommand]) -> None:
            await super().submit(session_id, commands)
            if any(isinstance(command, RecordHistoryCompaction) for command in commands):
                submitted.set()
                await confirmed.wait()

    session = SlowLog()
    await session.say(LONG * 2)
    assert not submitted.is_set()
    turn_id = session.chat(LONG * 4)
    session.chat("and then?")
    await asyncio.wait_for(submitted.wait(), 60)
    seen = len(session.given)
    session.tell(Cancel(request_id="c", command_hash="h", turn_id=turn_id, reply=ReplyAddress()))
    for _ in range(50):
        await asyncio.sleep(0)
    assert session.live.state.history_compaction.summary is not None, "decided, and not in the log"
    assert len(session.given) == seen, "no model is given it"
    confirmed.set()
    await session.settle()
    assert session.kinds[-1] == "TurnCompleted"
    assert session.given[-1].assembled[0].role == SUMMARY_ROLE


async def test_the_time_of_a_run_is_not_the_turn_s() -> None:
    async def slow(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await eventually(lambda: loop.time() > began + 0.3, "longer than a turn may take")
        yield AssistantMessage(content=text_content("What was said."))

    session = OneSession(fast=slow, limits=replace(LIMITS, turn_timeout_s=0.2))
    session.policy = replace(SMALL, history=HistoryCompactionPolicy(max_tokens=-1))
    await session.say(LONG * 3)
    await session.say("and now?")
    session.policy = replace(SMALL, history=HistoryCompactionPolicy(max_tokens=400, keep_tail=1))
    await session.say("a third one")
    assert session.of(ev.HistoryCompacted)
    assert len(session.of(ev.TurnCompleted)) == 3


async def test_a_session_has_bounds_of_its_own() -> None:
    session = OneSession(policy=replace(SMALL, history=HistoryCompactionPolicy()))
    new = NewSession(history_max_tokens=600, history_keep_tail=2)
    for number in range(6):
        await session.say(f"question {number}", new_session=new)
    assert session.of(ev.HistoryCompacted)
    assert session.live.state.history_policy(session.policy.history) == SMALL.history


async def test_usage_of_all_runners_of_an_attempt_counts() -> None:
    async def reports(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        done = sum(message.role == "tool" for message in turn.turn_messages)
        calls = 0
        for number in range(done, 4):
            calls += 1
            yield AssistantMessage(content=None, tool_calls=(ToolCall(call_id="c", name="look", arguments="{}"),))
            yield UsageReport(usage=Usage(input_tokens=10 * calls, output_tokens=calls, model_calls=calls))
            yield ToolResult(call_id="c", content=text_content(f"{number} {LONG * 2}"), name="look")
        yield AssistantMessage(content=text_content("Done."))
        yield UsageReport(usage=Usage(input_tokens=10 * calls + 10, output_tokens=calls + 1, model_calls=calls + 1))

    session = OneSession(main=reports)
    await session.say("count")
    assert session.of(ev.HistoryCompacted)
    (done,) = session.of(ev.TurnCompleted)
    assert (done.usage.model_calls, done.usage.input_tokens) == (5, 50)
    assert done.first_delta_ms is None, "it streamed nothing"


async def test_a_measured_prompt_decides_before_any_estimate() -> None:
    """Tool definitions are in no message: only the model's own count knows of them."""

    async def measures(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield AssistantMessage(content=text_content(LONG))
        tokens = 590 if turn.turn_number == 3 else 10
        yield UsageReport(usage=Usage(input_tokens=tokens, output_tokens=1, model_calls=1, last_input_tokens=tokens))

    session = OneSession(main=measures)
    for number in range(3):
        assert not session.of(ev.HistoryCompacted)
        await session.say(f"question {number}")
    assert session.of(ev.HistoryCompacted)


async def test_stopping_cancels_all_that_waits() -> None:
    async def hangs(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        await asyncio.Event().wait()
        yield

    session = OneSession(main=hangs)
    session.chat("one")
    session.ask()
    await eventually(lambda: session.given, "the turn runs")
    await session.actor.stop()
    assert not session.actor.busy
    assert all(not runner.alive for runner in session.runners)


async def test_a_turn_awaits_its_end_until_the_log_has_it_and_not_for_the_compaction_behind_it() -> None:
    """What a draining worker waits for: an end that is decided may still be on its way to the log."""
    at_summary, confirm = asyncio.Event(), asyncio.Event()

    class SlowLog(OneSession):
        async def submit(self, session_id: str, commands: Sequence[SessionCommand]) -> None:
            await super().submit(session_id, commands)
            await confirm.wait()

    async def held(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        at_summary.set()
        await asyncio.Event().wait()
        yield TextDelta(text="never")

    session = SlowLog(fast=held, limits=replace(LIMITS, summary_timeout_s=60.0))
    session.chat("question")
    await eventually(lambda: "TurnCompleted" in session.kinds, "its end is decided")
    assert session.live.state.running is None
    assert session.actor.awaits_end
    confirm.set()
    await eventually(lambda: not session.actor.awaits_end, "its end is confirmed")
    for number in range(6):
        if not at_summary.is_set():
            session.chat(f"question {number}")
            await eventually(lambda: at_summary.is_set() or not session.actor.busy, "it has ended")
    assert at_summary.is_set()
    assert not session.actor.awaits_end
    assert session.actor.busy
    await session.actor.stop()
