"""Which frames report which facts."""

from collections.abc import Sequence

import pytest

from tests.given import SESSION_ID, USAGE, Scenario, call, chat, complete, fail, given, message, refuse, resume, running
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.codec import encoded_bytes
from turnlog_schemas.parts import HistoryEntry, NewSession, ReplyAddress, ToolCall, Usage, content_text, text_content
from turnlog_streams.facts import Fact
from turnlog_streams.history.messages import HistoryMessage, final_text, history_message, of_turn
from turnlog_streams.policy import Policy
from turnlog_streams.reply import Reply
from turnlog_streams.reply_frames import replies_to, reply_again, shortened
from turnlog_streams.session.needs import known_answer
from turnlog_streams.session.state import Session, evolve
from turnlog_streams.turn import Answer

ADDRESS = ReplyAddress(reply_to="chat.replies.me", framing="json", traceparent="00-1-2-01", tracestate="a=b")


class Told:
    """A session whose every fact is told at once, as an owner does it."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.scenario: Scenario = given(policy=policy)
        self.history: list[HistoryMessage] = []

    def when(self, command: object) -> list[Reply]:
        before = self.scenario.session
        self.scenario.when(command)  # type: ignore[arg-type]
        replies: list[Reply] = []
        for fact in self.scenario.facts:
            if isinstance(fact.event, ev.MessageStored):
                self.history.append(history_message(fact.turn_id or "", fact.event))
            replies += replies_to(before, fact, self.history)
            before = evolve(before, fact)
        return replies

    def again(self, name: str = "1") -> Reply:
        answer = known_answer(self.scenario.session, f"r{name}", f"h{name}")
        assert answer is not None
        return reply_again(self.scenario.session, answer, f"r{name}", ADDRESS, self.history)


def frames(replies: Sequence[Reply]) -> list[fr.Frame]:
    return [reply.frame for reply in replies]


def test_accepted_and_started_but_not_the_user_s_own_words() -> None:
    replies = Told().when(chat(reply=ADDRESS))
    assert frames(replies) == [
        fr.TurnAccepted(queued_turns=0, opened_session=True),
        fr.TurnStarted(model="echo:"),
    ]
    assert [(reply.request_id, reply.turn_id, reply.attempt) for reply in replies] == [("r1", "t1", 0), ("r1", "t1", 1)]
    assert {reply.address for reply in replies} == {ADDRESS}
    assert not any(reply.terminal for reply in replies)


def test_a_queued_turn_hears_how_many_come_before_it() -> None:
    told = Told()
    told.when(chat("1"))
    assert frames(told.when(chat("2"))) == [fr.TurnAccepted(queued_turns=1)]
    assert frames(told.when(chat("3"))) == [fr.TurnAccepted(queued_turns=2)]


def test_messages_and_the_calls_in_them() -> None:
    told = Told()
    told.when(chat(reply=ADDRESS))
    (stored, started) = told.when(message(2, None, calls=(call(),)))
    kept = ToolCall(call_id="c", name="search", arguments="{}", idempotency_key="t1:2:0")
    assert stored.frame == fr.MessageStored(message_seq=2, role="assistant", content=None, tool_calls=(kept,))
    assert started.frame == fr.ToolCallStarted(message_seq=2, call=kept)
    assert stored.address == started.address == ADDRESS
    (result,) = told.when(message(3, "found", role="tool", call_id="c"))
    assert result.frame == fr.MessageStored(message_seq=3, role="tool", content=text_content("found"), tool_call_id="c")


def test_the_end_carries_the_last_assistant_message() -> None:
    told = Told()
    told.when(chat())
    told.when(message(2, "Let me see."))
    told.when(message(3, "It is 42."))
    (completed,) = told.when(complete())
    assert completed.frame == fr.TurnCompleted(text="It is 42.", usage=USAGE)
    assert completed.terminal


def test_a_turn_without_an_answer_ends_with_no_text() -> None:
    told = Told()
    told.when(chat())
    assert frames(told.when(complete())) == [fr.TurnCompleted(text="", usage=USAGE)]


def test_the_text_of_another_turn_is_never_told() -> None:
    told = Told()
    told.when(chat("1"))
    told.when(message(2, "first"))
    told.when(complete("1"))
    told.when(chat("2"))
    assert frames(told.when(complete("2"))) == [fr.TurnCompleted(text="", usage=USAGE)]


def test_a_failed_turn_and_the_one_that_waited_for_it() -> None:
    told = Told()
    told.when(chat("1"))
    told.when(chat("2"))
    replies = told.when(fail(retryable=False))
    assert frames(replies) == [
        fr.TurnFailed(code="model_error", reason="it broke", usage=USAGE),
        fr.TurnStarted(model="echo:"),
    ]
    assert [reply.request_id for reply in replies] == ["r1", "r2"]


def test_a_new_attempt_voids_the_frames_of_the_old_one() -> None:
    told = Told()
    told.when(chat())
    (again,) = told.when(resume())
    assert again.frame == fr.TurnStarted(model="echo:")
    assert again.attempt == 2


def test_an_interrupted_call_is_told_as_any_message() -> None:
    told = Told()
    told.when(chat())
    told.when(message(2, None, calls=(call(),)))
    started, closed = told.when(resume())
    assert isinstance(started.frame, fr.TurnStarted)
    assert isinstance(closed.frame, fr.MessageStored)
    assert closed.frame.interrupted


def test_a_refusal() -> None:
    (refused,) = Told().when(refuse())
    assert refused.frame == fr.RequestRefused(code="empty_text", reason="empty_text")
    assert refused.terminal
    assert refused.turn_id is None


def test_a_cancelled_turn_keeps_what_it_had_said() -> None:
    session = running().when(message(2, "so far")).session
    history = [HistoryMessage(message_seq=2, turn_id="t1", role="assistant", content=text_content("so far"))]
    fact = Fact(event=ev.TurnCancelled(reason="stop", usage=USAGE), turn_id="t1", attempt=1)
    assert frames(replies_to(session, fact, history)) == [fr.TurnCancelled(reason="stop", text="so far", usage=USAGE)]


@pytest.mark.parametrize(
    "fact",
    [
        Fact(event=ev.SessionCreated(new_session=NewSession(channel="web", title="Hi"))),
        Fact(event=ev.TurnStarted(model="echo:", cause="first"), turn_id="unknown", attempt=1),
        Fact(event=ev.RequestsLost(from_offset=1, to_offset=2)),
    ],
)
def test_facts_that_nobody_waits_for(fact: Fact) -> None:
    assert replies_to(Session(session_id=SESSION_ID), fact, []) == []


# ---- the same request again


def test_a_retry_while_the_turn_is_open_hears_that_it_is_accepted() -> None:
    told = Told()
    told.when(chat())
    again = told.again()
    assert again.frame == fr.TurnAccepted(opened_session=True)
    assert (again.turn_id, again.attempt, again.terminal) == ("t1", 0, False)
    assert again.address == ADDRESS, "the address of the retry, not of the first try"


def test_a_retry_after_the_end_hears_the_same_end() -> None:
    told = Told()
    told.when(chat("1"))
    told.when(message(2, "answer"))
    (first,) = told.when(complete("1"))
    told.when(chat("2"))
    again = told.again("1")
    assert again.frame == first.frame
    assert (again.request_id, again.turn_id, again.attempt) == (first.request_id, first.turn_id, first.attempt)


@pytest.mark.parametrize(
    ("answer", "frame"),
    [
        (
            Answer(command_hash="h", kind="refused", code="busy", reason="later"),
            fr.RequestRefused(code="busy", reason="later"),
        ),
        (
            Answer(command_hash="h", turn_id="t", kind="failed", code="c", reason="r", usage=USAGE),
            fr.TurnFailed(code="c", reason="r", usage=USAGE),
        ),
        (
            Answer(command_hash="h", turn_id="t", kind="cancelled", code="cancelled", reason="r", usage=USAGE),
            fr.TurnCancelled(reason="r", text="partial", usage=USAGE),
        ),
    ],
)
def test_every_kind_of_answer(answer: Answer, frame: fr.Frame) -> None:
    history = [HistoryMessage(message_seq=1, turn_id="t", role="assistant", content=text_content("partial"))]
    again = reply_again(Session(session_id="s"), answer, "r", ADDRESS, history)
    assert again.frame == frame
    assert again.terminal


# ---- the history


def test_the_messages_of_one_turn() -> None:
    history = [
        HistoryMessage(message_seq=seq, turn_id=turn_id, role="assistant") for seq, turn_id in enumerate("aabbbc", 1)
    ]
    assert [found.message_seq for found in of_turn(history, "b")] == [3, 4, 5]
    assert [found.message_seq for found in of_turn(history, "a")] == [1, 2]
    assert of_turn(history, "z") == []
    assert of_turn([], "a") == []


def test_the_last_assistant_message_counts_even_when_it_says_nothing() -> None:
    said = HistoryMessage(message_seq=1, turn_id="t", role="assistant", content=text_content("first"))
    silent = HistoryMessage(message_seq=2, turn_id="t", role="assistant", content=None)
    tool = HistoryMessage(message_seq=3, turn_id="t", role="tool", content=text_content("result"))
    assert final_text([said, tool]) == "first"
    assert final_text([said, silent, tool]) == ""
    assert final_text([]) == ""


def test_a_history_message_is_the_event_and_its_turn() -> None:
    event = ev.MessageStored(
        message_seq=3, role="tool", content=text_content("x"), tool_call_id="c", name="n", interrupted=True
    )
    kept = history_message("t", event)
    assert (kept.turn_id, kept.message_seq, content_text(kept.content), kept.interrupted) == ("t", 3, "x", True)


# ---- for a topic that takes little


@pytest.mark.parametrize("framing", ["avro", "json"])
@pytest.mark.parametrize("limit", [64 * 1024, 4 * 1024, 0])
@pytest.mark.parametrize("character", ["x", "ö", "\x01", "\U0001f600"])
def test_a_shortened_text_fits_and_says_so(framing: str, limit: int, character: str) -> None:
    text = character * 100_000
    for frame in (fr.TurnCompleted(text=text, usage=Usage()), fr.TurnCancelled(reason="r", text=text, usage=Usage())):
        cut = shortened(frame, limit, framing)
        assert isinstance(cut, fr.TurnCompleted | fr.TurnCancelled)
        assert cut.truncated
        assert text.startswith(cut.text)
        assert encoded_bytes(cut, framing) <= limit + 300


def test_a_shortened_page_goes_on_where_it_was_cut() -> None:
    entries = tuple(
        HistoryEntry(message_seq=n, turn_id="t", role="user", content=text_content("x" * 1000)) for n in range(1, 9)
    )
    cut = shortened(fr.HistoryPage(messages=entries), 4096, "avro")
    assert isinstance(cut, fr.HistoryPage)
    assert cut.messages == entries[:3]
    assert cut.next_after == 3
    assert isinstance(shortened(fr.HistoryPage(messages=entries), 10, "avro"), fr.RequestRefused)


def test_what_would_be_wrong_in_part_is_told_of_instead() -> None:
    for frame in (
        fr.SessionInfo(instructions="x" * 100_000),
        fr.HistoryCompacted(summary="x" * 100_000),
        fr.HistoryPage(messages=(), summary="x" * 100_000),
    ):
        told = shortened(frame, 4096, "json")
        assert isinstance(told, fr.RequestRefused)
        assert told.code == "answer_too_long"
