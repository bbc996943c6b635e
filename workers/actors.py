"""The session actor: runs one turn at a time with a runner, and turns its outputs into facts and frames.

    runner output      becomes
    text, reasoning -> a frame at once, then at most one per interval (never stored)
    message         -> RecordMessage, confirmed; then frames; only then is the runner asked for more
    end, error      -> CompleteTurn or FailAttempt

A message without tool calls waits for the next output: if the turn ends there, both go into one append.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas import frames as fr
from schemas.parts import ContentPart, ToolCall, Usage, content_text, text_content
from streams.session_commands import CompleteTurn, FailAttempt, RecordMessage, SessionCommand
from workers.crash_points import crash_point
from workers.runners.base import (
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

log = logging.getLogger(__name__)
_CLOSE_TIMEOUT_S = 5.0


class TurnHost(Protocol):
    """What an actor needs from its shard."""

    async def submit(self, session_id: str, commands: Sequence[SessionCommand]) -> None:
        """Decide and append; returns when confirmed. Cancels the caller when the partition is released."""
        ...

    async def confirm_ownership(self) -> None:
        """Make sure that no other owner claimed meanwhile, if the last confirmation is old."""
        ...

    def send_delta(self, turn: TurnInput, frame: fr.TextDelta | fr.ReasoningDelta) -> None:
        """Send an ephemeral frame."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorLimits:
    """Bounds of a turn."""

    turn_timeout_s: float
    retry_delay_s: float
    delta_interval_s: float
    max_text_bytes: int
    max_tool_result_bytes: int
    max_turn_messages: int = 200


class DeltaBuffer:
    """The first piece goes out at once, then at most one frame per interval; pieces in between are joined."""

    def __init__(self, interval_s: float, send: Callable[[str, bool], None]) -> None:
        self._interval_s = interval_s
        self._send = send
        self._text = ""
        self._reasoning = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0

    def add(self, text: str, *, reasoning: bool) -> None:
        """Take a piece."""
        if not text:
            return
        if self._text and reasoning != self._reasoning:
            self.flush()
        self._text += text
        self._reasoning = reasoning
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._interval_s <= 0 or now >= self._next_at:
            self.flush()
        elif self._timer is None:
            self._timer = loop.call_at(self._next_at, self.flush)

    def flush(self) -> None:
        """Send what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._text:
            text, self._text = self._text, ""
            self._next_at = asyncio.get_running_loop().time() + self._interval_s
            self._send(text, self._reasoning)

    def close(self) -> None:
        """Drop what waits: its turn goes on elsewhere."""
        self._text = ""
        if self._timer is not None:
            self._timer.cancel()


class SessionActor:
    """Holds the runner of one session and the task of its running turn."""

    def __init__(
        self,
        session_id: str,
        *,
        host: TurnHost,
        make_runner: Callable[[str], Runner],
        running: asyncio.Semaphore,
        limits: ActorLimits,
    ) -> None:
        self.session_id = session_id
        self._host = host
        self._make_runner = make_runner
        self._running = running
        self._limits = limits
        self._runner: Runner | None = None
        self._model = ""
        self._task: asyncio.Task[None] | None = None
        self._attempt: _Attempt | None = None
        self._fresh_runner = False

    @property
    def partial_text(self) -> str:
        """What the running attempt has streamed since its last message."""
        return self._attempt.partial_text if self.busy and self._attempt is not None else ""

    def cancel(self, turn_id: str) -> None:
        """The log says that this turn is over: stop its attempt, and send nothing more of it."""
        if self._task is not None and self._attempt is not None and self._attempt.turn.turn_id == turn_id:
            self._attempt.deltas.close()
            self._task.cancel()
            self._fresh_runner = True  # nobody knows in what state the runner was stopped

    def reset(self) -> None:
        """Close the runner before the next turn."""
        self._fresh_runner = True

    @property
    def busy(self) -> bool:
        """Is a turn running (or coming to its end)?"""
        return self._task is not None and not self._task.done()

    def start(self, turn: TurnInput, *, next_message_seq: int, failures: int) -> None:
        """Run an attempt that the log has confirmed. The one before it has ended."""
        attempt = self._attempt = _Attempt(turn, next_message_seq, self._host, self._limits)
        self._task = asyncio.create_task(self._run(attempt, failures, self._task), name=f"turn {turn.turn_id}")

    async def stop(self) -> None:
        """Cancel what runs and close the runner. What was not confirmed is the next owner's to repeat."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_CLOSE_TIMEOUT_S)
        await self.close_runner()

    async def close_runner(self) -> None:
        """Free the runner; the next turn makes a new one."""
        runner, self._runner = self._runner, None
        if runner is not None:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await runner.aclose()
            except Exception as error:
                log.warning("closing a runner failed: %s", type(error).__name__, extra={"session": self.session_id})

    async def _runner_for(self, model: str) -> Runner:
        if self._runner is not None and (self._fresh_runner or self._model != model or not self._runner.alive):
            await self.close_runner()
        if self._runner is None:
            self._runner = self._make_runner(model)
            self._model = model
        self._fresh_runner = False
        return self._runner

    async def _run(self, attempt: "_Attempt", failures: int, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        loop = asyncio.get_running_loop()
        if failures:
            await asyncio.sleep(self._limits.retry_delay_s * 2 ** (failures - 1))
        started = loop.time()
        turn = attempt.turn
        try:
            async with self._running:
                async with asyncio.timeout(self._limits.turn_timeout_s):
                    runner = await self._runner_for(turn.model)
                    await attempt.consume(runner)
            ending: SessionCommand = CompleteTurn(
                turn_id=turn.turn_id,
                attempt=turn.attempt,
                usage=attempt.usage,
                duration_ms=int((loop.time() - started) * 1000),
            )
        except RunnerError as error:
            ending = attempt.failure(error.code, error.reason, error.retryable, loop.time() - started)
        except TimeoutError:
            reason = f"the turn took longer than {self._limits.turn_timeout_s:g} s"
            ending = attempt.failure("turn_timeout", reason, False, loop.time() - started)
        except Exception as error:
            # Its text may hold anything, a secret too: it goes to the operator's log by type only.
            log.error(
                "a runner raised %s",
                type(error).__name__,
                exc_info=log.isEnabledFor(logging.DEBUG),
                extra={"session": turn.session_id, "turn": turn.turn_id},
            )
            reason = f"the runner raised {type(error).__name__}"
            ending = attempt.failure("runner_error", reason, True, loop.time() - started)
        finally:
            attempt.deltas.close()
        if not isinstance(ending, CompleteTurn):
            await self.close_runner()
        crash_point("actor.before_terminal")
        await self._host.submit(turn.session_id, [*attempt.take_held(), ending])


class _Attempt:
    """One attempt at a turn: what its outputs become."""

    def __init__(self, turn: TurnInput, next_message_seq: int, host: TurnHost, limits: ActorLimits) -> None:
        self.turn = turn
        self.partial_text = ""
        self._next_seq = next_message_seq
        self._last_seq = next_message_seq + limits.max_turn_messages - len(turn.turn_messages)
        self.usage = Usage()
        self._host = host
        self._limits = limits
        self._held: RecordMessage | None = None
        self.deltas = DeltaBuffer(limits.delta_interval_s, self._send_delta)

    def _send_delta(self, text: str, reasoning: bool) -> None:
        frame = fr.ReasoningDelta(text=text) if reasoning else fr.TextDelta(text=text)
        self._host.send_delta(self.turn, frame)

    def failure(self, code: str, reason: str, retryable: bool, seconds: float) -> FailAttempt:
        """The command that ends this attempt."""
        self._held = None  # the failed attempt's last words are not part of the history
        self.deltas.flush()
        return FailAttempt(
            turn_id=self.turn.turn_id,
            attempt=self.turn.attempt,
            code=code,
            reason=reason[:1000],
            retryable=retryable,
            usage=self.usage,
            duration_ms=int(seconds * 1000),
        )

    def take_held(self) -> list[RecordMessage]:
        """The message that waits for the end of its turn."""
        held, self._held = self._held, None
        if held is not None:
            self.partial_text = ""  # from here on it is the log's
        return [held] if held is not None else []

    async def consume(self, runner: Runner) -> None:
        """Ask for outputs until the runner has no more."""
        await self._host.confirm_ownership()
        outputs = runner.run(self.turn)
        try:
            async for output in outputs:
                await self._take(output)
        finally:
            close = getattr(outputs, "aclose", None)  # a plug-in may return an iterator that cannot be closed
            if close is not None:
                await close()
        self.deltas.flush()

    async def _take(self, output: RunnerOutput) -> None:
        match output:
            case TextDelta():
                await self._store_held()
                self.partial_text += output.text
                self.deltas.add(output.text, reasoning=False)
                crash_point("actor.mid_stream")
            case ReasoningDelta():
                await self._store_held()
                self.deltas.add(output.text, reasoning=True)
            case UsageReport():
                self.usage = output.usage
            case AssistantMessage():
                await self._store_held()
                await self._assistant(output)
            case ToolResult():
                await self._store_held()
                await self._tool_result(output)

    async def _assistant(self, output: AssistantMessage) -> None:
        self.deltas.flush()
        content, truncated = _cut(output.content, self._limits.max_text_bytes)
        arguments = sum(len(call.arguments.encode()) for call in output.tool_calls)
        if arguments > self._limits.max_tool_result_bytes:
            raise RunnerError(
                "tool_call_too_large",
                f"tool call arguments of {arguments} bytes; at most {self._limits.max_tool_result_bytes} are stored",
            )
        self._hold("assistant", content, truncated, tool_calls=output.tool_calls)
        if output.tool_calls:
            crash_point("actor.before_tool")
            await self._store_held()
            await self._host.confirm_ownership()
            crash_point("actor.after_tool_call_stored")

    async def _tool_result(self, output: ToolResult) -> None:
        self.deltas.flush()
        content, truncated = _cut(output.content, self._limits.max_tool_result_bytes)
        crash_point("actor.before_tool_result")
        self._hold("tool", content, truncated, tool_call_id=output.call_id, name=output.name)
        await self._store_held()
        await self._host.confirm_ownership()  # the runner's next step may be another call of the same message
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
    ) -> None:
        if self._next_seq >= self._last_seq:
            limit = self._limits.max_turn_messages
            raise RunnerError("too_many_steps", f"the turn has {limit} messages, the most it may have", retryable=False)
        self._held = RecordMessage(
            turn_id=self.turn.turn_id,
            attempt=self.turn.attempt,
            message_seq=self._next_seq,
            role=role,
            content=content,
            tool_calls=tool_calls,
            tool_call_id=tool_call_id,
            name=name,
            truncated=truncated,
        )
        self._next_seq += 1

    async def _store_held(self) -> None:
        held = self.take_held()
        if held:
            await self._host.submit(self.turn.session_id, held)


def _cut(content: tuple[ContentPart, ...] | None, limit_bytes: int) -> tuple[tuple[ContentPart, ...] | None, bool]:
    """The content within the limit, and whether it was cut (at a whole character)."""
    text = content_text(content)
    if text is None:
        return content, False
    raw = text.encode()
    if len(raw) <= limit_bytes:
        return content, False
    return text_content(raw[:limit_bytes].decode(errors="ignore")), True
