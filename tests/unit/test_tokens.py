"""Estimates against counts of real tokenizers (cl100k and o200k, taken once and written down here)."""

import pytest

from tests.histories import History, sample_conversations, summary
from turnlog_schemas.parts import Usage
from turnlog_streams.history.openai_format import openai_messages
from turnlog_streams.history.tokens import (
    MESSAGE_OVERHEAD,
    SUMMARY_OVERHEAD,
    PromptMeasure,
    Weights,
    context_tokens,
    measured_prompt,
    message_tokens,
    prompt_tokens,
    text_tokens,
    with_margin,
)
from turnlog_streams.history.view import assemble

#: Tokens (o200k) of all texts, names and arguments of a sample conversation, instructions included.
REAL_TOKENS = {
    "airline-000-0": 4408,
    "airline-000-2": 4155,
    "airline-004-0": 3349,
    "airline-005-0": 3617,
    "airline-006-3": 3398,
    "airline-010-1": 1877,
    "airline-011-3": 3322,
    "airline-012-1": 2103,
    "airline-012-2": 2164,
    "airline-013-1": 2288,
    "airline-014-0": 3623,
    "airline-014-2": 2463,
}


def test_estimates_of_real_conversations_are_a_little_above_the_real_count() -> None:
    seen = {}
    for name, instructions, history in sample_conversations():
        overhead = MESSAGE_OVERHEAD * (len(history) + 1) + 8 * sum(len(message.tool_calls) for message in history)
        seen[name] = prompt_tokens(history, instructions) - overhead
    assert seen.keys() == REAL_TOKENS.keys()
    for name, real in REAL_TOKENS.items():
        assert real <= seen[name] <= 1.15 * real, name


@pytest.mark.parametrize(
    ("text", "cl100k", "o200k"),
    [
        ("I would like to cancel my reservation and get a full refund, please. What do you need from me?", 22, 22),
        (
            '{"reservation_id": "4WQ150", "user_id": "chen_jackson_3290", "origin": "DFW", "destination": "LAX", '
            '"flights": [{"flight_number": "HAT170", "price": 189, "date": "2024-05-22"}]}',
            67,
            67,
        ),
        ("def total(rows: list[Row]) -> int:\n    return sum(row.amount for row in rows if row.open)\n", 24, 24),
        (
            "会话的历史记录必须完整地保存在事件日志中,任何消息都不会丢失。我想取消我的航班预订,并且希望能够得到全额退款。",
            60,
            39,
        ),
        ("予約をキャンセルして、全額返金を受けたいです。必要な情報と、返金までにかかる日数を教えてください。", 51, 35),
        ("Я хочу отменить бронирование и получить полный возврат средств.", 24, 14),
        ("Ich möchte meine Buchung stornieren und den vollen Betrag zurückerhalten.", 19, 17),
        ("मैं अपनी बुकिंग रद्द करना चाहता हूँ और पूरा पैसा वापस पाना चाहता हूँ।", 73, 19),
        ("🙂🚀🎉👍🏽", 14, 8),
    ],
    ids=["english", "json", "code", "chinese", "japanese", "russian", "german", "hindi", "emoji"],
)
def test_an_estimate_with_margin_is_above_both_vocabularies(text: str, cl100k: int, o200k: int) -> None:
    assert o200k <= with_margin(text_tokens(text))
    assert cl100k <= with_margin(text_tokens(text)) <= 2.2 * cl100k


def test_cjk_text_weighs_more_than_ascii_text_of_the_same_length() -> None:
    assert text_tokens("log " * 100) < 110
    assert text_tokens("日本語記" * 100) >= 400
    assert text_tokens("日本 log" * 50) == pytest.approx(text_tokens("日本" * 50) + text_tokens(" log" * 50), abs=1)


def test_no_text_weighs_nothing_and_half_a_surrogate_pair_is_no_error() -> None:
    assert text_tokens(None) == text_tokens("") == 0
    assert text_tokens("\ud83d") > 0


def test_calls_results_instructions_and_every_message_count() -> None:
    history = History().user("").assistant(None, ["a"], arguments='{"x": 1}').result("a", "").messages
    question, call, result = map(message_tokens, history)
    assert question == result == MESSAGE_OVERHEAD
    assert call > question + text_tokens('{"x": 1}')
    assert prompt_tokens(history, "Be kind.") > question + call + result


def test_weights_are_those_of_the_messages_also_where_two_have_one_number() -> None:
    weigh = Weights()
    history = History().user().assistant("Hello " * 90, ["a"]).messages
    view = assemble(history, summary(1)).messages
    for message in [*history, *view, *history, *view]:
        assert weigh(message) == message_tokens(message)


def test_the_frame_of_a_summary_is_counted() -> None:
    view = assemble(History().user().assistant("x").messages, summary(1, text=""))
    frame = openai_messages(None, view.messages[:1])[0]["content"]
    assert text_tokens(frame) <= SUMMARY_OVERHEAD


# ---- what a model measured


def test_the_last_prompt_counts_and_never_a_sum() -> None:
    """google/adk-js#473: summed prompt tokens over events, and compacted before 19 % of the calls."""
    history = History().user().assistant(None, ["a"]).result("a").assistant("Done.").messages
    usage = Usage(input_tokens=9_000, output_tokens=70, model_calls=2, last_input_tokens=5_000)
    measure = measured_prompt(history, usage)
    assert measure == PromptMeasure(input_tokens=5_000, through_seq=3)
    assert context_tokens(history, None, measure) == 5_000 + with_margin(message_tokens(history[3]))


def test_what_came_since_is_estimated_with_a_margin() -> None:
    history = History().user().assistant("Hello").user("And now?").messages
    since = with_margin(message_tokens(history[1]) + message_tokens(history[2]))
    assert context_tokens(history, "long " * 1000, PromptMeasure(input_tokens=50, through_seq=1)) == 50 + since


def test_without_a_measure_all_is_estimated_with_a_margin() -> None:
    history = History().user("Hi " * 50).messages
    assert context_tokens(history, "Be kind.") == with_margin(prompt_tokens(history, "Be kind."))


@pytest.mark.parametrize("last_input_tokens", [0, -1])
def test_a_runner_that_reports_nothing_measures_nothing(last_input_tokens: int) -> None:
    usage = Usage(input_tokens=100, last_input_tokens=last_input_tokens)
    assert measured_prompt(History().user().assistant("x").messages, usage) is None


def test_a_turn_without_an_assistant_message_measures_nothing() -> None:
    assert measured_prompt(History().user().messages, Usage(last_input_tokens=10)) is None
