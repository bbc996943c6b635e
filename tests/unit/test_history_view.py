"""Views: summary, latest question and tail; calls and results that a model would refuse are repaired."""

from typing import Any

import pytest

from tests.histories import History, summary
from turnlog_schemas.parts import content_text
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.openai_format import openai_messages, validate_openai
from turnlog_streams.history.view import HistoryView, assemble
from turnlog_streams.turn import INTERRUPTED_TEXT


def shown(view: HistoryView) -> list[tuple[str, str | None]]:
    return [(message.role, content_text(message.content)) for message in view.messages]


def valid(view: HistoryView) -> HistoryView:
    validate_openai(openai_messages("Be kind.", view.messages))
    return view


def ids(view: HistoryView) -> list[str | None]:
    """Ids of calls and of results, in order."""
    found: list[str | None] = []
    for message in view.messages:
        found += [call.call_id for call in message.tool_calls]
        found += [message.tool_call_id] if message.role == "tool" else []
    return found


# ---- summary and tail


def test_without_a_summary_everything_is_shown_as_it_is() -> None:
    messages = History().user().assistant("", ["a"]).result("a", None).assistant("Yes").messages
    assert assemble(messages).messages == tuple(messages)


def test_a_summary_stands_at_its_range_and_the_tail_follows_word_for_word() -> None:
    """google/adk-go#1231: the summary was put where it was appended, not where its range is."""
    messages = History().user("One").assistant("1").user("Two").assistant("2").user("Three").messages
    view = valid(assemble(messages, summary(2)))
    assert shown(view) == [("summary", "Summary."), ("user", "Two"), ("assistant", "2"), ("user", "Three")]
    assert view.messages[1:] == tuple(messages[2:])
    middle = assemble(messages, summary(4, from_seq=3))
    assert [role for role, _ in shown(middle)] == ["user", "assistant", "summary", "user"]


def test_a_summary_has_a_role_of_its_own_and_is_never_a_message_of_the_user() -> None:
    """CherryHQ/cherry-studio#20692: a summary leaked as a chat message."""
    messages = History().user("One").assistant("1").user("Two").messages
    view = assemble(messages, summary(2, text="What was said {so far}"))
    assert view.messages[0].role == "summary"
    rendered = openai_messages("Be kind.", view.messages)
    assert [message["role"] for message in rendered] == ["system", "system", "user"]
    assert "What was said {so far}" in rendered[1]["content"]
    assert rendered[1]["content"] != "What was said {so far}"


def test_instructions_are_there_word_for_word_after_every_history_compaction() -> None:
    """diazoxide/charter#4: rules that are summarised away are broken."""
    view = assemble(History().user().assistant("x").messages, summary(1))
    assert openai_messages("Never refund.", view.messages)[0] == {"role": "system", "content": "Never refund."}


def test_messages_stored_while_the_summary_was_made_are_in_the_tail() -> None:
    """Sessions that are cleared and rewritten lose what is written meanwhile; a range of numbers does not."""
    history = History().user("One").assistant("1")
    made = summary(2, history_seq=2)
    history.user("Two, meanwhile")
    assert shown(assemble(history.messages, made))[-1] == ("user", "Two, meanwhile")


def test_the_latest_question_survives_also_if_it_is_covered() -> None:
    """google/adk-go#1234: with a retention of 0 the live question was dropped."""
    history = History().user("First").assistant("1").user("The question")
    for _ in range(5):
        history.assistant(None, ["a"]).result("a")
    view = valid(assemble(history.messages, summary(9)))
    assert shown(view)[:2] == [("summary", "Summary."), ("user", "The question")]
    assert view.messages[2:] == tuple(history.messages[9:])


def test_a_question_in_the_tail_is_not_shown_twice() -> None:
    messages = History().user("Old").assistant("1").user("New").messages
    assert [text for _, text in shown(assemble(messages, summary(2)))] == ["Summary.", "New"]


# ---- repair


def test_ids_that_repeat_are_paired_by_position() -> None:
    history = History().user().assistant(None, ["a"]).result("a", "1").assistant(None, ["a"]).result("a", "2")
    view = valid(assemble(history.messages))
    assert (view.messages, view.added, view.dropped) == (tuple(history.messages), 0, 0)


def test_an_id_that_repeats_in_one_message_is_made_distinct() -> None:
    history = History().user().assistant(None, ["a", "a", ""]).result("a", "1").result("a", "2").result("", "3")
    view = valid(assemble(history.messages))
    assert ids(view) == ["a", "a-2", "call-2", "a", "a-2", "call-2"]
    assert [text for _, text in shown(view)][2:] == ["1", "2", "3"]


@pytest.mark.parametrize("after", ["user", "assistant", "nothing"])
def test_a_call_without_a_result_is_closed_by_one_that_says_so(after: str) -> None:
    """pydantic/pydantic-ai#6319, #4728: a dangling call poisons the session for ever."""
    history = History().user().assistant(None, ["a", "b"]).result("b", "done")
    if after == "user":
        history.user("Next")
    if after == "assistant":
        history.assistant("Anyway")
    view = valid(assemble(history.messages))
    closed = view.messages[3]
    assert (closed.role, closed.tool_call_id, closed.interrupted) == ("tool", "a", True)
    assert content_text(closed.content) == INTERRUPTED_TEXT
    assert view.added == 1


def test_open_calls_of_a_running_turn_stay_open_for_its_runner() -> None:
    messages = History().user().assistant(None, ["a", "b"]).result("b").messages
    assert assemble(messages, keep_open_calls=True).messages == tuple(messages)


def test_only_a_result_that_belongs_to_no_call_is_dropped() -> None:
    history = History().user().result("a", "of nothing").assistant("Hello").result("zz")
    view = valid(assemble(history.messages))
    assert shown(view) == [("user", "Hi"), ("assistant", "Hello")]
    assert view.dropped == 2


def test_a_result_with_another_id_answers_the_first_open_call() -> None:
    """As the session's fold pairs them."""
    history = History().user().assistant(None, ["a", "b"]).result("x", "1").result("b", "2")
    view = valid(assemble(history.messages))
    assert ids(view) == ["a", "b", "a", "b"]
    assert shown(view)[2:] == [("tool", "1"), ("tool", "2")]


def test_the_last_answer_replaces_an_interim_one() -> None:
    """google/adk-python#5602: the "pending" result of a long-running tool looks like an answer."""
    history = History().user().assistant(None, ["a", "b"]).result("a", "pending").result("a", "42").result("b", "2")
    view = valid(assemble(history.messages))
    assert shown(view)[2:] == [("tool", "42"), ("tool", "2")]


def test_an_answer_is_not_replaced_by_one_that_knows_nothing() -> None:
    history = History().user().assistant(None, ["a"]).result("a", "42").result("a", "?", interrupted=True)
    assert shown(valid(assemble(history.messages)))[2:] == [("tool", "42")]


@pytest.mark.parametrize("covered", [0, 4])
def test_an_answer_that_comes_late_is_shown_with_its_call_again(covered: int) -> None:
    """google/adk-python#5602, when the call is over or even covered: the real result must not get lost."""
    history = History().user().assistant("On it", ["a"]).result("a", "pending").assistant("It runs").result("a", "42")
    view = valid(assemble(history.messages, summary(covered) if covered else None))
    call, result = view.messages[-2:]
    assert [made.call_id for made in call.tool_calls] == ["a"]
    assert (result.tool_call_id, content_text(result.content)) == ("a", "42")


def test_a_late_answer_among_the_results_of_other_calls_waits_for_them() -> None:
    history = History().user().assistant(None, ["a"]).result("a", "pending").assistant(None, ["b", "c"])
    history.result("b").result("a", "late").result("c")
    assert ids(valid(assemble(history.messages))) == ["a", "a", "b", "c", "b", "c", "a", "a"]


def test_a_late_answer_goes_before_calls_that_stay_open() -> None:
    history = History().user().assistant(None, ["a"]).result("a").assistant(None, ["b"]).result("a", "late")
    assert ids(assemble(history.messages, keep_open_calls=True)) == ["a", "a", "a", "a", "b"]


def test_text_and_calls_in_one_message_stay_together() -> None:
    """Hmbown/Codewhale#6119: mixed messages."""
    history = History().user().assistant("Let me look", ["a"]).result("a").assistant("", ["b"]).result("b", "")
    assert valid(assemble(history.messages)).messages == tuple(history.messages)


def test_missing_content_stays_missing_and_the_format_gets_what_it_takes() -> None:
    view = assemble(History().user(None).assistant(None, ["a"]).result("a", None).messages)
    assert [message.content for message in view.messages] == [None] * 3
    assert [message["content"] for message in openai_messages(None, view.messages)] == ["", None, ""]


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_an_assistant_message_that_says_nothing_is_left_out(empty: str | None) -> None:
    """Providers refuse it, or take it for an answer. The log keeps it."""
    messages = History().user("One").assistant(empty).user("Two").assistant(empty, ["a"]).result("a").messages
    view = valid(assemble(messages))
    assert [message.role for message in view.messages] == ["user", "user", "assistant", "tool"]
    assert view.messages == (messages[0], *messages[2:])


def test_a_question_that_got_no_answer_and_the_next_one_are_one_message_to_a_provider() -> None:
    view = assemble(History().user("One").user("Two").assistant("2").user("Three").user("Four").user("Five").messages)
    assert len(view.messages) == 6, "as the log has them"
    rendered = openai_messages("Be kind.", view.messages)
    validate_openai(rendered)
    assert [(message["role"], message["content"]) for message in rendered[1:]] == [
        ("user", "One\n\nTwo"),
        ("assistant", "2"),
        ("user", "Three\n\nFour\n\nFive"),
    ]


# ---- the validator itself


def call(call_id: str = "a", **changes: Any) -> dict[str, Any]:
    function = {"name": "look_up", "arguments": "{}"}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    } | changes


RESULT = {"role": "tool", "tool_call_id": "a", "content": "ok"}
USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [RESULT],
        [USER, call()],
        [call(), USER],
        [call(), RESULT, RESULT],
        [call("b"), RESULT],
        [call(tool_calls=[*call()["tool_calls"], *call()["tool_calls"]]), RESULT],
        [call(tool_calls=[])],
        [call(""), RESULT | {"tool_call_id": ""}],
        [call(role="user"), RESULT],
        [{"role": "user", "content": None}],
        [{"role": "assistant", "content": None}],
        [{"role": "summary", "content": "x"}],
    ],
)
def test_the_validator_refuses_what_a_provider_refuses(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"message|call"):
        validate_openai(messages)


def test_the_validator_takes_what_is_right() -> None:
    validate_openai([{"role": "system", "content": ""}, USER, call(), RESULT, call(), RESULT, USER])


def test_a_view_is_made_of_a_message_type_that_runners_know() -> None:
    assert all(isinstance(m, HistoryMessage) for m in assemble(History().user().messages, summary(1)).messages)
