"""What every runner must do, whatever it talks to. A new runner joins by a line in ``MODELS``."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import as_file, files

import pytest

from turnlog.runner import (
    AssistantMessage,
    ReasoningDelta,
    Runner,
    RunnerOutput,
    TextDelta,
    ToolResult,
    TurnInput,
    UsageReport,
)
from turnlog_schemas.parts import content_text, text_content
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.turn import INTERRUPTED_TEXT, without_result
from turnlog_workers.runners import playback
from turnlog_workers.runners.recordings import Recordings
from turnlog_workers.runners.registry import RunnerRegistry

SAMPLE = "recorded:SAMPLE#"
SLOW = ["echo:?delta_ms=60000", "script:1?delta_ms=60000", "script:1?tools=1&tool_ms=3600000", "script:1?hang_s=86400"]
MODELS = [
    "echo:",
    "echo:?deltas=3",
    "script:7?tools=0",
    "script:7",
    "script:a b?tools=5&words=30&reasoning=1",
    "script:7?tools=5&idempotent=1",
    "script:7?tools=7&calls_per_message=3",
    "script:7?tools=7&calls_per_message=3&idempotent=1&words=0",
    "script:7?tools=3&fail_attempts=1&fail_at=tool:2",
    *(SAMPLE + name for name in ("airline-005-0", "airline-010-1", "airline-014-0")),
]


@pytest.fixture(scope="module")
def sample() -> Iterator[str]:
    with as_file(files("turnlog") / "data" / "sample-conversations.jsonl") as path:
        yield str(path)


def turn_of(model: str, sample: str, number: int = 2) -> TurnInput:
    """The second turn: neither the first, nor, in the recordings that were chosen, one without tool calls."""
    text = "What  about\n the  second flight? 日本 🙂 "
    if "#" in model:
        messages = Recordings().messages(sample, model.partition("#")[2])
        text = content_text([message for message in messages if message.role == "user"][number - 1].content) or ""
    return TurnInput(
        session_id="s",
        turn_id="t-1",
        attempt=2 if "fail_attempts=1" in model else 1,
        turn_number=number,
        fencing_token=7,
        model=model,
        instructions="Be kind.",
        user_content=text_content(text),
        history=(HistoryMessage(message_seq=1, turn_id="t-0", role="user", content=text_content("Hello")),),
    )


def runner_of(model: str, sample: str) -> Runner:
    return RunnerRegistry().make(model.replace("SAMPLE", sample))


async def outputs(model: str, turn: TurnInput, sample: str) -> list[RunnerOutput]:
    runner = runner_of(model, sample)
    found = [output async for output in runner.run(turn)]
    await runner.aclose()
    return found


def stored(turn: TurnInput, found: Sequence[RunnerOutput], first_seq: int = 3) -> list[HistoryMessage]:
    """The messages that a session stores of a runner's outputs, each with the calls' keys."""
    kept: list[HistoryMessage] = []
    for output in found:
        common = HistoryMessage(message_seq=first_seq + len(kept), turn_id=turn.turn_id, role="")
        if isinstance(output, AssistantMessage):
            calls = tuple(
                replace(call, idempotency_key=call.idempotency_key or f"{turn.turn_id}:{common.message_seq}:{index}")
                for index, call in enumerate(output.tool_calls)
            )
            kept.append(replace(common, role="assistant", content=output.content, tool_calls=calls))
        elif isinstance(output, ToolResult):
            kept.append(
                replace(common, role="tool", content=output.content, tool_call_id=output.call_id, name=output.name)
            )
    return kept


def closed(messages: list[HistoryMessage]) -> list[HistoryMessage]:
    """What the session gives to the next attempt: calls that may not be started again have an interrupted result."""
    open_calls: tuple = ()
    for message in messages:
        if message.role == "assistant":
            open_calls = message.tool_calls
        else:
            open_calls = without_result(open_calls, message.tool_call_id)
    extra = [
        HistoryMessage(
            message_seq=messages[-1].message_seq + index,
            turn_id=messages[-1].turn_id,
            role="tool",
            content=text_content(INTERRUPTED_TEXT),
            tool_call_id=call.call_id,
            name=call.name,
            interrupted=True,
        )
        for index, call in enumerate((call for call in open_calls if not call.idempotent), start=1)
    ]
    return messages + extra


def after_messages(found: Sequence[RunnerOutput], count: int) -> list[RunnerOutput]:
    """The outputs behind the first ``count`` whole messages."""
    if count == 0:
        return list(found)
    seen = 0
    for index, output in enumerate(found):
        seen += isinstance(output, AssistantMessage | ToolResult)
        if seen == count:
            return list(found[index + 1 :])
    raise AssertionError(f"fewer than {count} messages in {found}")


@pytest.mark.parametrize("model", MODELS)
async def test_the_same_turn_gives_the_same_outputs(model: str, sample: str) -> None:
    turn = turn_of(model, sample)
    found = await outputs(model, turn, sample)
    assert found == await outputs(model, turn, sample)
    assert len(found) > 1


@pytest.mark.parametrize("model", MODELS)
async def test_from_every_cut_it_goes_on_with_exactly_the_rest(model: str, sample: str) -> None:
    turn = turn_of(model, sample)
    whole = await outputs(model, turn, sample)
    messages = stored(turn, whole)
    for cut in range(len(messages) + 1):
        kept = closed(messages[:cut])
        resumed = replace(turn, attempt=turn.attempt + 1, fencing_token=99, turn_messages=tuple(kept))
        assert await outputs(model, resumed, sample) == after_messages(whole, len(kept)), cut


@pytest.mark.parametrize("model", MODELS)
async def test_two_cuts_in_one_turn(model: str, sample: str) -> None:
    turn = turn_of(model, sample)
    whole = await outputs(model, turn, sample)
    messages = stored(turn, whole)
    for first in range(len(messages)):
        kept = closed(messages[:first])
        rest = await outputs(model, replace(turn, attempt=turn.attempt + 1, turn_messages=tuple(kept)), sample)
        for second in range(len(kept), len(messages) + 1):
            again = closed(kept + stored(turn, rest, first_seq=3 + len(kept))[: second - len(kept)])
            resumed = replace(turn, attempt=turn.attempt + 2, turn_messages=tuple(again))
            assert await outputs(model, resumed, sample) == after_messages(whole, len(again))


@pytest.mark.parametrize("model", MODELS)
async def test_the_deltas_of_a_message_are_its_text(model: str, sample: str) -> None:
    deltas = ""
    for output in await outputs(model, turn_of(model, sample), sample):
        if isinstance(output, TextDelta | ReasoningDelta):
            assert output.text, "an empty delta says nothing"
        if isinstance(output, TextDelta):
            deltas += output.text
        elif isinstance(output, AssistantMessage):
            assert deltas == (content_text(output.content) or "")
            deltas = ""
    assert deltas == ""


@pytest.mark.parametrize("model", MODELS)
async def test_every_call_has_a_result_and_every_result_a_call(model: str, sample: str) -> None:
    open_calls: list[str] = []
    for output in await outputs(model, turn_of(model, sample), sample):
        if isinstance(output, AssistantMessage):
            assert open_calls == []
            open_calls = [call.call_id for call in output.tool_calls]
        elif isinstance(output, ToolResult):
            assert output.call_id == open_calls.pop(0)
    if "airline-010-1" not in model:  # a recording may end where it likes
        assert open_calls == []


@pytest.mark.parametrize("model", MODELS)
async def test_the_last_usage_report_counts_the_turn(model: str, sample: str) -> None:
    found = await outputs(model, turn_of(model, sample), sample)
    usage = [output.usage for output in found if isinstance(output, UsageReport)][-1]
    answers = [output for output in found if isinstance(output, AssistantMessage)]
    assert usage.model_calls == len(answers)
    assert usage.input_tokens >= usage.last_input_tokens > 0
    assert (usage.output_tokens > 0) == any(content_text(answer.content) or answer.tool_calls for answer in answers)


@pytest.mark.parametrize("model", MODELS)
async def test_closing_between_two_outputs_ends_the_turn(model: str, sample: str) -> None:
    turn = turn_of(model, sample)
    for count in range(1, len(await outputs(model, turn, sample))):
        runner = runner_of(model, sample)
        running = runner.run(turn)
        for _ in range(count):
            await anext(running)
        await asyncio.wait_for(aclose(running), timeout=60)
        with pytest.raises(StopAsyncIteration):
            await anext(running)


@pytest.mark.parametrize("model", SLOW)
async def test_a_cancelled_wait_ends_at_once(model: str, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real_sleep, real_next_beat, waiting = asyncio.sleep, playback._next_beat, asyncio.Event()

    async def sleep(delay: float) -> None:
        if delay > 1:
            waiting.set()
        await real_sleep(delay)

    def next_beat(delay_s: float) -> Awaitable[None]:
        waiting.set()
        return real_next_beat(delay_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(playback, "_next_beat", next_beat)
    runner = runner_of(model, sample)
    running = runner.run(turn_of(model, sample))
    task = asyncio.ensure_future(exhaust(running))
    await asyncio.wait_for(waiting.wait(), timeout=60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, timeout=60)
    await asyncio.wait_for(aclose(running), timeout=60)
    await runner.aclose()


@pytest.mark.parametrize("model", MODELS)
async def test_alive_until_closed_and_closing_twice_is_closing_once(model: str, sample: str) -> None:
    runner = runner_of(model, sample)
    turn = turn_of(model, sample)
    assert runner.alive
    assert [output async for output in runner.run(turn)] == [output async for output in runner.run(turn)]
    assert runner.alive
    await runner.aclose()
    await runner.aclose()
    assert not runner.alive


async def exhaust(running: AsyncIterator[RunnerOutput]) -> list[RunnerOutput]:
    return [output async for output in running]


async def aclose(running: AsyncIterator[RunnerOutput]) -> None:
    """Close the iteration of a turn, as a session does when it loses the turn."""
    close = getattr(running, "aclose", None)
    assert close is not None, "the outputs of a turn come from an async generator: a session must be able to end it"
    await close()
