"""What a session begins with, calls that its client runs, and turns that are hidden: decisions, state and frames."""

from dataclasses import replace

import pytest

from tests.given import Scenario, call, cancel, chat, complete, fail, fold, given, message, resume, running
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import (
    ClientTool,
    InitialMessage,
    NewSession,
    ReplyAddress,
    ToolCall,
    ToolOutput,
    content_text,
    text_content,
)
from turnlog_streams.history.messages import HistoryMessage, history_message
from turnlog_streams.lookups import Found, Lookup
from turnlog_streams.policy import Policy
from turnlog_streams.reply_frames import replies_to, reply_again
from turnlog_streams.session.commands import Hide
from turnlog_streams.session.decide import decide
from turnlog_streams.session.needs import session_needs
from turnlog_streams.session.state import KEPT_ANSWERS, Session, evolve
from turnlog_streams.turn import INTERRUPTED_TEXT, AwaitedCall

STARTED = (ev.TurnStarted, ev.MessageStored)
TOOLS = (ClientTool(name="look"),)


def clients(call_id: str = "c", name: str = "look") -> ToolCall:
    return replace(call(call_id, name), client=True)


def output(call_id: str = "c", text: str = "42", *, is_error: bool = False) -> ToolOutput:
    return ToolOutput(call_id=call_id, output=text, is_error=is_error)


def waiting(*calls: ToolCall) -> Scenario:
    """The first turn has ended in calls that the client runs."""
    scenario = given().when(chat(tools=TOOLS)).when(message(2, None, calls=calls or (clients(),)))
    return scenario.when(complete())


def stored(scenario: Scenario) -> list[ev.MessageStored]:
    return [fact.event for fact in scenario.facts if isinstance(fact.event, ev.MessageStored)]


# ---- client calls


def test_a_turn_ends_in_calls_of_its_client() -> None:
    scenario = waiting(clients("a"), clients("b"))
    (ended,) = scenario.facts
    assert isinstance(ended.event, ev.TurnCompleted)
    assert ended.event.requires_action
    assert scenario.session.awaited == (
        AwaitedCall(call_id="a", name="look"),
        AwaitedCall(call_id="b", name="look"),
    )
    answer = scenario.session.answers.known["r1"]
    assert (answer.kind, answer.pending) == ("requires_action", ("a", "b"))


def test_open_calls_of_nobody_s_client_end_no_turn_so() -> None:
    scenario = running().when(message(2, None, calls=(call(),))).when(complete())
    assert not scenario.session.awaited
    assert scenario.session.answers.known["r1"].kind == "completed"


def test_the_outputs_begin_the_next_turn_in_the_order_of_the_calls() -> None:
    scenario = waiting(clients("a"), clients("b", "book"))
    scenario.when(chat("2", "", outputs=(output("b", "two", is_error=True), output("a", "one"))))
    scenario.then_types(ev.ToolOutputsAccepted, ev.TurnStarted, ev.MessageStored, ev.MessageStored)
    results = stored(scenario)
    assert [(m.message_seq, m.role, m.tool_call_id, m.name, m.outcome) for m in results] == [
        (3, "tool", "a", "look", "ok"),
        (4, "tool", "b", "book", "error"),
    ]
    assert [content_text(m.content) for m in results] == ["one", "two"]
    assert not scenario.session.awaited
    turn = scenario.session.turns["t2"]
    assert (turn.content, turn.outputs, turn.results_first, turn.open_calls) == ((), (), 2, ())


def test_words_may_follow_the_outputs() -> None:
    scenario = waiting().when(chat("2", "And?", outputs=(output(),)))
    assert [m.role for m in stored(scenario)] == ["tool", "user"]
    history = [
        history_message(fact.turn_id or "", fact.event) for fact in scenario.facts if fact.event in stored(scenario)
    ]  # type: ignore[arg-type]
    assert scenario.session.turns["t2"].inputs_in(history) == 2


def test_two_calls_of_one_id_are_answered_in_order() -> None:
    scenario = waiting(clients("c"), clients("c")).when(chat("2", "", outputs=(output("c", "1"), output("c", "2"))))
    assert [content_text(m.content) for m in stored(scenario)] == ["1", "2"]


@pytest.mark.parametrize(
    ("outputs", "code"),
    [
        ((output("x"),), "unknown_call"),
        ((output("a"), output("b"), output("x")), "unknown_call"),
        ((output("a"), output("a"), output("b")), "unknown_call"),
        ((output("a"),), "missing_outputs"),
        ((output("a", "x" * 2000), output("b")), "too_long"),
    ],
)
def test_outputs_that_do_not_fit_are_refused_and_the_session_waits_on(
    outputs: tuple[ToolOutput, ...], code: str
) -> None:
    scenario = waiting(clients("a"), clients("b")).under(Policy(max_tool_result_bytes=1000))
    scenario.when(chat("2", "", outputs=outputs)).then_refused(code)
    assert len(scenario.session.awaited) == 2
    scenario.when(chat("3", "", outputs=(output("b"), output("a"))))
    scenario.then_types(ev.ToolOutputsAccepted, *STARTED, ev.MessageStored)


def test_outputs_twice() -> None:
    scenario = waiting().when(chat("2", "", outputs=(output(),)))
    scenario.when(chat("2", "", outputs=(output(),))).then_nothing()
    scenario.when(chat("3", "", outputs=(output(),))).then_refused("not_waiting")
    scenario.when(complete("2"))
    scenario.when(chat("4", "", outputs=(output(),))).then_refused("not_waiting")


def test_outputs_to_a_session_that_does_not_exist() -> None:
    scenario = given().when(chat(text="", outputs=(output(),))).then_refused("not_waiting")
    assert not scenario.session.exists


def test_another_message_closes_the_calls() -> None:
    scenario = waiting().when(chat("2", "Never mind"))
    scenario.then_types(ev.TurnAccepted, *STARTED, ev.MessageStored)
    closed, said = stored(scenario)
    assert (closed.role, closed.tool_call_id, closed.interrupted, closed.outcome) == ("tool", "c", True, "interrupted")
    assert content_text(closed.content) == INTERRUPTED_TEXT
    assert (said.role, said.message_seq) == ("user", 4)
    assert not scenario.session.awaited
    scenario.when(complete("2")).when(chat("3", "", outputs=(output(),))).then_refused("not_waiting")


def test_a_message_that_waited_closes_them_at_once() -> None:
    scenario = given().when(chat(tools=TOOLS)).when(chat("2")).when(message(2, None, calls=(clients(),)))
    scenario.when(complete()).then_types(ev.TurnCompleted, ev.TurnStarted, ev.MessageStored, ev.MessageStored)
    scenario.when(chat("3", "", outputs=(output(),))).then_refused("not_waiting")


def test_a_draining_owner_accepts_outputs_and_the_next_one_starts_with_them() -> None:
    draining = Policy(start_turns=False)
    scenario = waiting().under(draining).when(chat("2", "", outputs=(output(),))).then_types(ev.ToolOutputsAccepted)
    scenario.when(chat("3", "", outputs=(output(),))).then_refused("not_waiting")
    scenario.when(chat("4")).then_types(ev.TurnAccepted)
    scenario.under(Policy()).when(resume("2", 0)).then_types(*STARTED)
    assert content_text(stored(scenario)[0].content) == "42"


def test_outputs_that_are_cancelled_before_they_start_are_waited_for_again() -> None:
    scenario = waiting().under(Policy(start_turns=False)).when(chat("2", "", outputs=(output(),)))
    scenario.when(cancel(turn="2")).then_types(ev.TurnCancelled)
    assert scenario.session.awaited
    scenario.under(Policy()).when(chat("3", "", outputs=(output(),)))
    scenario.then_types(ev.ToolOutputsAccepted, *STARTED)


def test_there_is_nothing_to_cancel_while_outputs_are_waited_for() -> None:
    scenario = waiting().when(cancel()).then_refused("not_running")
    assert scenario.session.awaited
    scenario.when(cancel("d", turn="1")).then_refused("not_running")


def test_an_archived_session_takes_no_outputs() -> None:
    scenario = waiting()
    archived = evolve(scenario.session, replace(scenario.facts[0], event=ev.SessionArchived()))
    Scenario(session=archived).when(chat("2", "", outputs=(output(),))).then_refused("archived")


def test_a_new_attempt_leaves_the_client_s_calls_open() -> None:
    scenario = given().when(chat(tools=TOOLS)).when(message(2, None, calls=(call("s"), clients("c"))))
    scenario.when(resume()).then_types(ev.TurnStarted, ev.MessageStored)
    assert stored(scenario)[0].tool_call_id == "s"
    assert [c.call_id for c in scenario.session.turns["t1"].open_calls] == ["c"]
    scenario.when(complete(attempt=2))
    assert [c.call_id for c in scenario.session.awaited] == ["c"]


def test_a_failed_turn_leaves_no_call_open() -> None:
    scenario = given().when(chat(tools=TOOLS)).when(message(2, None, calls=(clients(),)))
    scenario.when(fail(retryable=False)).then_types(ev.MessageStored, ev.TurnFailed)
    assert not scenario.session.awaited


# ---- what it begins with

SAID = (
    InitialMessage(role="system", content=text_content("Be brief.")),
    InitialMessage(role="user", content=text_content("Is it raining?")),
    InitialMessage(role="assistant", tool_calls=(call("c", "weather", idempotent=True),)),
    InitialMessage(role="tool", tool_call_id="c", name="weather", content=text_content("rain")),
    InitialMessage(role="developer", content=text_content("Use metric units.")),
    InitialMessage(role="assistant", content=text_content("Yes.")),
)


def test_a_session_begins_with_messages_in_one_decision() -> None:
    new = NewSession(instructions="You are kind.", messages=SAID, metadata={"a": "b"})
    scenario = given().when(chat(text="And tomorrow?", new_session=new))
    created, *said, accepted, started, asked = scenario.facts
    assert created.event == ev.SessionCreated(
        new_session=NewSession(
            title="Is it raining?",
            instructions="You are kind.\n\nBe brief.\n\nUse metric units.",
            metadata={"a": "b"},
        ),
        request_id="r1",
    )
    messages = [fact.event for fact in said]
    assert [(m.message_seq, m.role, m.imported) for m in messages if isinstance(m, ev.MessageStored)] == [
        (1, "user", True),
        (2, "assistant", True),
        (3, "tool", True),
        (4, "assistant", True),
    ]
    assert {fact.turn_id for fact in said} == {None}
    assert messages[1].tool_calls == (replace(call("c", "weather"), client=True),)  # type: ignore[union-attr]
    assert isinstance(accepted.event, ev.TurnAccepted)
    assert accepted.event.opened
    assert isinstance(started.event, ev.TurnStarted)
    assert isinstance(asked.event, ev.MessageStored)
    assert (asked.event.message_seq, asked.turn_id) == (5, "t1")
    assert scenario.session.messages == 5
    scenario.when(chat(text="And tomorrow?", new_session=new)).then_nothing()


def test_a_session_that_exists_does_not_use_them_and_says_so() -> None:
    scenario = running().when(complete()).when(chat("2", new_session=NewSession(messages=SAID)))
    scenario.then_types(ev.TurnAccepted, *STARTED)
    (accepted,) = replies_to(scenario.session, scenario.facts[0], [])
    assert accepted.frame == fr.TurnAccepted(queued_turns=1, opened_session=False)


def test_calls_at_their_end_are_answered_by_the_same_request() -> None:
    new = NewSession(messages=SAID[:3])
    scenario = given().when(chat(text="", new_session=new, outputs=(output("c", "rain"),)))
    scenario.then_types(*(ev.SessionCreated, ev.MessageStored, ev.MessageStored, ev.ToolOutputsAccepted), *STARTED)
    assert not scenario.session.awaited
    wrong = given().when(chat(text="", new_session=new, outputs=(output("x"),))).then_refused("unknown_call")
    assert not wrong.session.exists, "nothing is made of a request that is refused"


def test_calls_at_their_end_are_closed_by_words() -> None:
    scenario = given().when(chat(text="Well?", new_session=NewSession(messages=SAID[:3])))
    closed, asked = stored(scenario)[-2:]
    assert (closed.tool_call_id, closed.interrupted, asked.role) == ("c", True, "user")


def test_a_message_that_is_too_long() -> None:
    new = NewSession(messages=(InitialMessage(role="user", content=text_content("x" * 2000)),))
    scenario = given(policy=Policy(max_text_bytes=1000)).when(chat(new_session=new)).then_refused("too_long")
    assert not scenario.session.exists
    running(policy=Policy(max_text_bytes=1000)).when(chat("2", new_session=new)).then_types(ev.TurnAccepted)


# ---- frames


def test_frames_of_a_turn_that_ends_in_client_calls() -> None:
    scenario = given().when(chat(tools=TOOLS))
    asked = message(2, None, calls=(call("s", "search"), clients()))
    history: list[HistoryMessage] = []
    frames: list[fr.Frame] = []
    for command in (asked, message(3, "found", role="tool", call_id="s"), complete()):
        before = scenario.session
        scenario.when(command)
        for fact in scenario.facts:
            if isinstance(fact.event, ev.MessageStored):
                history.append(history_message(fact.turn_id or "", fact.event))
            frames += [reply.frame for reply in replies_to(before, fact, history)]
            before = evolve(before, fact)
    assert [type(frame) for frame in frames] == [
        fr.MessageStored,
        fr.ToolCallStarted,
        fr.MessageStored,
        fr.TurnCompleted,
    ]
    started, ended = frames[1], frames[3]
    assert isinstance(started, fr.ToolCallStarted)
    assert started.call.call_id == "s"
    assert isinstance(ended, fr.TurnCompleted)
    assert [c.call_id for c in ended.pending_calls] == ["c"]
    again = reply_again(scenario.session, scenario.session.answers.known["r1"], "r1", ReplyAddress(), history)
    assert again is not None
    assert again.frame == ended


def test_what_the_client_says_gets_no_frame() -> None:
    scenario = waiting()
    before = scenario.session
    scenario.when(chat("2", "", outputs=(output(),)))
    frames: list[fr.Frame] = []
    for fact in scenario.facts:
        frames += [reply.frame for reply in replies_to(before, fact, [])]
        before = evolve(before, fact)
    assert [type(frame) for frame in frames] == [fr.TurnAccepted, fr.TurnStarted]


# ---- hiding


def hide(name: str = "h", *, turn: str | None = None, of_request: str | None = None) -> Hide:
    return Hide(
        request_id=f"r{name}", command_hash=f"h{name}", turn_id=turn, of_request=of_request, reply=ReplyAddress()
    )


@pytest.mark.parametrize("how", [hide(turn="t1"), hide(of_request="r1")])
@pytest.mark.parametrize("scenario", [running(), running().when(complete())], ids=["running", "ended"])
def test_a_turn_is_hidden(how: Hide, scenario: Scenario) -> None:
    scenario = Scenario(session=scenario.session).when(how).then_types(ev.TurnHidden)
    assert scenario.facts[0].turn_id == "t1"
    (told,) = replies_to(scenario.session, scenario.facts[0], [])
    assert told.frame == fr.TurnHidden(hidden_turn_id="t1")
    assert told.turn_id is None, "it is no frame of that turn"
    scenario.when(how).then_nothing()
    again = reply_again(scenario.session, scenario.session.answers.known["rh"], "rh", ReplyAddress(), [])
    assert again is not None
    assert again.frame == told.frame
    scenario.when(hide("2", turn="t1")).then_types(ev.TurnHidden)


def test_a_turn_that_is_not_there_cannot_be_hidden() -> None:
    running().when(hide(turn="t9")).then_refused("not_found")
    running().when(hide(of_request="r9")).then_refused("not_found")
    given().when(hide(turn="t1")).then_refused("not_found")


def old_session() -> Session:
    """One whose first answers have left its state."""
    scenario = running().when(complete())
    for number in range(2, KEPT_ANSWERS + 5):
        scenario.when(chat(str(number))).when(complete(str(number)))
    assert "r1" not in scenario.session.answers.known
    return scenario.session


def test_a_turn_of_long_ago_is_looked_up() -> None:
    session, command = old_session(), hide(turn="t1")
    found = Found(answers=dict.fromkeys((command.request_id, f"{command.request_id}\0{command.command_hash}")))
    assert session_needs(session, command, found) == Lookup(turns=frozenset({"t1"}))
    there = found.plus(Found(turns={"t1": True}))
    assert session_needs(session, command, there) is None
    (fact,) = decide(session, command, Policy(), there)
    assert isinstance(fact.event, ev.TurnHidden)
    (refused,) = decide(session, command, Policy(), found.plus(Found(turns={"t1": False})))
    assert isinstance(refused.event, ev.RequestRefused)
    assert session_needs(session, hide(turn=f"t{KEPT_ANSWERS}"), found) is None, "it is in the state"


def test_hiding_changes_nothing_else() -> None:
    scenario = waiting()
    before = scenario.session
    after = scenario.when(hide(turn="t1")).session
    assert replace(after, version=before.version, answers=before.answers) == before
    assert fold(scenario.facts, before) == after
