"""Turns that end on purpose: cancelled, interrupted by a newer message, or left behind by an archived session."""

from dataclasses import replace

import pytest

from tests.given import SESSION_ID, call, cancel, chat, complete, given, message, resume, running, told
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import CancelRequest, NewSession, ReplyAddress, Usage, text_content
from turnlog_streams.facts import Fact
from turnlog_streams.history.messages import history_message
from turnlog_streams.policy import Policy
from turnlog_streams.reply_frames import reply_again
from turnlog_streams.turn import INTERRUPTED_TEXT, Answer

REPLY = ReplyAddress(reply_to="chat.replies.me", framing="json", traceparent="00-1-2-01", tracestate="a=b")
STARTED = (ev.TurnStarted, ev.MessageStored)


def cancelled(by: str | None = None, reason: str = "cancelled on request") -> ev.TurnCancelled:
    request = CancelRequest(request_id=f"r{by}", command_hash=f"h{by}") if by else None
    return ev.TurnCancelled(reason=reason, usage=Usage(), by=request)


def partial_message(seq: int, text: str, name: str = "1") -> Fact:
    stored = ev.MessageStored(message_seq=seq, role="assistant", content=text_content(text), interrupted=True)
    return Fact(event=stored, turn_id=f"t{name}", attempt=1)


# ---- cancel


def test_the_running_turn_ends_and_what_it_said_is_kept() -> None:
    scenario = running().when(cancel(partial="Half an ans"))
    scenario.then(partial_message(2, "Half an ans"), Fact(event=cancelled("c"), turn_id="t1", attempt=1))
    assert scenario.session.running is None
    assert not scenario.session.turns


def test_its_text_is_cut_and_marked_like_any_other() -> None:
    scenario = running(policy=Policy(max_text_bytes=5)).when(cancel(partial="ab日本"))
    stored = scenario.facts[0].event
    assert isinstance(stored, ev.MessageStored)
    assert (stored.content, stored.truncated, stored.interrupted) == (text_content("ab日"), True, True)


def test_what_a_cancelled_turn_cost_counts() -> None:
    usage = Usage(input_tokens=7, output_tokens=3, model_calls=1, last_input_tokens=7)
    for ends in (cancel(usage=usage), chat("2", on_busy="interrupt", usage=usage)):
        scenario = running().when(ends)
        (ended,) = [fact.event for fact in scenario.facts if isinstance(fact.event, ev.TurnCancelled)]
        assert ended.usage == usage
        assert scenario.session.measure is None, "the prompt of that call is not the one before the partial text"
    queued = running().when(chat("2")).when(cancel("c", "2", usage=usage))
    assert [fact.event.usage for fact in queued.facts if isinstance(fact.event, ev.TurnCancelled)] == [Usage()]


def test_without_partial_text_no_message_is_made_up() -> None:
    running().when(cancel()).then(Fact(event=cancelled("c"), turn_id="t1", attempt=1))


def test_no_tool_call_stays_without_a_result() -> None:
    calls = (call("a"), call("b", idempotent=True))
    scenario = running().when(message(2, None, calls=calls)).when(cancel(partial="And so"))
    scenario.then_types(ev.MessageStored, ev.MessageStored, ev.MessageStored, ev.TurnCancelled)
    stored = [fact.event for fact in scenario.facts[:3]]
    assert all(isinstance(event, ev.MessageStored) and event.interrupted for event in stored)
    assert [(e.message_seq, e.role, e.tool_call_id, e.content) for e in stored if isinstance(e, ev.MessageStored)] == [
        (3, "tool", "a", text_content(INTERRUPTED_TEXT)),
        (4, "tool", "b", text_content(INTERRUPTED_TEXT)),
        (5, "assistant", None, text_content("And so")),
    ]


def test_a_cancelled_turn_lets_the_next_one_start() -> None:
    scenario = running().when(chat("2")).when(cancel("c", "1")).then_types(ev.TurnCancelled, *STARTED)
    assert scenario.session.running == "t2"


def test_unless_the_worker_drains() -> None:
    scenario = running().when(chat("2")).under(Policy(start_turns=False)).when(cancel())
    scenario.then_types(ev.TurnCancelled)
    scenario.under(Policy()).when(resume("2", attempt=0)).then_types(*STARTED)


def test_a_queued_turn_ends_without_a_message() -> None:
    scenario = running().when(chat("2")).when(chat("3")).when(cancel("c", "2", partial="of the running one"))
    scenario.then(Fact(event=cancelled("c"), turn_id="t2"))
    assert (scenario.session.running, scenario.session.queue) == ("t1", ("t3",))


@pytest.mark.parametrize("turn", [None, "1", "never"])
def test_nothing_to_cancel_is_refused(turn: str | None) -> None:
    running().when(complete()).when(cancel("c", turn)).then_refused("not_running")
    given().when(cancel("c", turn)).then_refused("not_found")


def test_the_same_cancel_twice_ends_one_turn() -> None:
    scenario = running().when(chat("2")).when(cancel("c")).when(cancel("c")).then_nothing()
    assert scenario.session.running == "t2"


def test_a_cancel_with_a_used_request_id_conflicts() -> None:
    scenario = running().when(replace(cancel("1"), command_hash="other")).then_refused("conflict")
    assert scenario.session.running == "t1"
    scenario.when(replace(cancel("1"), command_hash="other")).then_nothing()


def test_who_cancelled_finds_the_end_again_where_it_was_asked() -> None:
    scenario = running().when(cancel(partial="Half", reply=REPLY))
    answer = scenario.session.answers.known["rc"]
    assert answer == Answer(
        command_hash="hc",
        turn_id="t1",
        kind="cancelled",
        code="cancelled",
        reason="cancelled on request",
        attempt=1,
        reply=REPLY,
        answer_seq=2,
    )
    assert scenario.session.answers.known["r1"].kind == "cancelled"
    history = [history_message("t1", f.event) for f in scenario.facts if isinstance(f.event, ev.MessageStored)]
    reply = reply_again(scenario.session, answer, "rc", answer.reply, history)
    assert reply.frame == fr.TurnCancelled(reason="cancelled on request", text="Half", usage=Usage())
    assert (reply.address, reply.request_id, reply.turn_id, reply.terminal) == (REPLY, "rc", "t1", True)


def test_late_outcomes_of_a_cancelled_turn_add_nothing() -> None:
    scenario = running().when(cancel())
    for late in (message(2), complete(), resume()):
        scenario.when(late).then_nothing()


# ---- interrupt


def test_a_newer_message_ends_all_that_came_before_it() -> None:
    scenario = running().when(chat("2")).when(chat("3", on_busy="interrupt", partial="Half"))
    reason = "interrupted by a newer message"
    assert scenario.facts[:3] == [
        partial_message(2, "Half"),
        Fact(event=cancelled(reason=reason), turn_id="t1", attempt=1),
        Fact(event=cancelled(reason=reason), turn_id="t2"),
    ]
    scenario.then_types(ev.MessageStored, ev.TurnCancelled, ev.TurnCancelled, ev.TurnAccepted, *STARTED)
    assert (scenario.session.running, scenario.session.queue) == ("t3", ())


def test_an_idle_session_has_nothing_to_interrupt() -> None:
    running().when(complete()).when(chat("2", on_busy="interrupt")).then_types(ev.TurnAccepted, *STARTED)
    given().when(chat(on_busy="interrupt")).then_types(ev.SessionCreated, ev.TurnAccepted, *STARTED)


def test_a_wrong_message_interrupts_nothing() -> None:
    running().when(chat("2", model="gpt:9", on_busy="interrupt")).then_refused("model_not_allowed")


def test_an_interrupting_message_finds_no_full_queue() -> None:
    scenario = running(policy=Policy(max_queued_turns=1)).when(chat("2")).when(chat("3", on_busy="interrupt"))
    assert scenario.session.running == "t3"


def test_the_same_interrupting_message_twice_interrupts_once() -> None:
    running().when(chat("2", on_busy="interrupt")).when(chat("2", on_busy="interrupt")).then_nothing()


def test_a_draining_worker_still_ends_what_is_interrupted() -> None:
    scenario = running().under(Policy(start_turns=False)).when(chat("2", on_busy="interrupt"))
    scenario.then_types(ev.TurnCancelled, ev.TurnAccepted)
    assert (scenario.session.running, scenario.session.queue) == (None, ("t2",))


# ---- archiving


def test_archiving_lets_the_running_turn_end_and_cancels_those_that_wait() -> None:
    scenario = given().when(chat(new_session=NewSession(channel="web"))).when(chat("2")).when(chat("3"))
    scenario.when(told("archived", 1))
    reason = "the session was archived"
    scenario.then(
        Fact(event=ev.ForwardReceived(source_kind="channel", source_id="web", seq=1)),
        Fact(event=ev.SessionArchived()),
        Fact(event=cancelled(reason=reason), turn_id="t2"),
        Fact(event=cancelled(reason=reason), turn_id="t3"),
    )
    assert scenario.session.running == "t1"
    scenario.when(chat("4")).then_refused("archived")
    scenario.when(chat("5", on_busy="interrupt")).then_refused("archived")
    scenario.when(complete()).then_types(ev.TurnCompleted)
    assert scenario.session.archived
    assert scenario.session.session_id == SESSION_ID
