"""When a history compaction runs, what it covers, and what is remembered of it."""

from dataclasses import replace

import pytest

from tests.compacted_session import SETTINGS, CompactedSession
from tests.histories import History, summary
from turnlog_streams.history.compaction import (
    AUTOMATIC,
    MANUAL,
    HistoryCompactionPolicy,
    HistoryCompactionState,
    SummarySettings,
    history_compaction_id,
)
from turnlog_streams.history.compaction_plan import (
    MIN_SUMMARY_TOKENS,
    HistoryCompactionPlan,
    SessionHistory,
    needs_history_compaction,
    plan,
    session_tokens,
)
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.tokens import PromptMeasure, prompt_tokens, with_margin
from turnlog_streams.history.view import BY_TRUNCATION, assemble

LONG = "word " * 200  # about 216 tokens
POLICY = HistoryCompactionPolicy(max_tokens=4_000, keep_tail=4)


def talk(turns: int, text: str = LONG) -> History:
    history = History()
    for number in range(turns):
        history.user(f"{number} {text}").assistant(f"{number} {text}")
    return history


def session(history: History, state: HistoryCompactionState | None = None, **fields: object) -> SessionHistory:
    made = SessionHistory(session_id="s", messages=history.messages, state=state or HistoryCompactionState())
    return replace(made, **fields)  # type: ignore[arg-type]


def planned(found: SessionHistory, policy: HistoryCompactionPolicy = POLICY) -> HistoryCompactionPlan:
    made = plan(found, policy, SETTINGS)
    assert made is not None
    return made


def tail_of(made: HistoryCompactionPlan, history: History) -> list[HistoryMessage]:
    return [message for message in history.messages if message.message_seq > made.to_seq]


# ---- limits


@pytest.mark.parametrize(
    ("max_tokens", "limit", "automatic"), [(0, 80_000, True), (5_000, 5_000, True), (-1, 80_000, False)]
)
def test_a_limit_of_0_is_the_default_and_a_negative_one_is_no_automatic_run(
    max_tokens: int, limit: int, automatic: bool
) -> None:
    policy = HistoryCompactionPolicy(max_tokens=max_tokens)
    assert (policy.limit_tokens, policy.automatic, policy.keep_tail) == (limit, automatic, 20)


def test_a_session_says_for_itself_what_differs() -> None:
    deployed = HistoryCompactionPolicy(max_tokens=9_000, keep_tail=7)
    assert deployed.overridden() == deployed.overridden(max_tokens=0) == deployed
    assert deployed.overridden(max_tokens=-1).automatic is False
    assert deployed.overridden(max_tokens=50, keep_tail=0) == HistoryCompactionPolicy(max_tokens=50, keep_tail=0)


def test_nothing_runs_below_the_limit() -> None:
    found = session(talk(5))
    assert session_tokens(found) < 4_000
    assert plan(found, POLICY, SETTINGS) is None
    assert not needs_history_compaction(found, POLICY)


def test_an_automatic_run_leaves_the_tail_and_aims_well_below_the_limit() -> None:
    history = talk(10)
    made = planned(session(history))
    assert (made.from_seq, made.to_seq, made.trigger, made.by_model) == (1, 16, AUTOMATIC, True)
    assert made.tokens_before > 4_000
    assert made.tokens_after <= 3_000
    assert made.max_summary_tokens == 500
    assert needs_history_compaction(session(history), POLICY)


def test_with_a_negative_limit_only_a_manual_run_runs() -> None:
    policy = HistoryCompactionPolicy(max_tokens=-1, keep_tail=4)
    found = session(talk(300))
    assert session_tokens(found) > 80_000
    assert plan(found, policy, SETTINGS) is None
    assert not needs_history_compaction(found, policy)
    assert plan(found, policy, SETTINGS, trigger=MANUAL) is not None


def test_what_the_model_measured_decides_where_there_is_one() -> None:
    history = talk(5)
    assert plan(session(history, measure=PromptMeasure(input_tokens=5_000, through_seq=9)), POLICY, SETTINGS)
    history = talk(10)
    assert plan(session(history, measure=PromptMeasure(input_tokens=100, through_seq=19)), POLICY, SETTINGS) is None


def test_what_only_the_model_sees_stays_after_a_run_too() -> None:
    """Tool definitions are part of every prompt."""
    history = talk(10)
    unmeasured = planned(session(history))
    measured = planned(session(history, measure=PromptMeasure(input_tokens=9_000, through_seq=19)))
    assert measured.tokens_after > 3_000 > unmeasured.tokens_after


def test_a_measure_from_before_the_newest_summary_says_nothing() -> None:
    state = HistoryCompactionState().after_summary(summary(10, history_seq=14))
    assert state.valid(PromptMeasure(input_tokens=9_000, through_seq=13)) is None
    measure = PromptMeasure(input_tokens=900, through_seq=14)
    assert state.valid(measure) == measure


# ---- where it cuts


@pytest.mark.parametrize("keep_tail", [0, 1, 4, 20])
def test_an_open_call_survives_with_the_results_beside_it(keep_tail: int) -> None:
    """google/adk-python#4740 (a pending confirmation was compacted away), openai/openai-agents-python#2317 (it ran
    between call and output), and parallel calls of which some have a result."""
    history = talk(10).user("Book both").assistant(None, ["a", "b", "c"]).result("b")
    made = planned(session(history), HistoryCompactionPolicy(max_tokens=4_000, keep_tail=keep_tail))
    assert tail_of(made, history)[-2:] == history.messages[-2:]
    view = assemble(history.messages, made.summary("…"), keep_open_calls=True)
    assert view.messages[-2:] == tuple(history.messages[-2:])
    assert "Book both" in str(view.messages)


def test_a_cut_is_never_between_a_call_and_its_results() -> None:
    history = History().user(LONG)
    for _ in range(12):
        history.assistant(None, ["a", "a"], arguments=LONG).result("a", LONG).result("a", "pending")
    for keep_tail in range(30):
        made = planned(session(history), HistoryCompactionPolicy(max_tokens=4_000, keep_tail=keep_tail))
        assert tail_of(made, history)[0].role == "assistant"


def test_one_long_turn_is_compacted_between_its_tool_steps() -> None:
    """google/adk-go#1234: the limit is checked between tool steps too, and the live question survives."""
    history = History().user("The question")
    for number in range(20):
        history.assistant(None, [f"c{number}"]).result(f"c{number}", LONG)
    found = session(history)
    made = planned(found)
    state = found.state.after_summary(made.summary("What was found."))
    roles = [message.role for message in assemble(history.messages, state.summary).messages]
    assert roles == ["summary", "user", *["assistant", "tool"] * ((len(roles) - 2) // 2)]
    assert session_tokens(replace(found, state=state)) <= 3_000


def test_a_tail_over_the_limit_gets_shorter() -> None:
    history = talk(30)
    made = planned(session(history), HistoryCompactionPolicy(max_tokens=4_000, keep_tail=50))
    assert 0 < len(tail_of(made, history)) < 25
    assert made.tokens_after <= 3_000


def test_what_no_model_has_answered_yet_stays_also_if_it_is_too_large() -> None:
    """Letta, LCM: tell apart what cannot get smaller, and do not brick the session."""
    history = talk(3).user("Look").assistant(None, ["a"]).result("a", LONG * 20)
    made = planned(session(history))
    assert tail_of(made, history) == history.messages[-2:]
    assert made.tokens_after > made.limit_tokens


def test_a_single_question_over_the_limit_leaves_nothing_to_do() -> None:
    assert plan(session(History().user(LONG * 30)), POLICY, SETTINGS) is None
    assert plan(session(History()), POLICY, SETTINGS, trigger=MANUAL) is None


def test_a_summary_is_no_longer_than_half_of_what_it_stands_for() -> None:
    history = History().user("Hi " * 300).assistant("Ho").user("Hi")
    made = plan(session(history), HistoryCompactionPolicy(max_tokens=9_000, keep_tail=1), SETTINGS, trigger=MANUAL)
    assert made is not None
    assert MIN_SUMMARY_TOKENS < made.max_summary_tokens <= prompt_tokens(history.messages[:2]) / 2
    assert made.tokens_after < made.tokens_before


def test_a_summary_gets_shorter_where_that_helps_but_not_poor() -> None:
    def longest(tokens: int) -> int:
        return planned(session(talk(20).user("word " * tokens))).max_summary_tokens

    assert 125 < longest(1_950) < 500
    assert [longest(1_000), longest(2_500), longest(4_000)] == [500, 125, 500]


def test_what_is_too_short_for_a_summary_is_left() -> None:
    assert plan(session(History().user("Hi").assistant("Ho").user(LONG * 20)), POLICY, SETTINGS) is None


# ---- again


def test_near_the_limit_there_is_no_storm() -> None:
    """google/adk-go#1439: 35 to 38 runs in 40 turns; openai/codex#40213: 48 in 76 minutes.

    Here: instructions that leave no room, so that every view is over the limit whatever a run does.
    """
    found = CompactedSession(POLICY, instructions="Be kind. " * 1_800)
    history = talk(40, "word " * 40)
    found.feed(history.messages)
    quarters = with_margin(prompt_tokens(history.messages)) / 1_000
    assert 2 <= len(found.runs) <= quarters + 1 <= 7


def test_a_healthy_session_runs_once_in_a_while() -> None:
    found = CompactedSession(POLICY)
    found.feed(talk(40).messages)
    assert 5 <= len(found.runs) <= 13


def test_after_a_failure_the_model_is_left_alone_until_a_quarter_more_came() -> None:
    history = talk(10)
    state = HistoryCompactionState().after_failure(20, AUTOMATIC)
    assert state == HistoryCompactionState(attempted_seq=20, failures=1)
    again = plan(session(history, state), POLICY, SETTINGS)
    assert again is None or not again.by_model
    history.user(LONG * 5)
    assert planned(session(history, state)).by_model


def test_without_a_model_the_limit_is_kept_all_the_same() -> None:
    found = CompactedSession(POLICY, summarise=lambda made, source: None)
    found.feed(talk(40).messages)
    found.check_no_storm()
    assert found.state.summary is not None
    assert found.state.summary.method == BY_TRUNCATION
    assert found.state.failures > 3


def test_a_failed_manual_run_does_not_keep_the_session_from_an_automatic_one() -> None:
    assert HistoryCompactionState().after_failure(20, MANUAL) == HistoryCompactionState()


def test_a_summary_without_a_model_is_replaced_by_one_that_reads_the_originals() -> None:
    history = talk(20)
    by_model = summary(10, "By a model.", history_seq=14)
    state = HistoryCompactionState().after_summary(by_model)
    state = state.after_failure(20, AUTOMATIC).after_summary(summary(16, method=BY_TRUNCATION, history_seq=20))
    assert (state.covered_to, state.base, state.failures) == (16, by_model, 1)
    made = planned(session(history, state))
    assert (made.source_from, made.previous) == (11, by_model)
    assert made.source(history.messages)[0].message_seq == 11


def test_the_next_run_reads_the_summary_and_what_came_since() -> None:
    history = talk(20)
    before = summary(16, "So far.", history_seq=20)
    made = planned(session(history, HistoryCompactionState().after_summary(before)))
    assert (made.from_seq, made.source_from, made.previous) == (1, 17, before)
    assert made.to_seq > 16


# ---- by hand


def test_a_manual_run_covers_all_but_the_tail_also_below_the_limit() -> None:
    made = plan(session(talk(4)), POLICY, SETTINGS, trigger=MANUAL)
    assert made is not None
    assert (made.to_seq, made.trigger) == (4, MANUAL)


def test_a_manual_run_leaves_no_history_that_the_next_automatic_one_must_cut_again() -> None:
    """A model counted little; without its measure, which a new summary makes invalid, the tail is over the limit."""
    history = talk(10)
    measured = session(history, measure=PromptMeasure(input_tokens=1_000, through_seq=20))
    policy = HistoryCompactionPolicy(max_tokens=4_000, keep_tail=18)
    made = plan(measured, policy, SETTINGS, trigger=MANUAL)
    assert made is not None
    assert made.tokens_after <= 3_000
    state = HistoryCompactionState().after_summary(made.summary("short"))
    assert plan(session(history, state, measure=measured.measure), policy, SETTINGS) is None


def test_nor_does_one_that_summarises_a_range_again() -> None:
    history = talk(8)
    policy = HistoryCompactionPolicy(max_tokens=4_000, keep_tail=15)
    state = HistoryCompactionState().after_summary(summary(1, history_seq=15))
    measured = session(history, state, measure=PromptMeasure(input_tokens=1_000, through_seq=16))
    assert session_tokens(measured) < 4_000
    made = plan(measured, HistoryCompactionPolicy(max_tokens=6_000, keep_tail=15), SETTINGS, trigger=MANUAL)
    assert made is not None
    assert made.to_seq == 1, "there is room for the tail"
    made = plan(measured, policy, SETTINGS, trigger=MANUAL)
    assert made is not None
    assert made.to_seq > 1
    assert made.tokens_after <= 3_000


def test_a_manual_run_of_a_short_session_does_nothing() -> None:
    assert plan(session(talk(2)), POLICY, SETTINGS, trigger=MANUAL) is None


@pytest.mark.parametrize("turns", [4, 20])
def test_the_same_command_again_does_nothing(turns: int) -> None:
    history = talk(turns)
    made = plan(session(history), POLICY, SETTINGS, trigger=MANUAL)
    assert made is not None
    state = HistoryCompactionState().after_summary(made.summary("So far."))
    assert plan(session(history, state), POLICY, SETTINGS, trigger=MANUAL) is None


def test_other_wishes_make_another_summary_of_the_same_range_from_the_originals() -> None:
    history = talk(4)
    made = plan(session(history), POLICY, SETTINGS, trigger=MANUAL)
    assert made is not None
    state = HistoryCompactionState().after_summary(made.summary("So far."))
    wishes = replace(SETTINGS, instructions="Only the prices.")
    again = plan(session(history, state), POLICY, wishes, trigger=MANUAL)
    assert again is not None
    assert (again.to_seq, again.source_from, again.previous) == (made.to_seq, 1, None)
    assert again.history_compaction_id != made.history_compaction_id
    assert state.takes(again.summary("Prices."))


def test_a_manual_run_makes_good_for_a_truncation() -> None:
    history = talk(4)
    made = plan(session(history), POLICY, SETTINGS, trigger=MANUAL)
    assert made is not None
    truncated = made.summary("Cut.", BY_TRUNCATION)
    assert truncated.history_compaction_id == made.truncation_id != made.history_compaction_id
    state = HistoryCompactionState().after_summary(truncated)
    again = plan(session(history, state), POLICY, SETTINGS, trigger=MANUAL)
    assert again is not None
    assert state.after_summary(again.summary("By a model.")).covered_to == made.to_seq


# ---- identity and order


def test_the_id_tells_range_and_settings_and_nothing_else() -> None:
    def made(session_id: str = "s", to_seq: int = 9, settings: SummarySettings = SETTINGS) -> str:
        return history_compaction_id(session_id, 1, to_seq, settings)

    assert made() == made() == history_compaction_id("s", 1, 9, SummarySettings(model="fast", prompt_version="1"))
    others = [
        made("t"),
        made(to_seq=10),
        *(
            made(settings=replace(SETTINGS, **change))
            for change in ({"model": "other"}, {"prompt_version": "2"}, {"instructions": ""}, {"max_summary_tokens": 9})
        ),
    ]
    assert len({made(), *others}) == 7


def test_a_later_summary_takes_the_place_of_the_one_it_contains() -> None:
    """google/adk-go#1044."""
    state = HistoryCompactionState().after_summary(summary(10)).after_summary(summary(20))
    assert state.summary == state.base == summary(20)


@pytest.mark.parametrize(
    "late",
    [
        summary(9),
        summary(12, history_compaction_id="same"),
        summary(20, from_seq=5),
        summary(12, history_compaction_id="t", method=BY_TRUNCATION),
    ],
    ids=["older", "the same again", "another part", "worse"],
)
def test_a_summary_that_comes_too_late_changes_nothing(late: object) -> None:
    """google/adk-python#5194: a run in the background made the next turn stale."""
    state = HistoryCompactionState().after_summary(summary(12, history_compaction_id="same"))
    assert not state.takes(late)  # type: ignore[arg-type]
    assert state.after_summary(late) is state  # type: ignore[arg-type]


def test_a_plan_made_before_more_messages_came_is_still_good() -> None:
    """Append-only: the messages stored meanwhile are simply not covered."""
    history = talk(10)
    made = planned(session(history))
    history.user("Meanwhile")
    state = HistoryCompactionState().after_summary(made.summary("So far."))
    assert assemble(history.messages, state.summary).messages[-1] == history.messages[-1]
