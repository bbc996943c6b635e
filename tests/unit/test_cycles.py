"""What a turn leaves behind is freed at once: the collector looks for cycles seldom, and there are to be none."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.one_session import LIMITS, LONG, OneSession
from tests.waiting import eventually
from turnlog.tools import tool
from turnlog_schemas.parts import ReplyAddress, ToolCall, text_content
from turnlog_streams.session.commands import Cancel
from turnlog_workers.base.tool_rules import read_rules
from turnlog_workers.runners.base import (
    AssistantMessage,
    ReasoningDelta,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolResult,
    TurnInput,
)
from turnlog_workers.tools.toolbox import ToolBounds, Toolbox

OURS = ("turnlog.", "turnlog_schemas.", "turnlog_streams.", "turnlog_workers.")


@contextmanager
def nothing_left_to_the_collector(session: OneSession) -> Iterator[None]:
    """Fails when a block with this session leaves objects of ours that only the collector finds."""
    gc.collect()
    gc.disable()
    try:
        yield
        session.given.clear()  # the test's own record: what is in it is no garbage
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = sorted({type(found).__qualname__ for found in gc.garbage if type(found).__module__.startswith(OURS)})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


async def answers(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield ReasoningDelta(text="hm ")
    yield TextDelta(text="yes ")
    yield TextDelta(text=LONG)
    yield AssistantMessage(content=text_content(f"yes {LONG}"))


async def calls(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield AssistantMessage(content=None, tool_calls=(ToolCall(call_id="c1", name="look", arguments="{}"),))
    yield ToolResult(call_id="c1", name="look", content=text_content(LONG))
    yield AssistantMessage(content=text_content("looked"))


async def gives_up(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield TextDelta(text="I ")
    raise RunnerError("no_model", "there is none", retryable=False)


async def breaks(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield TextDelta(text="I ")
    raise ZeroDivisionError


async def hangs(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield TextDelta(text="I ")
    await asyncio.Event().wait()


@pytest.mark.parametrize("play", [answers, calls, gives_up, hangs])
async def test_turns_are_freed_when_they_are_over(play: Callable[[TurnInput], AsyncIterator[RunnerOutput]]) -> None:
    session = OneSession(main=play, limits=replace(LIMITS, delta_interval_s=0.01, turn_timeout_s=0.1))
    await session.say("whatever is made once only")
    with nothing_left_to_the_collector(session):
        for number in range(8):  # with a history compaction among them, where they are answered
            await session.say(f"question {number}")
        await session.actor.close_runner()


def test_what_only_the_collector_finds_is_noticed() -> None:
    with pytest.raises(AssertionError, match="OneOfOurs"), nothing_left_to_the_collector(OneSession()):
        leave_a_cycle()


def leave_a_cycle() -> None:
    one = OneOfOurs()
    one.itself = one


class OneOfOurs:
    """Says that it is of our code."""

    __module__ = "turnlog_workers.planted"
    itself: object = None


async def test_turns_with_tools_are_freed_when_they_are_over() -> None:
    call = ToolCall(call_id="c1", name="looks", arguments="{}")

    @tool
    async def looks() -> str:
        return LONG

    async def play(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield AssistantMessage(content=None, tool_calls=(call,))
        async for result in turn.tools.run([call]):
            yield result
        yield AssistantMessage(content=text_content("looked"))

    box = Toolbox(read_rules(["*"]), ToolBounds(), extra={looks.name: looks})
    session = OneSession(main=play, toolbox=box)
    await session.say("whatever is made once only")
    with nothing_left_to_the_collector(session):
        for number in range(2):
            await session.say(f"question {number}")
        await session.actor.close_runner()


async def test_a_cancelled_turn_is_freed_too() -> None:
    session = OneSession(main=hangs)
    with nothing_left_to_the_collector(session):
        for number in range(2):
            turn_id = session.chat("question")
            await eventually(lambda number=number: len(session.deltas) > number, "it has begun")  # type: ignore[misc]
            session.tell(Cancel(request_id=f"c{number}", command_hash="h", turn_id=turn_id, reply=ReplyAddress()))
            await session.settle()


async def test_an_attempt_that_broke_is_freed_before_the_next_one() -> None:
    session = OneSession(main=breaks)
    with nothing_left_to_the_collector(session):
        session.chat("question")
        await eventually(lambda: session.kinds[-1] == "TurnFailed" and not session.actor.busy, "it has failed for good")
