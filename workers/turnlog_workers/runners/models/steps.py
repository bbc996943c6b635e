"""A turn as model calls, one after the other, until the model calls no tool any more.

What is the same for every model: where an attempt goes on, in which order outputs come, what was used, how many calls
there may be. A runner brings :data:`Ask`, one call. Tools are those of the turn; calls of anything else get a result
that says so, and the model goes on from there.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from turnlog_schemas.parts import ToolCall, Usage, added
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.turn import without_result
from turnlog_workers.runners.base import (
    AssistantMessage,
    ReasoningDelta,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolResult,
    TurnInput,
    UsageReport,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """The end of one model call: the whole answer, and what it cost."""

    message: AssistantMessage
    usage: Usage


Ask = Callable[[TurnInput, Sequence[HistoryMessage]], AsyncGenerator[TextDelta | ReasoningDelta | ModelAnswer]]
"""One model call: the turn, and the messages that this ``run()`` has added since. Its last output is the answer."""


async def run_steps(turn: TurnInput, ask: Ask, *, max_calls: int) -> AsyncGenerator[RunnerOutput]:
    """The rest of a turn. Raises :class:`RunnerError`."""
    since: list[HistoryMessage] = []
    usage = Usage()
    if is_answered(turn):
        yield UsageReport(usage=usage)
        return
    async with aclosing(turn.tools.run(open_calls(turn))) as results:
        async for result in results:
            yield result
            since.append(_stored(turn, result))
    for _ in range(max_calls):
        answer: ModelAnswer | None = None
        async with aclosing(ask(turn, since)) as outputs:
            async for output in outputs:
                if isinstance(output, ModelAnswer):
                    answer = output
                else:
                    yield output
        if answer is None:
            raise RuntimeError("a model call ended without an answer")
        usage = added(usage, answer.usage)
        yield UsageReport(usage=usage)  # before the message: both go into one append
        message = _with_keys(turn, len(since), answer.message)
        yield message
        if not message.tool_calls:
            return
        since.append(_stored(turn, message))
        async with aclosing(turn.tools.run(message.tool_calls)) as results:
            async for result in results:
                yield result
                since.append(_stored(turn, result))
    reason = f"the model still calls tools after {max_calls} calls of it (setting TURNLOG_MAX_MODEL_CALLS)"
    raise RunnerError("too_many_steps", reason, retryable=False)


def is_answered(turn: TurnInput) -> bool:
    """Did an earlier attempt store the turn's last message, and end before it could say so?"""
    last = turn.turn_messages[-1] if turn.turn_messages else None
    return last is not None and last.role == "assistant" and not last.tool_calls and not last.interrupted


def open_calls(turn: TurnInput) -> tuple[ToolCall, ...]:
    """The stored calls that still wait for a result, in order."""
    calls: tuple[ToolCall, ...] = ()
    for message in turn.turn_messages:
        calls = message.tool_calls if message.role == "assistant" else without_result(calls, message.tool_call_id)
    return calls


def _with_keys(turn: TurnInput, position: int, message: AssistantMessage) -> AssistantMessage:
    """Calls of what is no tool here run nothing, so they may be started again."""
    at = len(turn.turn_messages) + position
    known = {tool.name: tool.idempotent for tool in turn.tools.definitions}
    calls = (
        replace(call, idempotent=known.get(call.name, True), idempotency_key=f"{turn.turn_id}:{at}:{index}")
        for index, call in enumerate(message.tool_calls)
    )
    return replace(message, tool_calls=tuple(calls))


def _stored(turn: TurnInput, output: AssistantMessage | ToolResult) -> HistoryMessage:
    """An output as the history will have it."""
    if isinstance(output, AssistantMessage):
        return HistoryMessage(
            message_seq=0, turn_id=turn.turn_id, role="assistant", content=output.content, tool_calls=output.tool_calls
        )
    return HistoryMessage(
        message_seq=0,
        turn_id=turn.turn_id,
        role="tool",
        content=output.content,
        tool_call_id=output.call_id,
        name=output.name,
        outcome=output.outcome,
    )
