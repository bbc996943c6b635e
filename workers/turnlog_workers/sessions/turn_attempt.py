"""One attempt at a turn: what the outputs of its runner become.

    runner output      becomes
    text, reasoning -> a frame at once, then at most one per interval (never stored)
    message         -> RecordMessage, confirmed; then frames; only then is the runner asked for more
    end, error      -> CompleteTurn or FailAttempt (``sessions.session_actor``)

Each output is checked first (``runners.checked``). A message without tool calls waits for the next output: if
the turn ends there, both go into one append.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from turnlog_schemas.parts import ContentPart, ToolCall, Usage, added, beyond, content_text, cut_content, cut_text
from turnlog_streams.session.commands import FailAttempt, RecordMessage
from turnlog_streams.turn import without_result
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.tasks import was_cancelled
from turnlog_workers.observe.tracing import TracedAttempt
from turnlog_workers.runners.base import (
    AssistantMessage,
    ReasoningDelta,
    Runner,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolResult,
    TurnInput,
    UsageReport,
)
from turnlog_workers.runners.checked import MAX_OUTPUTS, OutputError, TextJoiner, checked, one_line
from turnlog_workers.runners.contained import close_outputs, fault_of
from turnlog_workers.runners.traced import traced_outputs
from turnlog_workers.sessions.history_compactor import UnrecordableError
from turnlog_workers.sessions.streamed_text import DeltaBuffer, PartialText
from turnlog_workers.sessions.turn_host import ActorLimits, TurnHost
from turnlog_workers.tools.toolbox import TurnToolbox

_OUTPUTS_PER_LOOP_PASS = 32  #: of a runner that never waits: the others have their turns in between
_OVER_AGAIN_S = 0.05
_HARD_FACTOR = 4  #: so many times the size at which a text is cut, it is no answer any more


class NotRecordedError(RunnerError):
    """What a runner produced cannot be recorded: its turn fails of it."""

    def __init__(self, error: UnrecordableError) -> None:
        reason = f"an outcome of the turn cannot be recorded: {error}"
        super().__init__(code="outcome_not_recorded", reason=reason, retryable=False)


class TurnAttempt:
    """One attempt; a history compaction in the middle of it gives it another runner, nothing else."""

    def __init__(
        self,
        session_id: str,
        turn_id: str,
        attempt: int,
        next_message_seq: int,
        host: TurnHost,
        limits: ActorLimits,
    ) -> None:
        self.turn_id = turn_id
        self.attempt = attempt
        self.began = 0.0  #: by the event loop's clock
        self.ended = False  #: the log has confirmed its end
        self.traced: TracedAttempt | None = None  #: its span
        self.stopped = False  #: nothing more is taken from its runner, whatever that still yields
        self._handed_over = False  #: only calls that the client runs are open: the turn ends with them
        self.shortened = False  #: its history was compacted because the model could not take it
        self.turn: TurnInput | None = None  #: what its runner was given
        self._partial = PartialText(limits.max_text_bytes)
        self._session_id = session_id
        self._next_seq = next_message_seq
        self._last_seq: int | None = None
        self._open_calls: tuple[ToolCall, ...] = ()
        self._tools: TurnToolbox | None = None
        self._earlier = Usage()  # of the runners before a history compaction
        self._spent_before = Usage()  # by earlier attempts
        self._recorded = Usage()  # what the log has of ``usage``
        self.usage = Usage()
        self._host = host
        # It holds nothing of ours: the toolbox that we hold has it.
        self._may_go_on = partial(_may_go_on, host, session_id, turn_id)
        self._limits = limits
        self._hard_text_bytes = _HARD_FACTOR * limits.max_text_bytes
        self._held: RecordMessage | None = None
        self._text, self._reasoning = TextJoiner(), TextJoiner()
        self._said_bytes = self._thought_bytes = 0  # since the last message
        self._outputs = 0
        self.deltas = DeltaBuffer(limits.delta_interval_s, host)

    @property
    def partial_text(self) -> str:
        """What was streamed since the last message, up to the size at which it is cut and a little more."""
        return self._partial.text

    @property
    def unrecorded_usage(self) -> Usage:
        """What the runner reported, less what the log has of it."""
        return beyond(self.usage, self._recorded)

    @property
    def first_delta_ms(self) -> int | None:
        """From its beginning to the first piece that it sent; ``None``: it has sent none."""
        first = self.deltas.first_at
        return None if first is None else int((first - self.began) * 1000)

    @property
    def may_be_asked_again(self) -> bool:
        """May the model be asked once more in this attempt, because its prompt was too long? Nothing was said yet."""
        return not self.shortened and not self.partial_text and self._held is None and not self._open_calls

    def stop(self) -> None:
        """Take nothing more from its runner."""
        self.stopped = True

    def failure(self, error: RunnerError, seconds: float) -> FailAttempt:
        """The command that ends this attempt."""
        self._held = None  # the failed attempt's last words are not part of the history
        self.deltas.flush()
        return FailAttempt(
            turn_id=self.turn_id,
            attempt=self.attempt,
            code=error.code,
            reason=one_line(error.reason, 1000),
            retryable=error.retryable,
            usage=self.unrecorded_usage,
            duration_ms=int(seconds * 1000),
            first_delta_ms=self.first_delta_ms,
        )

    def take_held(self) -> list[RecordMessage]:
        """The message that waits for the end of its turn."""
        held, self._held = self._held, None
        if held is not None:
            self._partial.clear()  # from here on it is the log's
        return [held] if held is not None else []

    async def consume(self, runner: Runner, turn: TurnInput, due: Callable[[Usage], bool]) -> bool:
        """Ask for outputs until the runner has no more. False: between two tool steps, ``due`` said to stop.

        Raises :class:`RunnerError` for everything that the runner does wrong.
        """
        self._begin(turn)
        await self._may_go_on()
        if self._handed_over:
            return True
        outputs = traced_outputs(runner, turn)
        try:
            while True:
                try:
                    output = await outputs.__anext__()
                except StopAsyncIteration:
                    break
                except BaseException as error:
                    if was_cancelled(error):
                        raise
                    raise fault_of(error) from error
                if self.stopped:
                    raise asyncio.CancelledError
                if type(output) is TextDelta and self._held is None and (self._outputs + 1) % _OUTPUTS_PER_LOOP_PASS:
                    text = getattr(output, "text", None)  # the hot path: a plain piece of text needs nothing but this
                    if type(text) is str and text.isascii() and not self._text.half:
                        self._outputs += 1
                        self._say(text)
                        crash_point("actor.mid_stream")
                        continue
                if await self._take(output) and not self._open_calls and due(self.usage):
                    return False
                if self._handed_over:
                    break
        finally:
            await close_outputs(outputs, self._session_id)
        self._finish_pieces()
        self.deltas.flush()
        return True

    def _begin(self, turn: TurnInput) -> None:
        """Where the runner goes on, and how much it may add."""
        self.turn = turn
        self.deltas.begin(turn)
        self._earlier = self.usage
        if self._last_seq is None:
            self._last_seq = self._next_seq + self._limits.max_turn_messages - len(turn.turn_messages)
        self._open_calls = ()
        for message in turn.turn_messages:
            if message.role == "assistant":
                self._open_calls = message.tool_calls
            else:
                self._open_calls = without_result(self._open_calls, message.tool_call_id)
        self._spent_before = beyond(turn.spent, self._recorded)
        self._tools = turn.tools if isinstance(turn.tools, TurnToolbox) else None
        if self._tools is not None:
            self._tools.before_start = self._may_go_on
            self._tools.stored(self._open_calls)
        self._look_for_handover()

    def _look_for_handover(self) -> bool:
        """Are the calls that are open all the client's? Their turn is over."""
        self._handed_over = bool(self._open_calls) and all(call.client for call in self._open_calls)
        return self._handed_over

    async def _take(self, output: RunnerOutput) -> bool:
        """Check an output and do what it asks for. Was it a tool result?"""
        self._outputs += 1
        if self._outputs % _OUTPUTS_PER_LOOP_PASS == 0:
            if self._outputs > MAX_OUTPUTS:
                raise OutputError("too_many_outputs", f"more than {MAX_OUTPUTS} outputs without a whole message")
            await asyncio.sleep(0)
        if type(output) is not TextDelta or type(getattr(output, "text", None)) is not str:
            output = checked(output)
        if self._held is not None and not isinstance(output, UsageReport):  # the last message goes with the turn's end
            await self._store_held()
        match output:
            case TextDelta():
                self._say(self._text.add(output.text))
                crash_point("actor.mid_stream")
            case ReasoningDelta():
                self._think(self._reasoning.add(output.text))
            case UsageReport():
                self.usage = added(self._earlier, output.usage)
            case AssistantMessage():
                await self._assistant(output)
            case ToolResult():
                await self._tool_result(output)
                return True
        return False

    def _say(self, text: str) -> None:
        if text:
            self._said_bytes += self._partial.add(text)
            if self._said_bytes > self._hard_text_bytes:
                self._too_long("text_too_long", "text in one message")
            self.deltas.add(text, reasoning=False)

    def _think(self, text: str) -> None:
        if text:
            self._thought_bytes += len(text) if text.isascii() else len(text.encode())
            if self._thought_bytes > self._hard_text_bytes:
                self._too_long("reasoning_too_long", "reasoning before one message")
            self.deltas.add(text, reasoning=True)

    def _too_long(self, code: str, what: str) -> None:
        raise OutputError(code, f"more than {self._hard_text_bytes} bytes of {what}")

    def _finish_pieces(self) -> None:
        """No more pieces of this message: half a character at its end stays half."""
        self._think(self._reasoning.end())
        self._say(self._text.end())

    def _message_begins(self) -> None:
        self._finish_pieces()
        self.deltas.flush()
        self._said_bytes = self._thought_bytes = self._outputs = 0

    async def _assistant(self, output: AssistantMessage) -> None:
        self._message_begins()
        if self._open_calls:
            missing = len(self._open_calls)
            raise OutputError("open_tool_calls", f"a message while {missing} tool calls had no result")
        content, truncated = self._cut_answer(output.content)
        arguments = sum(len(call.arguments.encode()) for call in output.tool_calls)
        if arguments > self._limits.max_tool_result_bytes:
            raise RunnerError(
                "tool_call_too_large",
                f"tool call arguments of {arguments} bytes; at most {self._limits.max_tool_result_bytes} are stored",
            )
        calls = self._with_keys(output.tool_calls)
        self._hold("assistant", content, truncated, tool_calls=calls)
        self._open_calls = calls
        if calls and not self._look_for_handover():  # else it is stored with the turn's end
            self._check_tokens()
            crash_point("actor.before_tool")
            await self._store_held()
            await self._may_go_on()
            if self._tools is not None:
                self._tools.stored(calls)
            crash_point("actor.after_tool_call_stored")

    def _with_keys(self, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        """The calls as they are stored: the tool gets the same key that the log has."""
        if self._tools is None or not calls:
            return calls
        return tuple(
            call if call.idempotency_key else replace(call, idempotency_key=f"{self.turn_id}:{self._next_seq}:{index}")
            for index, call in enumerate(self._tools.declared(calls))
        )

    def _check_tokens(self) -> None:
        spent = added(self._spent_before, self.usage)
        tokens, most = spent.input_tokens + spent.output_tokens, self._limits.max_turn_tokens
        if tokens > most:
            reason = (
                f"the turn has used {tokens} tokens, and calls tools again: at most {most} (TURNLOG_MAX_TURN_TOKENS)"
            )
            raise RunnerError("too_many_tokens", reason, retryable=False)

    def _cut_answer(self, content: tuple[ContentPart, ...] | None) -> tuple[tuple[ContentPart, ...] | None, bool]:
        text = content_text(content) or ""
        if len(cut_text(text, self._hard_text_bytes)) < len(text):
            self._too_long("text_too_long", "text in one message")
        return cut_content(content, self._limits.max_text_bytes)

    async def _tool_result(self, output: ToolResult) -> None:
        self._message_begins()
        if all(call.call_id != output.call_id for call in self._open_calls):
            call_id = one_line(output.call_id, 60)
            raise OutputError("unexpected_tool_result", f"a result of {call_id!r}, which is no call without a result")
        content, truncated = cut_content(output.content, self._limits.max_tool_result_bytes)
        crash_point("actor.before_tool_result")
        self._hold("tool", content, truncated, tool_call_id=output.call_id, name=output.name, outcome=output.outcome)
        self._open_calls = without_result(self._open_calls, output.call_id)
        if self._look_for_handover():  # as above
            return
        await self._store_held()
        await self._may_go_on()  # the runner's next step may be another call of the same message
        crash_point("actor.after_tool_result")

    def _hold(
        self,
        role: str,
        content: tuple[ContentPart, ...] | None,
        truncated: bool,
        *,
        tool_calls: tuple[ToolCall, ...] = (),
        tool_call_id: str | None = None,
        name: str | None = None,
        outcome: str | None = None,
    ) -> None:
        if self._last_seq is not None and self._next_seq >= self._last_seq:
            limit = self._limits.max_turn_messages
            raise RunnerError("too_many_steps", f"the turn has {limit} messages, the most it may have", retryable=False)
        self._held = RecordMessage(
            turn_id=self.turn_id,
            attempt=self.attempt,
            message_seq=self._next_seq,
            role=role,
            content=content,
            tool_calls=tool_calls,
            tool_call_id=tool_call_id,
            name=name,
            truncated=truncated,
            outcome=outcome,
        )
        self._next_seq += 1

    async def _store_held(self) -> None:
        """In the middle of a turn: with it goes what the runner reported until now, for whoever takes the turn over."""
        held = self.take_held()
        if not held:
            return
        usage = self.usage
        if usage is not self._recorded and usage != self._recorded:
            held = [replace(held[0], usage=self.unrecorded_usage)]
        try:
            await self._host.submit(self._session_id, held)
        except UnrecordableError as error:
            raise NotRecordedError(error) from error
        self._recorded = usage


async def _may_go_on(host: TurnHost, session_id: str, turn_id: str) -> None:
    """Before a runner's next step and each tool: nobody else owns the session, and the turn is not over.

    An end that was decided holds here at once, and not from its confirmation on: with it go results for the calls
    that have none. Its confirmation cancels who waits here; if the log does not take it, the turn goes on.
    """
    await host.confirm_ownership()
    while not host.is_running(session_id, turn_id):  # noqa: ASYNC110
        await asyncio.sleep(_OVER_AGAIN_S)
