"""The outputs of a runner, with a span for each call of its model where this process is traced.

A call begins when the runner is asked for more and no tool is running, and is over with the model's message. What
happens in the runner meanwhile is part of it: its requests carry the span's ``traceparent``.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from turnlog_schemas.parts import ToolCall, Usage, beyond
from turnlog_streams.turn import without_result
from turnlog_workers.base.tasks import was_cancelled
from turnlog_workers.observe import tracing
from turnlog_workers.observe.model_call import ModelCall
from turnlog_workers.runners.base import (
    AssistantMessage,
    ReasoningDelta,
    Runner,
    RunnerOutput,
    TextDelta,
    ToolResult,
    TurnInput,
    UsageReport,
)
from turnlog_workers.runners.contained import fault_of, outputs_of


def traced_outputs(runner: Runner, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    """The iteration over a turn. Raises :class:`RunnerError` if there is none."""
    outputs = outputs_of(runner, turn)
    return outputs if tracing.active is None else TracedOutputs(outputs, turn, tracing.active.model_call)


class TracedOutputs:
    """Hands on every output as it is; what is no output is for others to judge."""

    def __init__(
        self, outputs: AsyncIterator[RunnerOutput], turn: TurnInput, begin: Callable[[str, str], ModelCall]
    ) -> None:
        """``begin``: makes the span of a call, of a model's full name and a session."""
        self._outputs = outputs
        self._turn = turn
        self._begin = begin
        self._call: ModelCall | None = None
        self._answered = False  #: the call is over, but for a usage report that may follow its message
        self._open_calls = _open_calls(turn)
        self._total, self._before = Usage(), Usage()  #: of all calls, and of those before this one

    def __aiter__(self) -> "TracedOutputs":
        return self

    async def __anext__(self) -> RunnerOutput:
        """The next output."""
        call = self._call
        if call is None and not self._open_calls:
            call = self._new_call()
        try:
            if call is None or self._answered:
                output = await self._outputs.__anext__()
            else:
                with call.inside():
                    output = await self._outputs.__anext__()
        except StopAsyncIteration:
            self._over()
            raise
        except BaseException as error:
            self._failed(error)
            raise
        with contextlib.suppress(Exception):  # a plug-in's output may be anything inside
            self._saw(output)
        return output

    async def aclose(self) -> None:
        """End the iteration, as far as that can be."""
        self._over()
        close = getattr(self._outputs, "aclose", None)
        if close is not None:
            await close()

    def _new_call(self) -> ModelCall:
        self._before = self._total
        self._call = self._begin(self._turn.model, self._turn.session_id)
        return self._call

    def _saw(self, output: Any) -> None:
        kind = type(output)
        if kind is ToolResult:
            self._over()
            self._open_calls = without_result(self._open_calls, output.call_id)
            return
        call = self._call
        if call is not None and self._answered and kind is not UsageReport:  # it goes on without a tool's result
            self._over()
            call = self._new_call()
        if call is None:
            return
        if kind is UsageReport:
            self._total = output.usage
            call.used(beyond(output.usage, self._before))
        elif kind is AssistantMessage:
            call.answered(calls_tools=bool(output.tool_calls))
            self._answered, self._open_calls = True, tuple(output.tool_calls)
        elif kind in (TextDelta, ReasoningDelta):
            call.heard()

    def _over(self) -> None:
        """The span of a call that was answered ends; one that never said anything was none."""
        call, self._call = self._call, None
        if call is not None and self._answered:
            call.end()
        self._answered = False

    def _failed(self, error: BaseException) -> None:
        if self._answered or self._call is None:
            self._over()
            return
        call, self._call = self._call, None
        call.end("cancelled" if was_cancelled(error) else fault_of(error).code)


def _open_calls(turn: TurnInput) -> tuple[ToolCall, ...]:
    """That the runner begins with: their results come before the model is asked."""
    calls: tuple[ToolCall, ...] = ()
    for message in turn.turn_messages:
        calls = message.tool_calls if message.role == "assistant" else without_result(calls, message.tool_call_id)
    return tuple(call for call in calls if not call.client)
