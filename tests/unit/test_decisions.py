"""What a session decides."""

from dataclasses import replace

import pytest

from tests.given import (
    USAGE,
    call,
    cancel,
    chat,
    complete,
    fail,
    given,
    message,
    refuse,
    resume,
    running,
)
from turnlog_schemas import events as ev
from turnlog_schemas.parts import ContentPart, NewSession, ReplyAddress, ToolCall, Usage, text_content
from turnlog_streams.answers import conflict_key
from turnlog_streams.facts import Fact
from turnlog_streams.policy import Policy
from turnlog_streams.session.needs import known_answer
from turnlog_streams.session.title import auto_title
from turnlog_streams.turn import INTERRUPTED_TEXT, Answer, without_result

REPLY = ReplyAddress(reply_to="chat.replies.me", framing="json", traceparent="00-1-2-01", tracestate="a=b")
STARTED = (ev.TurnStarted, ev.MessageStored)
CREATED = (ev.SessionCreated,)


# ---- accepting


def test_a_chat_to_an_unknown_session_creates_it_and_starts_at_once() -> None:
    given().when(chat(text="  What is\n a log? ", reply=REPLY)).then(
        Fact(event=ev.SessionCreated(new_session=NewSession(title="What is a log?"), request_id="r1")),
        Fact(
            event=ev.TurnAccepted(
                request_id="r1",
                command_hash="h1",
                content=text_content("  What is\n a log? "),
                reply=REPLY,
                opened=True,
            ),
            turn_id="t1",
        ),
        Fact(event=ev.TurnStarted(model="echo:", cause="first"), turn_id="t1", attempt=1),
        Fact(
            event=ev.MessageStored(message_seq=1, role="user", content=text_content("  What is\n a log? ")),
            turn_id="t1",
            attempt=1,
        ),
    )


def test_the_state_after_it() -> None:
    session = running().session
    assert session.exists
    assert session.version == 4
    assert session.running == "t1"
    assert session.queue == ()
    assert session.messages == session.turn_count == session.open_turns == 1
    assert session.turns["t1"].attempt == 1
    assert session.turns["t1"].model == "echo:"
    assert session.answers.known["r1"] == Answer(command_hash="h1", turn_id="t1", created=True)


def test_a_new_session_is_made_as_the_chat_says() -> None:
    new = NewSession(
        channel="support", title="Refund", instructions="Be brief.", model="echo:loud", metadata={"tenant": "7"}
    )
    scenario = given().when(chat(new_session=new))
    assert scenario.facts[0].event == ev.SessionCreated(new_session=new, request_id="r1")
    opened = scenario.facts[1].event
    assert isinstance(opened, ev.CommandForwarded)
    assert (opened.target_kind, opened.target_id, opened.what, opened.new_session) == (
        "channel",
        "support",
        "opened",
        new,
    )
    assert scenario.session.turns["t1"].model == "echo:loud"


def test_an_existing_session_stays_as_it_was_made() -> None:
    scenario = running().when(complete()).when(chat("2", new_session=NewSession(title="Other", model="gpt:9")))
    scenario.then_types(ev.TurnAccepted, *STARTED)
    assert scenario.session.title == "Hi"
    assert scenario.session.model is None


def test_the_request_s_model_goes_before_the_session_s_and_that_before_the_default() -> None:
    policy = Policy(allow_models=("*",), default_model="default:")
    created = given(policy=policy).when(chat(model="asked:", new_session=NewSession(model="session:")))
    assert created.session.turns["t1"].model == "asked:"
    created.when(complete()).when(chat("2"))
    assert created.session.turns["t2"].model == "session:"
    plain = given(policy=policy).when(chat())
    assert plain.session.turns["t1"].model == "default:"
    plain.when(chat("2", model="asked:")).when(chat("3")).under(replace(policy, default_model="newer:"))
    plain.when(complete("1"))
    assert plain.session.turns["t2"].model == "asked:"
    plain.when(complete("2"))
    assert plain.session.turns["t3"].model == "newer:", "resolved when the turn starts"


def test_a_busy_session_queues() -> None:
    scenario = running().when(chat("2")).then_types(ev.TurnAccepted)
    assert list(scenario.session.queue) == ["t2"]
    assert scenario.session.messages == 1, "a queued message is no part of the history yet"
    scenario.when(chat("3")).then_types(ev.TurnAccepted)
    assert list(scenario.session.queue) == ["t2", "t3"]
    scenario.when(complete("1")).then_types(ev.TurnCompleted, *STARTED)
    assert (scenario.session.running, scenario.session.queue) == ("t2", ("t3",))


def test_history_order_is_turn_order() -> None:
    scenario = running().when(chat("2", "second")).when(message(2, "answer to the first")).when(complete("1"))
    stored = scenario.facts[-1]
    assert stored.turn_id == "t2"
    assert stored.event == ev.MessageStored(message_seq=3, role="user", content=text_content("second"))


def test_a_draining_worker_accepts_and_starts_nothing() -> None:
    draining = Policy(start_turns=False)
    scenario = given(policy=draining).when(chat()).then_types(*CREATED, ev.TurnAccepted)
    assert scenario.session.queue == ("t1",)
    scenario.when(resume("1", attempt=0)).then_nothing()
    scenario.under(Policy()).when(resume("1", attempt=0)).then_types(*STARTED)
    scenario.when(chat("2")).under(draining).when(complete("1")).then_types(ev.TurnCompleted)


# ---- refusing


def test_reject_when_busy() -> None:
    running().when(chat("2", on_busy="reject")).then_refused("busy")
    running().when(complete()).when(chat("2", on_busy="reject")).then_types(ev.TurnAccepted, *STARTED)


def test_a_full_queue_refuses() -> None:
    scenario = running(policy=Policy(max_queued_turns=1))
    scenario.when(chat("2")).then_types(ev.TurnAccepted)
    scenario.when(chat("3")).then_refused("busy")


def test_a_session_without_a_queue_still_answers_when_it_is_idle() -> None:
    scenario = running(policy=Policy(max_queued_turns=0)).then_types(*CREATED, ev.TurnAccepted, *STARTED)
    scenario.when(chat("2")).then_refused("busy")


def test_a_long_text_is_counted_in_bytes_over_all_parts() -> None:
    policy = Policy(max_text_bytes=8)
    parts = (ContentPart(text="åååå"), ContentPart(text="x"))
    given(policy=policy).when(chat(content=parts)).then_refused("too_long")
    given(policy=policy).when(chat(content=parts[:1])).then_types(*CREATED, ev.TurnAccepted, *STARTED)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(chat(model="gpt:9"), id="the request's"),
        pytest.param(chat(new_session=NewSession(model="gpt:9")), id="the new session's"),
        pytest.param(chat(model="echo:", new_session=NewSession(model="gpt:9")), id="hidden behind the request's"),
    ],
)
def test_a_model_that_is_not_allowed(command: object) -> None:
    assert isinstance(command, type(chat()))
    scenario = given().when(command).then_refused("model_not_allowed")
    assert not scenario.session.exists


def test_a_default_model_that_is_not_allowed() -> None:
    given(policy=Policy(default_model="gpt:9")).when(chat()).then_refused("model_not_allowed")


def test_an_archived_session_refuses() -> None:
    scenario = running().when(complete())
    scenario.session = replace(scenario.session, archived=True)
    scenario.when(chat("2")).then_refused("archived")


def test_a_request_id_that_is_used_again_for_another_command_conflicts() -> None:
    scenario = running().when(chat("1", "other", command_hash="h9")).then_refused("conflict")
    assert scenario.session.answers.known["r1"].turn_id == "t1", "the first use keeps its answer"
    assert scenario.session.answers.known[conflict_key("r1", "h9")].code == "conflict"
    scenario.when(chat("1", "other", command_hash="h9")).then_nothing()
    scenario.when(chat("1", "another", command_hash="h8")).then_refused("conflict")


def test_a_refusal_says_where_its_answer_goes() -> None:
    scenario = given().when(chat(model="gpt:9", reply=REPLY))
    refused = scenario.facts[0].event
    assert isinstance(refused, ev.RequestRefused)
    assert refused.reply == REPLY
    assert scenario.session.answers.known["r1"].reply == REPLY


def test_a_wrong_request_is_refused_once() -> None:
    scenario = given().when(refuse()).then_refused("empty_text")
    scenario.when(refuse()).then_nothing()
    scenario.when(chat()).then_nothing()
    scenario.when(chat(command_hash="h2")).then_refused("conflict")


# ---- the same command twice


@pytest.mark.parametrize("twice", [chat("2"), chat("2", on_busy="reject"), chat("2", model="gpt:9"), refuse("2")])
def test_the_same_request_twice_adds_nothing(twice: object) -> None:
    assert isinstance(twice, type(chat()) | type(refuse()))
    scenario = running().when(twice)
    assert scenario.facts
    scenario.when(twice).then_nothing()
    scenario.when(complete()).when(twice).then_nothing()


def test_a_retry_after_the_end_finds_its_answer() -> None:
    scenario = running().when(complete()).when(chat()).then_nothing()
    answer = known_answer(scenario.session, "r1", "h1")
    assert answer is not None
    assert (answer.kind, answer.turn_id, answer.attempt, answer.usage) == ("completed", "t1", 1, USAGE)
    assert known_answer(scenario.session, "r1", "h2") is None
    assert known_answer(scenario.session, "r2", "h1") is None


@pytest.mark.parametrize(
    "twice",
    [
        pytest.param(message(2), id="message"),
        pytest.param(complete(), id="complete"),
        pytest.param(fail(), id="fail, retried"),
        pytest.param(fail(retryable=False), id="fail, for good"),
        pytest.param(resume(), id="resume"),
    ],
)
def test_the_same_outcome_twice_adds_nothing(twice: object) -> None:
    assert isinstance(twice, type(message(2)) | type(complete()) | type(fail()) | type(resume()))
    scenario = running().when(chat("2")).when(twice)
    assert scenario.facts
    scenario.when(twice).then_nothing()


# ---- the runner's outcomes


def test_a_turn_with_tools_to_its_end() -> None:
    scenario = running().when(message(2, None, calls=(call("a"), call("b"))))
    (stored,) = scenario.facts
    assert isinstance(stored.event, ev.MessageStored)
    assert [tool.idempotency_key for tool in stored.event.tool_calls] == ["t1:2:0", "t1:2:1"]
    assert scenario.session.turns["t1"].open_calls == stored.event.tool_calls
    scenario.when(message(3, "result", role="tool", call_id="a"))
    assert [tool.call_id for tool in scenario.session.turns["t1"].open_calls] == ["b"]
    scenario.when(message(4, "result", role="tool", call_id="b")).when(message(5, "Done"))
    assert scenario.session.turns["t1"].open_calls == ()
    scenario.when(complete()).then(
        Fact(event=ev.TurnCompleted(usage=USAGE, duration_ms=9), turn_id="t1", attempt=1),
    )
    assert scenario.session.running is None
    assert scenario.session.open_turns == 0
    assert scenario.session.messages == 5


def test_a_runner_that_starts_tools_itself_gives_the_key() -> None:
    scenario = running().when(message(2, None, calls=(replace(call(), idempotency_key="mine"), call())))
    (stored,) = scenario.facts
    assert isinstance(stored.event, ev.MessageStored)
    assert [tool.idempotency_key for tool in stored.event.tool_calls] == ["mine", "t1:2:1"]


def test_outcomes_of_an_older_attempt_or_of_another_turn_add_nothing() -> None:
    scenario = running().when(chat("2")).when(fail())
    assert scenario.session.turns["t1"].attempt == 2
    for late in (message(2, attempt=1), complete(attempt=1), fail(attempt=1), resume(attempt=1)):
        scenario.when(late).then_nothing()
    for foreign in (message(2, name="2"), complete("2"), fail("2"), complete("9"), resume("9"), resume("2", 0)):
        scenario.when(foreign).then_nothing()


def test_a_message_for_a_later_position_is_a_mistake_that_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="session web-1a2b3c4d: a message for position 3 of the history, next is 2"):
        running().when(message(3))


def spent(attempts: int) -> Usage:
    """What so many attempts of the scenario's cost."""
    return replace(
        USAGE,
        input_tokens=attempts * USAGE.input_tokens,
        output_tokens=attempts * USAGE.output_tokens,
        model_calls=attempts * USAGE.model_calls,
    )


def test_a_turn_costs_what_all_its_attempts_cost() -> None:
    """Also what only a message told of one whose owner was lost, and once each."""
    told = replace(message(2, None, calls=(call(),)), usage=USAGE)
    scenario = running().when(told).when(resume()).when(fail(attempt=2))
    assert scenario.session.turns["t1"].spent == spent(2)
    scenario.when(complete(attempt=3))
    (ended,) = [fact.event for fact in scenario.facts if isinstance(fact.event, ev.TurnCompleted)]
    assert ended.usage == spent(3)
    assert scenario.session.answers.known["r1"].usage == spent(3)


def test_the_last_prompt_is_the_last_attempt_s() -> None:
    """It measures the history, and that of an attempt before is another one."""
    scenario = running().when(fail(attempt=1)).when(replace(complete(attempt=2), usage=Usage(output_tokens=3)))
    (ended,) = [fact.event for fact in scenario.facts if isinstance(fact.event, ev.TurnCompleted)]
    assert (ended.usage.input_tokens, ended.usage.last_input_tokens) == (5, 0)


def test_runner_failures_are_retried_up_to_the_limit() -> None:
    scenario = running(policy=Policy(max_runner_attempts=3)).when(fail(attempt=1))
    scenario.then(
        Fact(
            event=ev.TurnStarted(model="echo:", cause="retry", error="model_error: it broke", usage=USAGE),
            turn_id="t1",
            attempt=2,
        ),
    )
    scenario.when(fail(attempt=2)).then_types(ev.TurnStarted)
    scenario.when(fail(attempt=3)).then(
        Fact(
            event=ev.TurnFailed(code="model_error", reason="it broke", usage=spent(3), duration_ms=9),
            turn_id="t1",
            attempt=3,
        ),
    )
    answer = scenario.session.answers.known["r1"]
    assert (answer.kind, answer.code, answer.reason, answer.attempt) == ("failed", "model_error", "it broke", 3)


def test_a_failure_that_no_retry_can_help_ends_the_turn_and_the_next_one_starts() -> None:
    running().when(chat("2")).when(fail(retryable=False)).then_types(ev.TurnFailed, *STARTED)


def test_takeovers_are_not_the_runner_s_failures() -> None:
    scenario = running(policy=Policy(max_runner_attempts=2))
    for attempt in range(1, 10):
        scenario.when(resume(attempt=attempt)).then(
            Fact(event=ev.TurnStarted(model="echo:", cause="takeover"), turn_id="t1", attempt=attempt + 1),
        )
    scenario.when(fail(attempt=10)).then_types(ev.TurnStarted)
    scenario.when(fail(attempt=11)).then_types(ev.TurnFailed)


def test_takeovers_in_a_row_end_as_suspected_poison() -> None:
    scenario = running(policy=Policy(max_takeovers=3)).when(chat("2"))
    for attempt in (1, 2, 3):
        scenario.when(resume(attempt=attempt)).then_types(ev.TurnStarted)
    scenario.when(resume(attempt=4)).then_types(ev.TurnFailed, *STARTED)
    failed = scenario.facts[0].event
    assert isinstance(failed, ev.TurnFailed)
    assert failed.code == "suspected_poison"
    assert failed.reason.startswith("3 owners in a row were lost")


def test_a_stored_message_starts_the_count_of_takeovers_anew() -> None:
    scenario = running(policy=Policy(max_takeovers=2))
    scenario.when(resume(attempt=1)).when(resume(attempt=2)).when(message(2, attempt=3))
    scenario.when(resume(attempt=3)).when(resume(attempt=4)).then_types(ev.TurnStarted)
    scenario.when(resume(attempt=5)).then_types(ev.TurnFailed)


def test_a_synthesised_result_does_not_start_the_count_anew() -> None:
    scenario = running(policy=Policy(max_takeovers=2)).when(message(2, None, calls=(call(),)))
    scenario.when(resume(attempt=1)).then_types(ev.TurnStarted, ev.MessageStored)
    scenario.when(resume(attempt=2)).then_types(ev.TurnStarted)
    scenario.when(resume(attempt=3)).then_types(ev.TurnFailed)


# ---- calls whose outcome is unknown


def interrupted(seq: int, call_id: str = "c", *, attempt: int = 2, name: str = "search") -> Fact:
    event = ev.MessageStored(
        message_seq=seq,
        role="tool",
        content=text_content(INTERRUPTED_TEXT),
        tool_call_id=call_id,
        name=name,
        interrupted=True,
        outcome="interrupted",
    )
    return Fact(event=event, turn_id="t1", attempt=attempt)


def started_again(attempt: int = 2, cause: str = "takeover", error: str | None = None) -> Fact:
    usage = USAGE if cause == "retry" else None
    event = ev.TurnStarted(model="echo:", cause=cause, error=error, usage=usage)
    return Fact(event=event, turn_id="t1", attempt=attempt)


def test_a_call_without_a_result_is_closed_as_interrupted() -> None:
    scenario = running().when(message(2, None, calls=(call("a"), call("b"))))
    scenario.when(message(3, "result", role="tool", call_id="a"))
    scenario.when(resume()).then(started_again(), interrupted(4, "b"))
    assert scenario.session.turns["t1"].open_calls == ()
    scenario.when(resume(attempt=2)).then(started_again(3))


def test_so_is_one_of_a_runner_that_failed() -> None:
    scenario = running().when(message(2, None, calls=(call(),)))
    scenario.when(fail()).then(started_again(cause="retry", error="model_error: it broke"), interrupted(3))


def test_an_idempotent_call_stays_open_to_be_repeated() -> None:
    calls = (call("a", idempotent=True), call("b"))
    scenario = running().when(message(2, None, calls=calls)).when(resume()).then(started_again(), interrupted(3, "b"))
    assert [tool.call_id for tool in scenario.session.turns["t1"].open_calls] == ["a"]
    scenario.when(message(4, "result", attempt=2, role="tool", call_id="a"))
    assert scenario.session.turns["t1"].open_calls == ()


def test_calls_that_share_an_id_share_their_fate() -> None:
    """A result is paired by position: closing only the second would leave the second one open."""
    calls = (call("c", "safe", idempotent=True), call("c", "unsafe"), call("d", idempotent=True))
    scenario = running().when(message(2, None, calls=calls))
    scenario.when(resume()).then(started_again(), interrupted(3, name="safe"), interrupted(4, name="unsafe"))
    assert [tool.call_id for tool in scenario.session.turns["t1"].open_calls] == ["d"]


def test_a_turn_that_fails_leaves_no_call_open() -> None:
    scenario = running().when(message(2, None, calls=(call("a", idempotent=True),))).when(chat("2"))
    scenario.when(fail(retryable=False))
    scenario.then_types(ev.MessageStored, ev.TurnFailed, *STARTED)
    assert scenario.facts[0] == interrupted(3, "a", attempt=1)
    assert scenario.facts[-1].event == ev.MessageStored(message_seq=4, role="user", content=text_content("Hi"))


@pytest.mark.parametrize(
    ("open_ids", "answered", "left"),
    [
        ("ab", "a", "b"),
        ("ab", "b", "a"),
        ("aa", "a", "a"),
        ("aba", "a", "ba"),
        ("ab", "z", "b"),
        ("ab", None, "b"),
        ("", "a", ""),
    ],
)
def test_a_result_answers_the_first_call_with_its_id_else_the_first(
    open_ids: str, answered: str | None, left: str
) -> None:
    calls = tuple(ToolCall(call_id=call_id, name=str(index), arguments="{}") for index, call_id in enumerate(open_ids))
    remaining = without_result(calls, answered)
    assert "".join(tool.call_id for tool in remaining) == left
    assert [tool.name for tool in remaining] == sorted(tool.name for tool in remaining)


# ---- names


def test_an_id_tells_no_channel() -> None:
    scenario = given(session_id="web-1a2b3c4d").when(chat()).then_types(*CREATED, ev.TurnAccepted, *STARTED)
    assert scenario.session.channel is None


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hi", "Hi"),
        ("  two\n lines\t here ", "two lines here"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 60 + "…"),
        ("word " * 20, "word word word word word word word word word word word word…"),
        ("a" * 20 + " " + "b" * 60, "a" * 20 + " " + "b" * 39 + "…"),
        ("a" * 21 + " " + "b" * 60, "a" * 21 + "…"),
        ("a" * 60 + " b", "a" * 60 + "…"),
        ("a" * 30 + " " + "b" * 29 + " c", "a" * 30 + " " + "b" * 29 + "…"),
    ],
)
def test_auto_title(text: str, title: str) -> None:
    assert auto_title(text) == title


def test_usage_is_zero_where_a_turn_was_given_up() -> None:
    scenario = running(policy=Policy(max_takeovers=0)).when(resume()).then_types(ev.TurnFailed)
    failed = scenario.facts[0].event
    assert isinstance(failed, ev.TurnFailed)
    assert failed.usage == Usage()


def test_a_chat_that_comes_behind_one_turn_only() -> None:
    scenario = running()
    scenario.when(chat("2", after="t0")).then_refused("not_newest")
    scenario.when(chat("3", after="t1", on_busy="reject")).then_refused("busy")
    scenario.when(complete()).when(chat("4", after="t1")).then_types(ev.TurnAccepted, *STARTED)
    scenario.when(chat("5", after="t1")).then_refused("not_newest")  # as of the other one's decision, not of its end
    scenario.when(chat("6", after="t4")).then_types(ev.TurnAccepted)
    scenario.when(chat("7", after="t4")).then_refused("not_newest")
    scenario.when(cancel("8", "6")).when(chat("9", after="t4")).then_types(ev.TurnAccepted)


def test_a_chat_that_comes_first_only() -> None:
    scenario = given().when(chat(after="t9")).then_refused("not_newest")
    assert not scenario.session.exists
    scenario.when(chat("2", after="")).then_types(*CREATED, ev.TurnAccepted, *STARTED)
    scenario.when(chat("3", after="")).then_refused("not_newest")
    scenario.when(chat("2", after="")).then_nothing()
