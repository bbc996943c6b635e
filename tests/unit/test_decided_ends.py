"""Nothing begins in a turn whose end is decided, although the log may not have confirmed it yet."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from tests.one_session import LIMITS, OneSession
from tests.waiting import eventually
from turnlog.runner import AssistantMessage, RunnerOutput, ToolResult, TurnInput
from turnlog.tools import tool
from turnlog_schemas import events as ev
from turnlog_schemas.parts import ToolCall, text_content
from turnlog_workers.base.tool_rules import read_rules
from turnlog_workers.tools.toolbox import ToolBounds, Toolbox

CALLS = tuple(ToolCall(call_id=number, name="works", arguments="{}") for number in "12")
PATIENT = replace(LIMITS, turn_timeout_s=60.0)
DONE = AssistantMessage(content=text_content("Done."))


async def asked_again(one: OneSession) -> None:
    await eventually(lambda: one.asked_after_end >= 3, "whoever would go on asks, and asks again")


async def before_the_second_step(begun: list[str]) -> OneSession:
    """A session whose runner has a first step, in which the end of its turn is decided, and would take a second one."""

    async def play(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if turn.turn_number == 1:
            yield AssistantMessage(content=None, tool_calls=CALLS)
            for call in CALLS:
                begun.append(call.call_id)
                one.end_decided = len(begun) == 1
                yield ToolResult(call_id=call.call_id, content=text_content("found"), name=call.name)
        yield DONE

    one = OneSession(main=play, limits=PATIENT)
    one.chat("Go.")
    await asked_again(one)
    return one


async def test_a_runner_is_not_asked_for_its_next_step_and_ends_with_the_confirmation() -> None:
    begun: list[str] = []
    one = await before_the_second_step(begun)
    one.end_decided = False
    one.chat("Stop.", on_busy="interrupt")  # confirmed at once
    await one.settle()
    assert begun == ["1"]
    assert [event.outcome for event in one.of(ev.MessageStored) if event.role == "tool"] == [None, "interrupted"]
    await one.actor.stop()


async def test_an_end_that_comes_to_nothing_lets_it_go_on() -> None:
    begun: list[str] = []
    one = await before_the_second_step(begun)
    assert begun == ["1"]
    one.end_decided = False
    await one.settle()
    assert begun == ["1", "2"]
    assert one.of(ev.TurnCompleted)
    await one.actor.stop()


async def test_a_call_that_waited_for_its_place_does_not_start() -> None:
    begun: list[str] = []
    free = asyncio.Event()

    @tool
    async def works() -> str:
        begun.append("now")
        await free.wait()
        return "found"

    async def play(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield AssistantMessage(content=None, tool_calls=CALLS)
        async for result in turn.tools.run(CALLS):
            yield result
        yield DONE

    bounds = ToolBounds(timeout_s=60.0, max_running_per_tool=1)
    box = Toolbox(read_rules(["*"]), bounds, extra={works.name: works})
    one = OneSession(main=play, toolbox=box, limits=PATIENT)
    one.chat("Go.")
    await eventually(lambda: begun, "the first call runs")
    one.end_decided = True
    free.set()
    await asked_again(one)
    assert begun == ["now"]
    one.end_decided = False
    await one.settle()
    assert begun == ["now", "now"]
    await one.actor.stop()
