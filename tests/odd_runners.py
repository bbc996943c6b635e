"""Runners as nobody should write them, and how each must end its own turn: a row for each kind.

``odd:NAME`` is a model name; a test makes such runners by :func:`factory`, in this process or as an installed plug-in.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from turnlog.runner import (
    AssistantMessage,
    ReasoningDelta,
    RunnerError,
    TextDelta,
    ToolResult,
    TurnInput,
    UsageReport,
)
from turnlog_schemas.parts import ContentPart, ToolCall, Usage, text_content
from turnlog_workers.runners.contained import _ABANDONED

PREFIX = "odd:"  #: of their model names
ANY_CODE = "any"
COMPLETED = ""  #: in place of a code
RETRIED = {"runner_error", "tool_call_too_large"}  #: codes of which another attempt is made
MIB = 1024 * 1024
BIG = 5 * MIB
PACE_S = 0.05
_LOOKS_AWAY = 100  #: cancellations that the stubborn ones do not hear
Play = Callable[[TurnInput], AsyncIterator[Any]]


class OddRunner:
    """Plays what it was given; everything else is as it should be."""

    def __init__(self, play: Callable[[TurnInput], Any], **attributes: Any) -> None:
        self.alive: Any = True
        self.play = play
        for name, value in attributes.items():
            setattr(self, name, value)

    def run(self, turn: TurnInput) -> Any:
        return self.play(turn)

    async def aclose(self) -> None:
        self.alive = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """A kind: what makes its runners, and the code its turn ends with."""

    name: str
    make: Callable[[str], Any]
    code: str
    text: str | None = None  #: of the last message, where the turn completes
    slow: bool = False  #: it ends by the turn's time, or takes seconds

    @property
    def attempts(self) -> int:
        return 3 if self.code in RETRIED else 1


def plays(*outputs: Any, then: Play | None = None) -> Callable[[str], OddRunner]:
    """Runners that yield these."""

    async def play(turn: TurnInput) -> AsyncIterator[Any]:
        for output in outputs:
            yield output
        if then is not None:
            async for output in then(turn):
                yield output

    return lambda model: OddRunner(play)


def runs(play: Callable[[TurnInput], Any], **attributes: Any) -> Callable[[str], OddRunner]:
    return lambda model: OddRunner(play, **attributes)


def call(**changes: Any) -> ToolCall:
    return ToolCall(**({"call_id": "c1", "name": "look", "arguments": "{}"} | changes))


def calls(*made: Any) -> AssistantMessage:
    return AssistantMessage(content=None, tool_calls=made)


def result(**changes: Any) -> ToolResult:
    return ToolResult(**({"call_id": "c1", "content": text_content("found"), "name": "look"} | changes))


def says(text: Any) -> AssistantMessage:
    return AssistantMessage(content=(ContentPart(text=text),))


def says_with(**fields: Any) -> AssistantMessage:
    return AssistantMessage(content=(ContentPart(text="fine", **fields),))


def reports(**changes: Any) -> UsageReport:
    return UsageReport(usage=Usage(**changes))


def raising(error: Callable[[], BaseException]) -> Callable[[str], OddRunner]:
    """Runners that raise in the middle of a text."""

    async def play(turn: TurnInput) -> AsyncIterator[Any]:
        yield TextDelta(text="and then ")
        raise error()

    return runs(play)


class Sly(str):
    """A text whose methods are not those of a text."""

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        raise SystemExit("encode")

    def isascii(self) -> bool:
        raise SystemExit("isascii")

    def __getitem__(self, key: Any) -> str:
        raise SystemExit("getitem")


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("str")


class SlyMessage(Exception):
    """One whose message is no plain text."""

    def __str__(self) -> str:
        return Sly("sly")


class NoPlace(Exception):
    """One that does not say where it was raised, nor of what."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


class Unreadable(TextDelta):
    @property
    def text(self) -> str:  # type: ignore[override]
        raise KeyboardInterrupt


def with_fields(cls: type, **fields: Any) -> Any:
    """A record that no constructor made."""
    made = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


async def endless_text(turn: TurnInput) -> AsyncIterator[Any]:
    while True:
        yield TextDelta(text="and so on, " * 100)


async def endless_reasoning(turn: TurnInput) -> AsyncIterator[Any]:
    while True:
        yield ReasoningDelta(text="perhaps, " * 100)


async def endless_nothing(turn: TurnInput) -> AsyncIterator[Any]:
    while True:
        yield TextDelta(text="")


async def endless_reports(turn: TurnInput) -> AsyncIterator[Any]:
    while True:
        yield reports(input_tokens=1)


async def endless_messages(turn: TurnInput) -> AsyncIterator[Any]:
    while True:
        yield says("again")


async def endless_steps(turn: TurnInput) -> AsyncIterator[Any]:
    while True:
        yield calls(call())
        yield result()


async def slow_text(turn: TurnInput) -> AsyncIterator[Any]:
    while True:
        yield TextDelta(text="tick ")
        await asyncio.sleep(PACE_S)


async def hangs(turn: TurnInput) -> AsyncIterator[Any]:
    yield TextDelta(text="Wait: ")
    await asyncio.Event().wait()


async def ignores_cancellation(turn: TurnInput) -> AsyncIterator[Any]:
    yield TextDelta(text="Never: ")
    for _ in range(_LOOKS_AWAY):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def goes_on_after_cancellation(turn: TurnInput) -> AsyncIterator[Any]:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(PACE_S)
        yield TextDelta(text="still here ")


async def closes_badly(turn: TurnInput) -> AsyncIterator[Any]:
    try:
        yield says("fine")
        yield None
    finally:
        raise SystemExit("closing")


async def never_closes(turn: TurnInput) -> AsyncIterator[Any]:
    try:
        yield None
    finally:
        await asyncio.Event().wait()


async def cancels_itself(turn: TurnInput) -> AsyncIterator[Any]:
    yield TextDelta(text="Stop. ")
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def writes_into_its_turn(turn: TurnInput) -> AsyncIterator[Any]:
    for name in ("turn_messages", "assembled", "user_content", "instructions", "spent", "tools"):
        object.__setattr__(turn, name, 5)
    raise ValueError("my turn")
    yield


async def changes_what_it_said(turn: TurnInput) -> AsyncIterator[Any]:
    part = ContentPart(text="fine")
    yield AssistantMessage(content=(part,))
    object.__setattr__(part, "text", 5)


async def well(turn: TurnInput) -> AsyncIterator[Any]:
    yield says("fine")


def raises_at_once(turn: TurnInput) -> Any:
    raise LookupError("at once")


async def no_generator(turn: TurnInput) -> Any:
    return says("fine")


class NoNext:
    def __aiter__(self) -> Any:
        return self


class NextIs:
    """An iterator whose ``__anext__`` is a function."""

    def __init__(self, step: Callable[[], Any]) -> None:
        self.step = step

    def __aiter__(self) -> Any:
        return self

    def __anext__(self) -> Any:
        return self.step()


def exits() -> Any:
    raise SystemExit(3)


class Alive:
    """A runner whose ``alive`` raises, or is no bool."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    @property
    def alive(self) -> Any:
        return self.answer()

    def run(self, turn: TurnInput) -> Any:
        return well(turn)

    async def aclose(self) -> None:
        raise asyncio.CancelledError


async def hanging_close() -> None:
    for _ in range(_LOOKS_AWAY):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def closing_exits() -> None:
    raise SystemExit("aclose")


def nothing(model: str) -> None:
    return None


async def async_factory(model: str) -> Any:
    return OddRunner(well)


def failing_factory(model: str) -> Any:
    raise KeyError(model)


def exiting_factory(model: str) -> Any:
    raise SystemExit(1)


def cancels_current_task() -> Any:
    task = asyncio.current_task()
    if task is not None:
        task.cancel()
    return True


def cancelling_factory(model: str) -> Any:
    cancels_current_task()
    return OddRunner(well)


def generator_exit_factory(model: str) -> Any:
    raise GeneratorExit


class Liar(Exception):
    @property
    def __class__(self) -> Any:
        raise SystemExit("class")


class ExitingCode(RunnerError):
    @property
    def code(self) -> str:  # type: ignore[override]
        raise SystemExit("code")

    @code.setter
    def code(self, value: str) -> None:
        pass


def strange_error() -> RunnerError:
    error = RunnerError("x", "y")
    fields: dict[str, Any] = {"code": "no code\ud800" * 100, "reason": "why\n\ud83d" * 100_000, "retryable": "maybe"}
    vars(error).update(fields)
    return error


def bare_error() -> RunnerError:
    error: RunnerError = RunnerError.__new__(RunnerError)
    return error


INVALID = "invalid_output"
_KINDS: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    # what is no output at all
    ("yields None", plays(None), INVALID),
    ("yields a str", plays("Hello"), INVALID),
    ("yields a dict", plays({"type": "text", "text": "Hello"}), INVALID),
    ("yields a class", plays(TextDelta), INVALID),
    ("yields an exception", plays(ValueError("Hello")), INVALID),
    ("yields a record without fields", plays(with_fields(AssistantMessage)), INVALID),
    ("yields a record that cannot be read", plays(with_fields(Unreadable)), INVALID),
    # text
    ("text None", plays(TextDelta(text=None)), INVALID),  # type: ignore[arg-type]
    ("text bytes", plays(TextDelta(text=b"Hello")), INVALID),  # type: ignore[arg-type]
    ("text int", plays(TextDelta(text=5)), INVALID),  # type: ignore[arg-type]
    ("reasoning None", plays(ReasoningDelta(text=None)), INVALID),  # type: ignore[arg-type]
    ("5 MB in a delta", plays(TextDelta(text="x" * BIG)), "text_too_long"),
    ("5 MB in deltas", runs(endless_text), "text_too_long"),
    ("5 MB in a message", plays(says("é" * (BIG // 2))), "text_too_long"),
    ("reasoning without end", runs(endless_reasoning), "reasoning_too_long"),
    # messages
    ("content str", plays(AssistantMessage(content="Hello")), INVALID),  # type: ignore[arg-type]
    ("content generator", plays(AssistantMessage(content=(p for p in ()))), INVALID),  # type: ignore[arg-type]
    ("content int", plays(AssistantMessage(content=5)), INVALID),  # type: ignore[arg-type]
    ("a part that is a dict", plays(AssistantMessage(content=({"text": "x"},))), INVALID),  # type: ignore[arg-type]
    ("a part whose text is an int", plays(says(5)), INVALID),
    ("a part that is a file", plays(AssistantMessage(content=(ContentPart(kind="file", uri="f"),))), INVALID),
    ("a text that has a media type", plays(says_with(media_type=5)), INVALID),
    ("a text of so many bytes", plays(says_with(bytes="many")), INVALID),
    ("a text with a hash", plays(calls(call()), result(content=says_with(sha256="\ud800").content)), INVALID),
    ("2000 parts", plays(AssistantMessage(content=text_content("x") * 2000)), INVALID),
    ("messages without end", runs(endless_messages), "too_many_steps"),
    ("steps without end", runs(endless_steps), "too_many_steps"),
    # tool calls
    ("calls None", plays(AssistantMessage(content=None, tool_calls=None)), INVALID),  # type: ignore[arg-type]
    ("calls dict", plays(AssistantMessage(content=None, tool_calls={"c1": call()})), INVALID),  # type: ignore[arg-type]
    ("a call that is a dict", plays(calls({"id": "c1"})), INVALID),
    ("call id None", plays(calls(call(call_id=None))), INVALID),
    ("call id int", plays(calls(call(call_id=5))), INVALID),
    ("call id empty", plays(calls(call(call_id=""))), INVALID),
    ("call id long", plays(calls(call(call_id="c" * 100_000))), INVALID),
    ("name None", plays(calls(call(name=None))), INVALID),
    ("name int", plays(calls(call(name=5))), INVALID),
    ("name empty", plays(calls(call(name=""))), INVALID),
    ("name long", plays(calls(call(name="n" * 100_000))), INVALID),
    ("arguments None", plays(calls(call(arguments=None))), INVALID),
    ("arguments dict", plays(calls(call(arguments={}))), INVALID),
    ("arguments bytes", plays(calls(call(arguments=b"{}"))), INVALID),
    ("arguments of 5 MB", plays(calls(call(arguments="x" * BIG))), "tool_call_too_large"),
    ("idempotent str", plays(calls(call(idempotent="yes"))), INVALID),
    ("key int", plays(calls(call(idempotency_key=5))), INVALID),
    ("8,000 calls", plays(calls(*(call(call_id=f"c{n}") for n in range(8000)))), "too_many_tool_calls"),
    # results
    ("a result for no call", plays(result()), "unexpected_tool_result"),
    ("a result for another call", plays(calls(call()), result(call_id="c2")), "unexpected_tool_result"),
    ("a result twice", plays(calls(call()), result(), result()), "unexpected_tool_result"),
    ("a result whose id is None", plays(calls(call()), result(call_id=None)), INVALID),
    ("a result whose content is a str", plays(calls(call()), result(content="found")), INVALID),
    ("a result whose name is an int", plays(calls(call()), result(name=5)), INVALID),
    ("a message while calls are open", plays(calls(call()), says("fine")), "open_tool_calls"),
    # usage
    ("usage None", plays(UsageReport(usage=None)), INVALID),  # type: ignore[arg-type]
    ("usage dict", plays(UsageReport(usage={"input_tokens": 1})), INVALID),  # type: ignore[arg-type]
    ("usage float", plays(reports(input_tokens=1.0)), INVALID),
    ("usage NaN", plays(reports(output_tokens=float("nan"))), INVALID),
    ("usage negative", plays(reports(model_calls=-1)), INVALID),
    ("usage bool", plays(reports(last_input_tokens=True)), INVALID),
    ("usage str", plays(reports(input_tokens="7")), INVALID),
    ("usage huge", plays(reports(input_tokens=10**30)), INVALID),
    # what is raised
    ("run raises", runs(raises_at_once), "runner_error"),
    ("raises ValueError", raising(lambda: ValueError("no")), "runner_error"),
    ("raises with half a character", raising(lambda: ValueError("\ud83d")), "runner_error"),
    ("raises what cannot be shown", raising(Mute), "runner_error"),
    ("raises what has a sly message", raising(SlyMessage), "runner_error"),
    ("raises what says nothing of itself", raising(NoPlace), "runner_error"),
    ("raises after it wrote into its turn", runs(writes_into_its_turn), "runner_error"),
    ("raises a RunnerError with odd fields", raising(strange_error), "runner_error"),
    ("raises a RunnerError without fields", raising(bare_error), "runner_error"),
    ("raises CancelledError", raising(asyncio.CancelledError), "runner_error"),
    ("raises TimeoutError", raising(TimeoutError), "runner_error"),
    ("raises SystemExit", raising(lambda: SystemExit(0)), "runner_error"),
    ("raises KeyboardInterrupt", raising(KeyboardInterrupt), "runner_error"),
    ("raises GeneratorExit", raising(GeneratorExit), "runner_error"),
    ("raises BaseException", raising(BaseException), "runner_error"),
    ("raises StopAsyncIteration", raising(StopAsyncIteration), "runner_error"),
    ("raises StopIteration", raising(StopIteration), "runner_error"),
    ("raises RecursionError", raising(RecursionError), "runner_error"),
    ("raises MemoryError", raising(MemoryError), "runner_error"),
    ("raises a group", raising(lambda: BaseExceptionGroup("two", [SystemExit(), ValueError()])), "runner_error"),
    ("cancels itself", runs(cancels_itself), "runner_error"),
    ("raises while it is closed", runs(closes_badly), INVALID),
    # what run() returns
    ("run is a coroutine", runs(no_generator), INVALID),
    ("run returns None", runs(lambda turn: None), INVALID),
    ("run returns a list", runs(lambda turn: [says("fine")]), INVALID),
    ("run returns a generator", runs(lambda turn: (output for output in ())), INVALID),
    ("run returns what has no next", runs(lambda turn: NoNext()), INVALID),
    ("next returns no awaitable", runs(lambda turn: NextIs(lambda: says("fine"))), "runner_error"),
    ("next exits", runs(lambda turn: NextIs(exits)), "runner_error"),
    # factories
    ("the factory returns None", nothing, "broken_provider"),
    ("the factory is a coroutine", async_factory, "broken_provider"),
    ("the factory returns what cannot run", runs(well, run=None), "broken_provider"),
    ("the factory returns what cannot be closed", runs(well, aclose=None), "broken_provider"),
    ("the factory raises", failing_factory, "runner_error"),
    ("the factory exits", exiting_factory, "runner_error"),
    ("the factory cancels the task that calls it", cancelling_factory, "runner_error"),
    ("the factory raises GeneratorExit", generator_exit_factory, "runner_error"),
    # what only looks like something else
    ("raises what claims to be something, and exits", raising(Liar), "runner_error"),
    ("raises a RunnerError whose code exits", raising(lambda: ExitingCode("x", "y")), "runner_error"),
    ("raises a RunnerError whose code is sly", raising(lambda: RunnerError(Sly("busy"), "x", retryable=False)), "busy"),
    ("a piece without its field", plays(TextDelta.__new__(TextDelta)), INVALID),
)
_SLOW: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("empty pieces without end", runs(endless_nothing), "too_many_outputs"),
    ("reports without end", runs(endless_reports), "too_many_outputs"),
    ("pieces without end", runs(slow_text), "turn_timeout"),
    ("hangs", runs(hangs), "turn_timeout"),
    ("ignores its cancellation", runs(ignores_cancellation), "turn_timeout"),
    ("goes on after its cancellation", runs(goes_on_after_cancellation), "turn_timeout"),
    ("hangs while a turn is closed", runs(never_closes), INVALID),
    ("hangs in aclose", runs(raises_at_once, aclose=hanging_close), "runner_error"),
)
#: What is odd, and harms nobody: the turn completes with this text.
_HARMLESS: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("half an emoji each", plays(TextDelta(text="\ud83d"), TextDelta(text="\ude00"), says("\ud83d\ude00")), "😀"),
    ("half an emoji", plays(TextDelta(text="a\ud83d"), says("a\ud83d")), "a\ufffd"),
    ("the wrong half", plays(TextDelta(text="\ude00b"), says("\ude00b")), "\ufffdb"),
    (
        "an emoji cut between two parts",
        plays(AssistantMessage(content=(ContentPart(text="\ud83d"), ContentPart(text="\ude00")))),
        "😀",
    ),
    ("half characters in a call", plays(calls(call(arguments='{"a": "\ud83d"}')), result(), says("fine")), "fine"),
    ("half characters in a result", plays(calls(call()), result(content=says("\ud800").content), says("ok")), "ok"),
    ("5 MB in a result", plays(calls(call()), result(content=text_content("é" * BIG)), says("ok")), "ok"),
    ("a text of a subclass", plays(TextDelta(text=Sly("fine")), says(Sly("fine"))), "fine"),
    ("a part that is changed after it was yielded", runs(changes_what_it_said), "fine"),
    ("a list for a tuple", plays(AssistantMessage(content=[ContentPart(text="ok")])), "ok"),  # type: ignore[arg-type]
    ("a part without text", plays(AssistantMessage(content=(ContentPart(text=None),))), ""),
    ("nothing at all", plays(), ""),
    ("an empty message", plays(says("")), ""),
    ("fewer tokens than before", plays(reports(input_tokens=9), reports(input_tokens=3), says("ok")), "ok"),
    ("alive raises", lambda model: Alive(exits), "fine"),
    ("alive cancels whoever asks", lambda model: Alive(cancels_current_task), "fine"),
    ("alive is a method", lambda model: Alive(lambda: well), "fine"),
    ("aclose exits", runs(well, aclose=closing_exits), "fine"),
    ("aclose is not async", runs(well, aclose=lambda: None), "fine"),
)
ODD: dict[str, Odd] = {
    **{name: Odd(name=name, make=make, code=code) for name, make, code in _KINDS},
    **{name: Odd(name=name, make=make, code=code, slow=True) for name, make, code in _SLOW},
    **{name: Odd(name=name, make=make, code=COMPLETED, text=text) for name, make, text in _HARMLESS},
}
CODES = sorted({odd.code for odd in ODD.values()} - {COMPLETED})


FUZZ = "fuzz "  #: begins the name of a kind that is made of chance: ``fuzz SEED``
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 5, 10**30, 1.5, float("nan"), b"x", "", "x", "\ud83d", "\ude00é", "🙂" * 50, "c1", "c1"),
    *((), [], {}, ("x",), object(), ContentPart, text_content("some text"), text_content("some text")),
    *((ContentPart(text=5),), [ContentPart(text="a\udc00")], call(), (call(),), (call(), call()), Usage()),
    *(Usage(input_tokens=3, model_calls=1), "y" * 100_000, Sly("sly"), with_fields(Unreadable)),
)
_FIELDS: dict[type, tuple[str, ...]] = {
    TextDelta: ("text",),
    ReasoningDelta: ("text",),
    AssistantMessage: ("content", "tool_calls"),
    ToolResult: ("call_id", "content", "name"),
    UsageReport: ("usage",),
    ToolCall: ("call_id", "name", "arguments", "idempotent", "idempotency_key"),
    Usage: ("input_tokens", "output_tokens", "model_calls", "last_input_tokens"),
    ContentPart: ("kind", "text", "uri", "media_type", "sha256", "bytes"),
}
_GOOD: tuple[Callable[[], Any], ...] = (
    lambda: TextDelta(text="some "),
    lambda: ReasoningDelta(text="thought "),
    lambda: says("some text"),
    lambda: calls(call()),
    result,
    lambda: reports(input_tokens=1, output_tokens=1, model_calls=1, last_input_tokens=1),
)
_ERRORS: tuple[Callable[[], BaseException], ...] = (
    *(
        ValueError,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        asyncio.CancelledError,
        TimeoutError,
        StopAsyncIteration,
    ),
    *(Mute, strange_error, bare_error, lambda: RunnerError("overloaded", "later", retryable=False)),
)


def some_output(rng: random.Random) -> Any:
    """An output of chance: right, or wrong in a field or two, or none at all."""
    kind = rng.random()
    if kind < 0.8:
        return rng.choice(_GOOD)()
    if kind < 0.83:
        return rng.choice(_VALUES)
    return _some_record(rng, rng.choice(tuple(_FIELDS)[:5]))


def _some_record(rng: random.Random, cls: type) -> Any:
    fields: dict[str, Any] = {name: rng.choice(_VALUES) for name in _FIELDS[cls]}
    if cls is AssistantMessage and rng.random() < 0.5:
        fields = {"content": None, "tool_calls": (_some_record(rng, ToolCall),)}
    if cls is UsageReport and rng.random() < 0.7:
        fields = {"usage": _some_record(rng, Usage)}
    return with_fields(cls, **fields)


def fuzz_runner(seed: str) -> OddRunner:
    """A runner of chance: in each attempt it yields a few outputs, and may raise."""

    async def play(turn: TurnInput) -> AsyncIterator[Any]:
        rng = random.Random(f"{seed} {turn.attempt}")
        for _ in range(rng.randint(1, 30)):
            YIELDED[0] += 1
            yield some_output(rng)
        if rng.random() < 0.3:
            raise rng.choice(_ERRORS)()

    return OddRunner(play)


YIELDED = [0]  #: outputs of chance in this process


def odd_of(model: str) -> Odd:
    """The kind that a model name ``odd:NAME`` means."""
    name = model.removeprefix(PREFIX)
    if name.startswith(FUZZ):
        return Odd(name=name, make=lambda model: fuzz_runner(name), code=ANY_CODE)
    return ODD[name]


def factory(model: str) -> Any:
    """A runner for ``odd:NAME``."""
    return odd_of(model).make(model)


async def end_the_stubborn() -> None:
    """End what was left alone, for a loop that is to be closed: cancelled as often as the worst of them looks away."""
    for task in list(_ABANDONED):
        for _ in range(_LOOKS_AWAY + 1):
            task.cancel()
            await asyncio.sleep(0)
            if task.done():
                break
