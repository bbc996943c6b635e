"""History compaction over histories made of chance, and over the real conversations that Turnlog ships."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compacted_session import CompactedSession, full_length
from tests.histories import TEXTS, recorded, sample_conversations, summary, tidy_histories, wild_histories
from turnlog_schemas.parts import content_text
from turnlog_streams.history.compaction import MANUAL, HistoryCompactionPolicy
from turnlog_streams.history.compaction_plan import HistoryCompactionPlan
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.openai_format import openai_messages, validate_openai
from turnlog_streams.history.summary_prompt import SYSTEM, UnusableSummaryError, clipped, summary_task
from turnlog_streams.history.summary_truncation import truncation_summary
from turnlog_streams.history.tokens import text_tokens, with_margin
from turnlog_streams.history.view import assemble, says_nothing

LIMITS = st.integers(500, 4_000)
TAILS = st.integers(0, 25)


@given(wild_histories() | tidy_histories(), st.integers(0, 60), st.booleans())
def test_every_view_is_valid_wherever_the_cut_is(
    history: list[HistoryMessage], covered_to: int, summarised: bool
) -> None:
    view = assemble(history, summary(covered_to) if summarised else None)
    if view.messages:
        validate_openai(openai_messages(None, view.messages))


@given(wild_histories() | tidy_histories(), st.integers(0, 60))
def test_a_view_drops_no_word_of_the_user_or_the_assistant(history: list[HistoryMessage], covered_to: int) -> None:
    tail = [message for message in history if message.message_seq > covered_to]
    view = assemble(history, summary(covered_to))
    spoken = [(m.message_seq, m.role, m.content) for m in tail if m.role != "tool" and not says_nothing(m)]
    shown = [(m.message_seq, m.role, m.content) for m in view.messages if m.role in ("user", "assistant")]
    assert [entry for entry in shown if entry in spoken] == spoken or view.added
    assert set(spoken) <= set(shown)


@given(tidy_histories())
def test_a_tidy_history_is_shown_as_it_is(history: list[HistoryMessage]) -> None:
    view = assemble(history, keep_open_calls=True)
    assert (view.added, view.dropped) == (0, 0)
    assert [(m.message_seq, m.role, m.content) for m in view.messages] == [
        (m.message_seq, m.role, m.content) for m in history if not says_nothing(m)
    ]


@given(tidy_histories(max_turns=12) | wild_histories(), LIMITS, TAILS)
def test_a_session_within_its_limit(history: list[HistoryMessage], limit: int, keep_tail: int) -> None:
    session = CompactedSession(HistoryCompactionPolicy(max_tokens=limit, keep_tail=keep_tail), tidy=False)
    session.feed(history)
    session.check_no_storm()
    assert session.messages == history


@given(
    tidy_histories(max_turns=12),
    LIMITS,
    TAILS,
    st.lists(st.sampled_from(["short", "full", "too long", "fails", "manual"]), min_size=1, max_size=8),
)
def test_a_session_whose_summaries_fail_now_and_then(
    history: list[HistoryMessage], limit: int, keep_tail: int, outcomes: list[str]
) -> None:
    calls = iter(outcomes * 200)

    def summarise(made: HistoryCompactionPlan, source: Sequence[HistoryMessage]) -> str | None:
        outcome = next(calls)
        if outcome == "manual":
            return "as asked"
        return {"short": "ok", "full": full_length(made, source), "too long": "word " * 9_000, "fails": None}[outcome]

    session = CompactedSession(
        HistoryCompactionPolicy(max_tokens=limit, keep_tail=keep_tail), summarise=summarise, tidy=False
    )
    for number, message in enumerate(history):
        if message.role == "assistant":
            session.before_call()
        session.messages.append(message)
        if number % 7 == 6 and outcomes[number % len(outcomes)] == "manual":
            session.compact(MANUAL)
    session.before_call()


@given(tidy_histories(), st.integers(0, 60), st.integers(64, 2_000))
def test_a_truncation_is_short_enough_and_always_the_same(
    history: list[HistoryMessage], count: int, max_tokens: int
) -> None:
    part = history[: count + 1]
    for previous in (None, "What was before. " * 50):
        text = truncation_summary(part, previous, max_tokens=max_tokens)
        assert text == truncation_summary(part, previous, max_tokens=max_tokens)
        assert text
        assert text_tokens(text) <= max_tokens


@given(TEXTS, st.integers(0, 300))
def test_what_is_clipped_fits_and_is_the_beginning(text: str, max_tokens: int) -> None:
    short = clipped(text, max_tokens)
    assert text_tokens(short) <= max_tokens
    assert text.startswith(short.removesuffix(" […]"))


@given(tidy_histories(), st.integers(500, 20_000), st.integers(64, 4_000), TEXTS | st.none())
def test_every_prompt_fits_the_window_of_the_summary_model(
    history: list[HistoryMessage], window: int, max_summary: int, previous: str | None
) -> None:
    view = list(assemble(history).messages)
    if window < 1_200:
        with pytest.raises(UnusableSummaryError, match="window of"):
            summary_task(view, previous, window_tokens=min(window, 800), max_summary_tokens=max_summary)
        return
    task = summary_task(view, previous, window_tokens=window, max_summary_tokens=max_summary)
    so_far = "x" * (task.max_summary_tokens * 100 // 22)
    for part in range(len(task.parts)):
        prompt = task.prompt(part, so_far)
        size = with_margin(text_tokens(SYSTEM) + text_tokens(prompt.text))
        assert size + task.max_summary_tokens <= window
    if max(text_tokens(content_text(message.content)) for message in view) < 50:
        whole = "\n".join(task.parts)
        assert all(f"[{message.message_seq}]" in whole for message in view if len(task.parts) < 16)


# ---- real conversations

CONVERSATIONS = [pytest.param(*found, id=found[0]) for found in sample_conversations()]


@pytest.mark.parametrize("limit", [2_500, 3_000, 4_000])
@pytest.mark.parametrize("keep_tail", [4, 20])
@pytest.mark.parametrize(("name", "instructions", "history"), CONVERSATIONS)
def test_real_conversations(
    name: str, instructions: str, history: list[HistoryMessage], limit: int, keep_tail: int
) -> None:
    session = CompactedSession(HistoryCompactionPolicy(max_tokens=limit, keep_tail=keep_tail), instructions)
    session.feed(history)
    session.check_no_storm()
    assert session.messages == history, name
    assert len(session.runs) <= 6


def test_real_conversations_one_after_the_other_are_one_long_session() -> None:
    raw = [{"role": "system", "content": "Be kind."}]
    for _, _, history in sample_conversations():
        for message in history:
            raw += openai_messages(None, [message])
    _, history = recorded(raw)
    session = CompactedSession(HistoryCompactionPolicy(max_tokens=4_000, keep_tail=20))
    session.feed(history)
    session.check_no_storm()
    assert session.messages == history
    assert 5 <= len(session.runs) <= 20
    assert session.views == 130  # one before each answer, and one at the end
