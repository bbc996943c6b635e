"""``script:SEED[?option=value&…]``: a turn made of chance that is no chance. Offline and deterministic.

The plan of a turn (tool calls with their results, then a text) is a pure function of the seed (any string), the turn's
number and the options, so all attempts of a turn agree. Its tools run nothing but time, and write down that they ran:
see :mod:`turnlog_workers.runners.journal`. Options and their bounds: :class:`ScriptOptions`.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from pydantic import Field

from turnlog_schemas.parts import ClientTool, ToolCall, text_content
from turnlog_streams.turn import without_result
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.runners.base import (
    AssistantMessage,
    ReasoningDelta,
    Runner,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolDefinition,
    ToolResult,
    TurnInput,
    UsageReport,
)
from turnlog_workers.runners.journal import ToolJournal
from turnlog_workers.runners.options import Options, after_provider, bad_model_name, read_options
from turnlog_workers.runners.playback import (
    OfflineRunner,
    Pace,
    Step,
    estimated_usage,
    resume_position,
    text_pieces,
    words,
)

_POINT = r"start|text|tool:[1-9][0-9]{0,3}"
_WORDS = (
    "the",
    "log",
    "keeps",
    "every",
    "answer,",
    "naïve",
    "or",
    "not;",
    "日本",
    "\n-",
    "turn",
    "epoch.",
    "42",
    "🙂",
    "a",
)
_TOOLS = ("look_up", "book", "cancel", "add_up")


class ScriptOptions(Options):
    """What a model name ``script:SEED?…`` may say. Where nothing is said, the seed decides or it does not happen."""

    words: int | None = Field(default=None, ge=0, le=30_000)  #: of the final text; absent: 5 to 40, by seed
    tools: int | None = Field(default=None, ge=0, le=1_000)  #: tool calls in a turn; absent: 0 to 2, by seed
    calls_per_message: int = Field(default=1, ge=1, le=100)  #: they run one after the other
    idempotent: bool = False  #: may a call be started again when its outcome is unknown?
    reasoning: bool = False  #: reasoning deltas before the final text
    delta_ms: int = Field(default=0, ge=0, le=60_000)  #: before each delta
    tool_ms: int = Field(default=0, ge=0, le=3_600_000)  #: how long a tool runs
    fail_attempts: int = Field(default=0, ge=0, le=1_000_000)  #: the first so many attempts of a turn fail
    fail_at: str = Field(default="text", pattern=f"^(?:{_POINT})$")  #: before anything, the N-th tool, or mid-text
    fatal: bool = False  #: the failure is one that no retry helps; every attempt fails
    hang_s: float = Field(default=0, ge=0, le=86_400)  #: how long a hanging attempt stands still
    hang_at: str = Field(default="text", pattern=f"^(?:{_POINT})$")
    hang_attempts: int = Field(default=1, ge=0, le=1_000_000)  #: the first so many attempts hang
    client_calls: int = Field(default=0, ge=0, le=100)  #: of tools that the request brings, instead of the final text
    client_mixed: bool = False  #: in one message with the turn's last call of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole turn, as every attempt would play it."""

    steps: tuple[Step, ...]
    reasoning: str


def plan_turn(seed: str, turn_number: int, options: ScriptOptions) -> Plan:
    """The turn that a seed has at a number: pure, the same in every process."""
    chance = random.Random(f"{seed}#{turn_number}")  # a string seeds by its SHA-512: no hash randomisation
    # Both are drawn whatever the options say, so that one option does not change what another one leaves to the seed.
    drawn_tools, drawn_words = chance.randrange(3), chance.randrange(5, 41)
    tool_count = drawn_tools if options.tools is None else options.tools
    word_count = drawn_words if options.words is None else options.words
    steps: list[Step] = []
    for first in range(1, tool_count + 1, options.calls_per_message):
        numbers = range(first, min(first + options.calls_per_message, tool_count + 1))
        calls = tuple(_call(chance, turn_number, number, options) for number in numbers)
        content = text_content(_text(chance, 4)) if chance.random() < 0.3 else None
        steps.append(AssistantMessage(content=content, tool_calls=calls))
        for call in calls:
            result = text_content(f"{call.name} found {chance.randrange(1_000_000)}")
            steps.append(ToolResult(call_id=call.call_id, content=result, name=call.name))
    steps.append(AssistantMessage(content=text_content(_text(chance, word_count))))
    return Plan(steps=tuple(steps), reasoning=_text(chance, 6) if options.reasoning else "")


def with_client_calls(plan: Plan, tools: Sequence[ClientTool | ToolDefinition], options: ScriptOptions) -> Plan:
    """The plan of a turn whose request brings these tools: it ends in calls of them."""
    if not (options.client_calls and tools):
        return plan
    calls = tuple(
        ToolCall(
            call_id=f"client_{number}",  # it comes again in each turn, as models' ids do
            name=tools[(number - 1) % len(tools)].name,
            arguments=f'{{"number":{number}}}',
        )
        for number in range(1, options.client_calls + 1)
    )
    steps = plan.steps[:-1]
    last = max((at for at, step in enumerate(steps) if isinstance(step, AssistantMessage)), default=None)
    if not options.client_mixed or last is None:
        return replace(plan, steps=(*steps, AssistantMessage(content=None, tool_calls=calls)))
    mixed = steps[last]
    assert isinstance(mixed, AssistantMessage)
    return replace(
        plan, steps=(*steps[:last], replace(mixed, tool_calls=(*mixed.tool_calls, *calls)), *steps[last + 1 :])
    )


def _call(chance: random.Random, turn_number: int, number: int, options: ScriptOptions) -> ToolCall:
    name = _TOOLS[chance.randrange(len(_TOOLS))]
    arguments = f'{{"step":{number},  "value": {chance.randrange(1_000_000)}}}'  # not canonical, like a model's
    return ToolCall(
        call_id=f"call_{turn_number}_{number}", name=name, arguments=arguments, idempotent=options.idempotent
    )


def _text(chance: random.Random, count: int) -> str:
    return " ".join(_WORDS[chance.randrange(len(_WORDS))] for _ in range(count))


def with_keys(turn_id: str, position: int, message: AssistantMessage) -> AssistantMessage:
    """The message with the idempotency keys of its calls: what they are stored under, known before the tool starts.

    A position in a turn is stored once, so no later attempt uses the key for another call.
    """
    calls = (
        replace(call, idempotency_key=f"{turn_id}:{position}:{index}") for index, call in enumerate(message.tool_calls)
    )
    return replace(message, tool_calls=tuple(calls))


def open_calls_of(turn: TurnInput, rest: Sequence[Step]) -> tuple[ToolCall, ...]:
    """The stored calls that wait for a result, in order: the ones that the rest of the plan starts with.

    Raises :class:`RunnerError` if one of them must not be started again; the session closes those before it runs us.
    """
    open_calls: tuple[ToolCall, ...] = ()
    for message in turn.turn_messages:
        if message.role == "assistant":
            open_calls = message.tool_calls
        else:
            open_calls = without_result(open_calls, message.tool_call_id)
    open_calls = tuple(call for call in open_calls if not call.client)
    where = f"session {turn.session_id}, turn {turn.turn_number}"
    expected = sum(1 for _ in takewhile(lambda step: isinstance(step, ToolResult), rest))
    if len(open_calls) != expected:
        reason = f"{where}: {len(open_calls)} stored calls have no result, the plan has {expected}"
        raise RunnerError("resume_mismatch", reason, retryable=False)
    for call in open_calls:
        if not call.idempotent:
            reason = f"{where}: call {call.call_id} is stored without a result and may not be started again"
            raise RunnerError("open_call", reason, retryable=False)
    return open_calls


class ScriptRunner(OfflineRunner):
    """Plays the plan of each turn from where the last attempt came to."""

    def __init__(self, seed: str, options: ScriptOptions, journal: ToolJournal) -> None:
        super().__init__()
        self._seed = seed
        self._options = options
        self._journal = journal

    async def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        """The rest of the turn's plan, its usage last. Raises :class:`RunnerError` where the options say so."""
        self._check_alive()
        plan = plan_turn(self._seed, turn.turn_number, self._options)
        if turn.user_content:  # else it begins with the outputs of such calls
            plan = with_client_calls(plan, turn.client_tools, self._options)
        start = resume_position(turn, plan.steps)
        open_calls = open_calls_of(turn, plan.steps[start:])
        await self._reach("start", turn)
        for position, step in enumerate(plan.steps[start:], start=start):
            if isinstance(step, ToolResult):
                yield await self._run_tool(turn, open_calls[0], step, tool_number(plan.steps, position))
                open_calls = open_calls[1:]
                continue
            pace = Pace(self._options.delta_ms / 1000)  # from here on: what a tool took is not caught up with
            is_last = position == len(plan.steps) - 1
            if is_last:
                for piece in words(plan.reasoning):
                    await pace.tick()
                    yield ReasoningDelta(text=piece)
            pieces = text_pieces(step.content)
            for index, piece in enumerate(pieces):
                if is_last and index == len(pieces) // 2:
                    await self._reach("text", turn)
                await pace.tick()
                yield TextDelta(text=piece)
            if is_last and not pieces:
                await self._reach("text", turn)
            message = with_keys(turn.turn_id, position, step)
            if any(call.call_id.startswith("client_") for call in message.tool_calls):
                yield UsageReport(usage=estimated_usage(turn, plan.steps))  # once it is stored nobody asks for more
            open_calls = message.tool_calls
            yield message
        yield UsageReport(usage=estimated_usage(turn, plan.steps))

    async def _run_tool(self, turn: TurnInput, call: ToolCall, result: ToolResult, number: int) -> ToolResult:
        """Run the tool of a call that is stored: under the stored id and key, also if an older attempt stored them."""
        await self._reach(f"tool:{number}", turn)
        self._journal.write("start", turn, call)
        crash_point("script.after_tool_start")
        if self._options.tool_ms:
            await asyncio.sleep(self._options.tool_ms / 1000)
        self._journal.write("end", turn, call)
        crash_point("script.after_tool_end")
        return replace(result, call_id=call.call_id)

    async def _reach(self, point: str, turn: TurnInput) -> None:
        """Hang or fail here, if the options say so. A point that lies in stored messages cannot be reached again."""
        options = self._options
        if point == options.hang_at and turn.attempt <= options.hang_attempts and options.hang_s:
            await asyncio.sleep(options.hang_s)
        if (point in (options.fail_at, "text")) and (options.fatal or turn.attempt <= options.fail_attempts):
            reason = f"attempt {turn.attempt} of turn {turn.turn_number} fails at {point!r}, as its model name asks"
            raise RunnerError("scripted_failure", reason, retryable=not options.fatal)


def tool_number(steps: Sequence[Step], position: int) -> int:
    """Which tool of the turn, from 1, the result at a position belongs to."""
    return sum(isinstance(step, ToolResult) for step in steps[: position + 1])


def factory(model: str) -> Runner:
    """A runner for ``script:SEED`` and its options."""
    seed, _, query = after_provider(model).partition("?")
    options = read_options(model, query, ScriptOptions)
    for name, point in (("fail_at", options.fail_at), ("hang_at", options.hang_at)):
        if point.startswith("tool:") and int(point.removeprefix("tool:")) > (options.tools or 0):
            raise bad_model_name(model, f"{name}={point} needs tools={point.removeprefix('tool:')} or more")
    return ScriptRunner(seed, options, ToolJournal.from_environment())
