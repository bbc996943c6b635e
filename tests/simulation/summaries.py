"""The model that writes summaries in the simulation: mostly it does, now and then it does what else a model may do."""

import asyncio
from collections.abc import AsyncIterator

from tests.simulation.world import World
from turnlog_schemas.parts import ToolCall, Usage, text_content
from turnlog_workers.runners.base import AssistantMessage, RunnerError, RunnerOutput, TextDelta, TurnInput, UsageReport

SUMMARY_MODEL = "summary:"
SUMMARY_TIMEOUT_S = 1.5
BEGINNING = "In short"  #: of whatever it writes
#: Why a run may end without a summary of it.
FAILURES = {"summary_timeout", "empty_summary", "tool_call", "overloaded", "runner_error"}
_WAYS = (
    *["writes"] * 9,
    *["writes slowly"] * 4,
    "only streams",
    "writes too much",
    "says nothing",
    "calls a tool",
    "is overloaded",
    "raises",
    "hangs",
)


class SummaryRunner:
    """One call, in a way of chance."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.alive = True

    async def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        """What a summary model may answer."""
        world = self._world
        if not self.alive or turn.allow_tools or turn.history or turn.assembled:
            world.finds("summary model", f"session {turn.session_id}", "it gets a history, or tools, or was closed")
        way = world.rng.choice(_WAYS)
        world.trace(f"the summary model of {turn.session_id} {way}")
        await asyncio.sleep(world.rng.uniform(0.3, 1.2) if way == "writes slowly" else world.latency(0.03))
        match way:
            case "says nothing":
                yield AssistantMessage(content=text_content(" "))
            case "calls a tool":
                yield AssistantMessage(content=None, tool_calls=(ToolCall(call_id="c", name="book", arguments="{}"),))
            case "is overloaded":
                raise RunnerError("overloaded", "try later")
            case "raises":
                raise ValueError("simulated: a broken runner")
            case "hangs":
                await asyncio.sleep(100 * SUMMARY_TIMEOUT_S)
            case _:
                text = f"{BEGINNING}, {len(turn.user_content[0].text or '')} characters." + (
                    " And so on." * 500 if way == "writes too much" else ""
                )
                yield TextDelta(text=text)
                if way != "only streams":
                    yield AssistantMessage(content=text_content(text))
                yield UsageReport(usage=Usage(input_tokens=9, output_tokens=3, model_calls=1, last_input_tokens=9))

    async def aclose(self) -> None:
        """It takes no further call."""
        self.alive = False
