"""A runner's wishes to its session: not to be asked again too soon, and a shorter history."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.one_session import LIMITS, LONG, SMALL, OneSession, Play
from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession, content_text, text_content
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_workers.runners.base import (
    CONTEXT_TOO_LONG,
    AssistantMessage,
    RunnerError,
    RunnerOutput,
    TextDelta,
    TurnInput,
)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, without the waiting."""
    found: list[float] = []
    sleep = asyncio.sleep

    async def noted(delay: float) -> None:
        if delay >= 1:
            found.append(delay)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    return found


@pytest.mark.parametrize(("asked_s", "waited"), [(7.0, [7.0, 7.0]), (60.0, [60.0, 60.0]), (None, []), (0.0, [])])
async def test_the_next_attempt_waits_as_long_as_it_is_asked_to(
    asked_s: float | None, waited: list[float], slept: list[float]
) -> None:
    async def limited(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        raise RunnerError("rate_limited", "too many", retry_after_s=asked_s)
        yield

    session = OneSession(main=limited)
    await session.say("hello")
    assert slept == waited
    (failed,) = session.of(ev.TurnFailed)
    assert failed.code == "rate_limited"
    assert len(session.given) == 3
    assert asked_s is None or f"asks to wait {asked_s:.0f} s" in failed.reason


async def test_the_longer_of_both_pauses_counts(slept: list[float]) -> None:
    async def limited(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if turn.attempt < 3:
            raise RunnerError("rate_limited", "too many", retry_after_s=3 if turn.attempt == 1 else None)
        yield AssistantMessage(content=text_content("Here."))

    session = OneSession(main=limited, limits=replace(LIMITS, retry_delay_s=2.0))
    await session.say("hello")
    assert slept == [3, 4], "what one attempt was told is not for the one after the next"
    assert session.of(ev.TurnCompleted)


async def test_a_wait_above_the_bound_fails_the_turn_and_says_how_long(slept: list[float]) -> None:
    async def limited(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        raise RunnerError("rate_limited", "too many", retry_after_s=3600)
        yield

    session = OneSession(main=limited)
    await session.say("hello")
    (failed,) = session.of(ev.TurnFailed)
    assert failed.code == "rate_limited"
    assert "asks to wait 3600 s" in failed.reason
    assert len(session.given) == 1
    assert slept == []


def window(limit_words: int, **sizes: int) -> Play:
    """A model that takes so many words."""

    async def play(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        words = sum(len((content_text(message.content) or "").split()) for message in turn.assembled)
        if words > limit_words:
            raise RunnerError(CONTEXT_TOO_LONG, "too long", retryable=False, **sizes)
        yield AssistantMessage(content=text_content(f"answer {turn.turn_number} {LONG}"))

    return play


LARGE = replace(SMALL, history=HistoryCompactionPolicy(max_tokens=50_000, keep_tail=4))
LONG_TAIL = replace(SMALL, history=HistoryCompactionPolicy(max_tokens=50_000, keep_tail=20))


async def test_a_history_that_the_model_cannot_take_is_compacted_and_asked_once_more() -> None:
    session = OneSession(main=window(500), policy=LARGE)
    for number in range(7):
        await session.say(f"question {number}")
    assert len(session.of(ev.TurnCompleted)) == 7
    assert not session.of(ev.TurnFailed)
    assert len(session.of(ev.TurnStarted)) == 7, "in the same attempt"
    assert {event.trigger for event in session.of(ev.HistoryCompacted)} == {"automatic"}
    last = [content_text(message.content) for message in session.given[-1].assembled if message.role == "user"][-1]
    assert last == "question 6"


async def test_what_the_model_says_of_its_window_is_what_is_aimed_at() -> None:
    """Half of the history would not do; the sizes say how much would."""
    session = OneSession(main=window(10_000), policy=LONG_TAIL)
    for number in range(12):
        await session.say(f"question {number}")
    session.actor.reset()
    session.main = window(150, prompt_tokens=4000, window_tokens=1000)
    await session.say("now")
    assert len(session.of(ev.TurnCompleted)) == 13
    without = OneSession(main=window(10_000), policy=LONG_TAIL)
    for number in range(12):
        await without.say(f"question {number}")
    without.actor.reset()
    without.main = window(150)
    await without.say("now")
    assert [event.code for event in without.of(ev.TurnFailed)] == [CONTEXT_TOO_LONG]


async def test_what_is_too_long_all_the_same_fails_once() -> None:
    session = OneSession(main=window(0), policy=LARGE)
    await session.say("hello")
    (failed,) = session.of(ev.TurnFailed)
    assert failed.code == CONTEXT_TOO_LONG
    assert len(session.given) == 1, "there was nothing to compact"


async def test_a_session_without_automatic_runs_is_not_compacted() -> None:
    session = OneSession(main=window(250), policy=LARGE)
    await session.say("one", new_session=NewSession(history_max_tokens=-1))
    for number in range(3):
        await session.say(f"question {number}")
    assert not session.of(ev.HistoryCompacted)
    assert {event.code for event in session.of(ev.TurnFailed)} == {CONTEXT_TOO_LONG}


async def test_who_has_spoken_already_is_not_asked_again() -> None:
    async def speaks(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if len(turn.assembled) > 4:
            yield TextDelta(text="Well, ")
            raise RunnerError(CONTEXT_TOO_LONG, "too long", retryable=False)
        yield AssistantMessage(content=text_content(LONG))

    session = OneSession(main=speaks, policy=LARGE)
    for number in range(3):
        await session.say(f"question {number}")
    assert [event.code for event in session.of(ev.TurnFailed)] == [CONTEXT_TOO_LONG]
    assert session.deltas == ["Well, "]
    assert not session.of(ev.HistoryCompacted)
