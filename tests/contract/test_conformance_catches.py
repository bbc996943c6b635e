"""The suite for runners finds what it is there for: each of these runners breaks one rule, and one test says which."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from turnlog.runner import (
    AssistantMessage,
    Runner,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolCall,
    ToolResult,
    TurnInput,
    Usage,
    UsageReport,
    content_text,
    text_content,
)
from turnlog.testing import RunnerConformance

CALL = ToolCall(call_id="c1", name="look", arguments="{}")
USAGE = UsageReport(usage=Usage(input_tokens=9, output_tokens=3, model_calls=2, last_input_tokens=4))
Play = Callable[[TurnInput], AsyncIterator[RunnerOutput]]


async def good(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    """A call, its result, a text; from wherever an earlier attempt came to."""
    step = len(turn.turn_messages)
    if step == 0:
        yield AssistantMessage(content=None, tool_calls=(CALL,))
    if step <= 1:
        await asyncio.sleep(0)
        yield ToolResult(call_id="c1", content=text_content("found"), name="look")
    if step <= 2:
        yield TextDelta(text="Do")
        await asyncio.sleep(0)
        yield TextDelta(text="ne.")
        yield AssistantMessage(content=text_content("Done."))
    yield USAGE


class PlayedRunner:
    def __init__(self, play: Play) -> None:
        self.alive = True
        self._play = play

    def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        return self._play(turn)

    async def aclose(self) -> None:
        self.alive = False


def suite(play: Play, **attributes: Any) -> RunnerConformance:
    """The suite for a runner that plays this."""

    def make_runner(self: RunnerConformance, model: str) -> Runner:
        if model != "played:":
            raise RunnerError("bad_model_name", "nothing may follow played:", retryable=False)
        return PlayedRunner(play)

    fields = {"model": "played:", "make_runner": make_runner, "timeout_s": 20.0, "deterministic": True} | attributes
    return type("Suite", (RunnerConformance,), fields)()


def names_of(found: RunnerConformance) -> list[str]:
    return [name for name in dir(found) if name.startswith("test_")]


async def starts_again(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield TextDelta(text="Done.")
    yield AssistantMessage(content=text_content("Done."))
    yield USAGE


async def other_text(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    if not turn.turn_messages:
        yield TextDelta(text="Do")
        yield AssistantMessage(content=text_content("Done."))
    yield USAGE


async def no_result(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield AssistantMessage(content=None, tool_calls=(CALL,))
    yield USAGE


async def speaks_after_the_end(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield AssistantMessage(content=text_content("Done."))
    yield TextDelta(text="And another thing")


async def wrong_type(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield "Done."  # type: ignore[misc]


async def raises(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    if "\x00" in (content_text(turn.user_content) or ""):
        raise ValueError("embedded null byte")
    async for output in good(turn):
        yield output


async def says_less_each_time(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    yield USAGE
    yield UsageReport(usage=Usage(input_tokens=1, output_tokens=1, model_calls=2, last_input_tokens=1))


async def says_nothing_of_its_cost(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    async for output in good(turn):
        if not isinstance(output, UsageReport):
            yield output


async def swallows(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    async for output in good(turn):
        yield output


async def turns_it_into_something_else(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    try:
        async for output in good(turn):
            yield output
    except asyncio.CancelledError:
        raise RunnerError("cancelled", "somebody cancelled") from None


async def leaves_a_task(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    task = asyncio.ensure_future(asyncio.Event().wait())
    KEPT.append(task)
    async for output in good(turn):
        yield output
    task.cancel()


async def ignores_its_end(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    try:
        async for output in good(turn):
            yield output
    finally:
        yield USAGE


async def bad_failure(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    raise RunnerError("no code at all!", "")
    yield


async def tells_its_key(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    raise RunnerError("authentication", "the key my-key is wrong")
    yield


async def answers_where_it_should_fail(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    async for output in good(turn):
        yield output


KEPT: list[asyncio.Future[Any]] = []
BROKEN: list[tuple[Play, str, dict[str, Any]]] = [
    (starts_again, "test_resumed_at_every_message", {}),
    (other_text, "test_pieces_are_the_text_of_their_message", {}),
    (no_result, "test_streaming_order", {}),
    (speaks_after_the_end, "test_streaming_order", {}),
    (wrong_type, "test_streaming_order", {}),
    (raises, "test_odd_input", {}),
    (starts_again, "test_tools_of_the_client", {"client_calls": "played:"}),
    (no_result, "test_tools_of_the_client", {"client_calls": "played:"}),
    (says_less_each_time, "test_usage_is_a_growing_total", {}),
    (says_nothing_of_its_cost, "test_usage_is_a_growing_total", {}),
    (swallows, "test_cancelled_at_every_await", {}),
    (turns_it_into_something_else, "test_cancelled_at_every_await", {}),
    (leaves_a_task, "test_closed_at_every_yield", {}),
    (ignores_its_end, "test_closed_at_every_yield", {}),
    (bad_failure, "test_failures_have_a_code_and_a_reason", {"failing": {"played:": "no code at all!"}}),
    (
        tells_its_key,
        "test_failures_have_a_code_and_a_reason",
        {"failing": {"played:": "authentication"}, "secrets": ("my-key",)},
    ),
    (
        answers_where_it_should_fail,
        "test_failures_have_a_code_and_a_reason",
        {"failing": {"played:": "rate_limited"}},
    ),
]


@pytest.mark.parametrize("name", names_of(suite(good)))
def test_a_good_runner_passes(name: str) -> None:
    getattr(suite(good), name)()


def test_a_good_runner_goes_on_behind_the_outputs_of_its_client() -> None:
    suite(good, client_calls="played:").test_tools_of_the_client()


def test_one_without_reports_says_so() -> None:
    suite(says_nothing_of_its_cost, reports_usage=False).test_usage_is_a_growing_total()


@pytest.mark.parametrize(("play", "name", "attributes"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_runner_fails(play: Play, name: str, attributes: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("turnlog.testing.driving.CLOSE_TIMEOUT_S", 0.2)
    with pytest.raises((AssertionError, RunnerError, RuntimeError)):
        getattr(suite(play, **attributes), name)()


def test_every_test_of_the_suite_can_fail() -> None:
    """But for those that only a runner breaks that shares state, or a factory."""
    checked = {name for _, name, _ in BROKEN}
    others = {"test_a_second_turn_of_the_same_runner", "test_two_sessions_at_once"}
    assert checked | others | {"test_names_of_models_that_it_cannot_read"} == set(names_of(suite(good)))


def test_a_runner_that_dies_with_its_first_turn() -> None:
    def once() -> Play:
        used = False

        async def play(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
            nonlocal used
            if used:
                raise RunnerError("runner_closed", "used up")
            used = True
            async for output in good(turn):
                yield output

        return play

    with pytest.raises(RunnerError):
        suite(once()).test_a_second_turn_of_the_same_runner()
    with pytest.raises(RunnerError):
        suite(once()).test_two_sessions_at_once()


def test_a_factory_that_raises_something_else() -> None:
    def make_runner(self: RunnerConformance, model: str) -> Runner:
        if model != "played:":
            raise KeyError(model)
        return PlayedRunner(good)

    with pytest.raises(KeyError):
        suite(good, make_runner=make_runner).test_names_of_models_that_it_cannot_read()
