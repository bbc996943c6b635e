"""Tools that the client runs, on the real decisions with models that the test writes: what ends a turn."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import ClassVar

from tests.one_session import LONG, SMALL, OneSession
from tests.waiting import eventually
from turnlog.tools import tool
from turnlog_schemas import events as ev
from turnlog_schemas.parts import ClientTool, ToolCall, ToolOutput, Usage, content_text, text_content
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_streams.history.view import SUMMARY_ROLE
from turnlog_streams.session.commands import ResumeTurn, SessionCommand
from turnlog_workers.base.tool_rules import ToolRule
from turnlog_workers.runners.base import AssistantMessage, RunnerOutput, TurnInput, UsageReport
from turnlog_workers.tools.toolbox import Toolbox

BOOK = ClientTool(name="book", description="Books it.", parameters='{"type":"object"}')


def calls_of(*names: str) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call_id=f"c{at}", name=name, arguments="{}") for at, name in enumerate(names))


async def test_a_call_of_a_client_s_tool_ends_the_turn_in_one_append() -> None:
    went_on = False

    async def calls(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        nonlocal went_on
        if turn.tool_outputs:
            yield AssistantMessage(content=text_content(f"got {content_text(turn.tool_outputs[0].content)}"))
            return
        assert [(tool.name, tool.client) for tool in turn.tools.definitions] == [("book", True)]
        yield UsageReport(usage=Usage(input_tokens=3, output_tokens=2, model_calls=1))
        yield AssistantMessage(content=None, tool_calls=calls_of("book"))
        went_on = True

    class Appends(OneSession):
        appends: ClassVar[list[list[str]]] = []

        async def submit(self, session_id: str, commands: Sequence[SessionCommand]) -> None:
            self.appends.append([type(command).__name__ for command in commands])
            await super().submit(session_id, commands)

    session = Appends(main=calls)
    await session.say("Book it", tools=(BOOK,))
    assert not went_on, "a runner is asked for nothing behind such a call"
    assert Appends.appends == [["RecordMessage", "CompleteTurn"]], "no owner can die between the call and the end"
    (ended,) = session.of(ev.TurnCompleted)
    assert ended.requires_action
    assert ended.usage.input_tokens == 3
    assert [call.client for call in session.of(ev.MessageStored)[-1].tool_calls] == [True]
    output = ToolOutput(call_id="c0", output="booked")
    session.chat("", tool_outputs=(output,), content=())
    await session.settle()
    assert content_text(session.of(ev.MessageStored)[-1].content) == "got booked"
    given = session.given[-1]
    assert given.user_content == ()
    assert [message.role for message in given.history] == ["user", "assistant", "tool"]
    assert given.turn_messages == []
    assert not session.of(ev.TurnCompleted)[-1].requires_action


async def test_own_tools_run_before_the_client_s_calls_end_the_turn() -> None:
    ran: list[str] = []

    async def calls(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        made = calls_of("look", "book", "look")
        yield AssistantMessage(content=None, tool_calls=made)
        async for result in turn.tools.run(made):
            ran.append(result.call_id)
            yield result
        raise AssertionError("the turn is over")

    @tool
    def look() -> str:
        """Looks."""
        return "seen"

    toolbox = Toolbox((ToolRule(tools="look"),), extra={"look": look})
    session = OneSession(main=calls, toolbox=toolbox)
    await session.say("Book it", tools=(BOOK,))
    assert ran == ["c0", "c2"]
    assert session.of(ev.TurnCompleted)[-1].requires_action
    assert [call.call_id for call in session.live.state.awaited] == ["c1"]


async def test_a_client_s_tool_comes_before_one_of_the_same_name() -> None:
    async def calls(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        assert [tool.description for tool in turn.tools.definitions] == ["Books it."]
        yield AssistantMessage(content=None, tool_calls=calls_of("book"))

    @tool
    def book() -> str:
        """Ours."""
        raise AssertionError("it is the client's")

    session = OneSession(main=calls, toolbox=Toolbox((ToolRule(tools="book"),), extra={"book": book}))
    await session.say("Book it", tools=(BOOK,))
    assert session.of(ev.TurnCompleted)[-1].requires_action


async def test_a_new_attempt_whose_open_calls_are_all_the_client_s_asks_no_model() -> None:
    """An owner died after the last result of its own tools, before the turn's end."""
    go_on = asyncio.Event()

    async def calls(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        assert turn.attempt == 1
        yield AssistantMessage(content=None, tool_calls=calls_of("look", "book"))
        await go_on.wait()

    session = OneSession(main=calls)
    turn_id = session.chat("Book it", tools=(BOOK,))
    await eventually(lambda: session.live.state.messages == 2, "the calls are stored")
    await session.actor.stop()
    session.tell(ResumeTurn(turn_id=turn_id, attempt=1))
    await session.settle()
    assert len(session.given) == 1
    assert session.of(ev.TurnCompleted)[-1].requires_action
    assert [message.tool_call_id for message in session.of(ev.MessageStored) if message.interrupted] == ["c0"]


async def test_a_message_instead_of_the_outputs_gives_models_a_history_that_they_take() -> None:
    async def calls(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if turn.turn_number == 1:
            yield AssistantMessage(content=None, tool_calls=calls_of("book"))
        else:
            yield AssistantMessage(content=text_content("As you wish."))

    session = OneSession(main=calls)
    await session.say("Book it", tools=(BOOK,))
    await session.say("Never mind")
    given = session.given[-1]
    assert [message.role for message in given.history] == ["user", "assistant", "tool"]
    assert given.history[-1].interrupted
    assert given.turn_messages == []


async def test_a_history_is_compacted_while_outputs_are_waited_for() -> None:
    async def calls(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        if turn.tool_outputs:
            yield AssistantMessage(content=text_content("Booked."))
        elif turn.client_tools:
            yield AssistantMessage(content=None, tool_calls=calls_of("book"))
        else:
            yield AssistantMessage(content=text_content(LONG))

    session = OneSession(main=calls, policy=replace(SMALL, history=HistoryCompactionPolicy(keep_tail=0)))
    for _ in range(3):
        await session.say(LONG)
    await session.say("Book it", tools=(BOOK,))
    session.ask()
    await session.settle()
    assert session.of(ev.HistoryCompacted)
    session.chat("", tool_outputs=(ToolOutput(call_id="c0", output="done"),), content=())
    await session.settle()
    assert session.kinds[-1] == "TurnCompleted"
    roles = [message.role for message in session.given[-1].assembled]
    assert roles[0] == SUMMARY_ROLE
    assert roles[-2:] == ["assistant", "tool"], "the call that was waited for is never covered"
