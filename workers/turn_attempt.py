"""One attempt at a turn: what the outputs of its runner become.

    runner output      becomes
    text, reasoning -> a frame at once, then at most one per interval (never stored)
    message         -> RecordMessage, confirmed; then frames; only then is the runner asked for more
    end, error      -> CompleteTurn or FailAttempt (``workers.actors``)

A message without tool calls waits for the next output: if the turn ends there, both go into one append.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from schemas import frames as fr
from schemas.parts import ContentPart, ToolCall, Usage, added, content_text, text_content
from streams.session_commands import FailAttempt, RecordMessage, SessionCommand
from streams.turn import without_result
from workers.crash_points import crash_point
from workers.history_compactor import CompactionHost
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


class TurnHost(CompactionHost, Protocol):
    """What an actor needs from its shard."""

    def turn_input(self, session_id: str, turn_id: str) -> TurnInput | None:
        """What the runner of the running turn gets, as the session stands now; ``None``: the turn is over."""
        ...

    def failed(self, session_id: str, outcome: SessionCommand) -> None:
        """Record this outcome of work that died; nobody waits for it."""
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
    summary_timeout_s: float = 120.0


class DeltaBuffer:
    """The first piece goes out at once, then at most one frame per interval; pieces in between are joined.

    It knows nothing of its attempt: in a cycle, both would keep their history until the collector comes by.
    """

    def __init__(self, interval_s: float, host: TurnHost) -> None:
        self._interval_s = interval_s
        self._host = host
        self._turn: TurnInput | None = None
        self._text = ""
        self._reasoning = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0

    def begin(self, turn: TurnInput) -> None:
        """What comes from here on is said in this turn."""
        self._turn = turn

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
        if self._text and self._turn is not None:
            text, self._text = self._text, ""
            self._next_at = asyncio.get_running_loop().time() + self._interval_s
            frame = fr.ReasoningDelta(text=text) if self._reasoning else fr.TextDelta(text=text)
            self._host.send_delta(self._turn, frame)

    def close(self) -> None:
        """Drop what waits: its turn goes on elsewhere."""
        self._text = ""
        if self._timer is not None:
            self._timer.cancel()


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
        self.partial_text = ""
        self.ended = False  #: the log has confirmed its end
        self._session_id = session_id
        self._next_seq = next_message_seq
        self._last_seq: int | None = None
        self._open_calls: tuple[ToolCall, ...] = ()
        self._earlier = Usage()  # of the runners before a history compaction
        self.usage = Usage()
        self._host = host
        self._limits = limits
        self._held: RecordMessage | None = None
        self.deltas = DeltaBuffer(limits.delta_interval_s, host)

    def failure(self, code: str, reason: str, retryable: bool, seconds: float) -> FailAttempt:
        """The command that ends this attempt."""
        self._held = None  # the failed attempt's last words are not part of the history
        self.deltas.flush()
        return FailAttempt(
            turn_id=self.turn_id,
            attempt=self.attempt,
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

    async def consume(self, runner: Runner, turn: TurnInput, due: Callable[[Usage], bool]) -> bool:
        """Ask for outputs until the runner has no more. False: between two tool steps, ``due`` said to stop."""
        self._begin(turn)
        await self._host.confirm_ownership()
        outputs = runner.run(turn)
        try:
            async for output in outputs:
                await self._take(output)
                if isinstance(output, ToolResult) and not self._open_calls and due(self.usage):
                    return False
        finally:
            close = getattr(outputs, "aclose", None)  # a plug-in may return an iterator that cannot be closed
            if close is not None:
                await close()
        self.deltas.flush()
        return True

    def _begin(self, turn: TurnInput) -> None:
        """Where the runner goes on, and how much it may add."""
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
                self.usage = added(self._earlier, output.usage)
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
        self._open_calls = output.tool_calls
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
        self._open_calls = without_result(self._open_calls, output.call_id)
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
        )
        self._next_seq += 1

    async def _store_held(self) -> None:
        held = self.take_held()
        if held:
            await self._host.submit(self._session_id, held)


def _cut(content: tuple[ContentPart, ...] | None, limit_bytes: int) -> tuple[tuple[ContentPart, ...] | None, bool]:
    """The content within the limit, and whether it was cut (at a whole character)."""
    text = content_text(content)
    if text is None:
        return content, False
    raw = text.encode()
    if len(raw) <= limit_bytes:
        return content, False
    return text_content(raw[:limit_bytes].decode(errors="ignore")), True
