"""Titles by the fast model: for sessions that were given none, beside everything else, and never a failure."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.one_session import SMALL, OneSession
from tests.waiting import eventually
from turnlog.runner import AssistantMessage, RunnerError, RunnerOutput, TurnInput, UsageReport
from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession, Usage, content_text, text_content
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.session.commands import TitleSession
from turnlog_streams.session.title import usable_title

POLICY = replace(SMALL, titles=True, history=HistoryCompactionPolicy(max_tokens=-1))
USAGE = Usage(input_tokens=9, output_tokens=3, model_calls=1, last_input_tokens=9)


async def titles(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    assert not turn.allow_tools
    assert "How do I" in (content_text(turn.user_content) or "")
    yield UsageReport(usage=USAGE)
    yield AssistantMessage(content=text_content('"Baking bread"\n'))


async def fails(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    raise RunnerError("overloaded", "not now")
    yield


async def test_a_session_without_a_title_gets_one_after_its_first_turn() -> None:
    one = OneSession(fast=titles, policy=POLICY)
    await one.say("How do I bake bread?")
    (titled,) = one.of(ev.SessionTitled)
    assert titled == ev.SessionTitled(title="Baking bread", model="fast:", usage=USAGE)
    await one.say("How do I eat it?")
    assert len(one.of(ev.SessionTitled)) == 1
    assert one.live.state.title == "Baking bread"
    await one.actor.stop()


async def test_a_title_that_was_given_stays() -> None:
    one = OneSession(fast=titles, policy=POLICY)
    await one.say("How do I bake bread?", new_session=NewSession(title="Bread"))
    assert not one.of(ev.SessionTitled)
    await one.actor.stop()


@pytest.mark.parametrize("off", [{"titles": False}, {"fast_model": ""}, {"allow_models": ("main:*",)}])
async def test_without_a_fast_model_there_is_no_title_by_it(off: dict[str, object]) -> None:
    one = OneSession(fast=titles, policy=replace(POLICY, **off))  # type: ignore[arg-type]
    await one.say("How do I bake bread?")
    assert not one.of(ev.SessionTitled)
    await one.actor.stop()


async def test_a_model_that_fails_is_no_failure_and_is_asked_three_times_at_most() -> None:
    one = OneSession(fast=fails, policy=POLICY)
    for _ in range(5):
        await one.say("How do I bake bread?")
    assert one.kinds.count("TurnCompleted") == 5
    assert not one.of(ev.SessionTitled)
    assert [runner.model for runner in one.runners].count("fast:") == 3
    assert all(runner.closed == 1 for runner in one.runners if runner.model == "fast:")
    await one.actor.stop()


async def test_the_next_turn_does_not_wait_for_a_title() -> None:
    asked = asyncio.Event()

    async def never(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        asked.set()
        await asyncio.Event().wait()
        yield AssistantMessage(content=None)

    class Roomy(OneSession):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.actor._running = asyncio.Semaphore(5)

    one = Roomy(fast=never, policy=POLICY)
    one.chat("How do I bake bread?")
    await asyncio.wait_for(asked.wait(), 60)
    one.chat("How do I eat it?")
    await eventually(lambda: one.kinds.count("TurnCompleted") == 2, "both turns are done")
    await one.actor.stop()


async def test_a_title_that_changed_meanwhile_stays() -> None:
    one = OneSession(policy=replace(POLICY, titles=False))
    await one.say("How do I bake bread?")
    one.tell(TitleSession(title="X", instead_of="another one", model="fast:", usage=USAGE))
    assert not one.of(ev.SessionTitled)
    await one.actor.stop()


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Bread", "Bread"),
        ('\n  **"Bread"**\nmore', "Bread"),
        ("Title: Bread", "Bread"),
        ("# 日本のパン", "日本のパン"),
        ("word " * 50, "word word word word word word word word word word word word…"),
        ("", ""),
        ('""\n \n', ""),
    ],
)
def test_what_models_put_around_a_title_is_taken_away(text: str, title: str) -> None:
    assert usable_title(text) == title
