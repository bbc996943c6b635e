"""The runners one by one: what their model names may say, what they refuse, what their tools write down."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

from turnlog_schemas.parts import Usage, content_text, text_content
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.policy import Policy
from turnlog_workers.runners import playback, recorded, recordings, registry
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
from turnlog_workers.runners.echo import EchoRunner, even_pieces
from turnlog_workers.runners.journal import VARIABLE
from turnlog_workers.runners.recordings import Recordings, UnreadableRecording
from turnlog_workers.runners.registry import RunnerRegistry
from turnlog_workers.runners.script import ScriptRunner

ROOT = Path(__file__).resolve().parents[2]
# Attempts of one turn may be played by workers of different releases: if these change, resumed turns break.
GOLDEN_ARGUMENTS = '{"step":1,  "value": 569341}'
GOLDEN_TEXT = "turn the 🙂 naïve not; log"


def turn_input(**changes: Any) -> TurnInput:
    turn = TurnInput(
        session_id="s",
        turn_id="t-1",
        attempt=1,
        turn_number=1,
        fencing_token=41,
        model="",
        instructions=None,
        user_content=text_content("Hello you"),
    )
    return replace(turn, **changes)


async def play(model: str, **changes: Any) -> list[RunnerOutput]:
    runner = RunnerRegistry().make(model)
    return [output async for output in runner.run(turn_input(model=model, **changes))]


async def play_until_error(model: str, **changes: Any) -> tuple[list[RunnerOutput], RunnerError]:
    """What came before the error, and the error."""
    found: list[RunnerOutput] = []
    running = RunnerRegistry().make(model).run(turn_input(model=model, **changes))
    try:
        while True:
            found.append(await anext(aiter(running)))
    except RunnerError as error:
        return found, error


def texts(found: list[RunnerOutput]) -> list[str]:
    return [output.text for output in found if isinstance(output, TextDelta)]


def answers(found: list[RunnerOutput]) -> list[AssistantMessage]:
    return [output for output in found if isinstance(output, AssistantMessage)]


def results(found: list[RunnerOutput]) -> list[ToolResult]:
    return [output for output in found if isinstance(output, ToolResult)]


def stored(found: list[RunnerOutput]) -> tuple[HistoryMessage, ...]:
    kept: list[HistoryMessage] = []
    for output in found:
        seq = 2 + len(kept)
        match output:
            case AssistantMessage():
                calls = output.tool_calls
                kept.append(
                    HistoryMessage(
                        message_seq=seq, turn_id="t-1", role="assistant", content=output.content, tool_calls=calls
                    )
                )
            case ToolResult():
                kept.append(
                    HistoryMessage(
                        message_seq=seq,
                        turn_id="t-1",
                        role="tool",
                        content=output.content,
                        tool_call_id=output.call_id,
                        name=output.name,
                    )
                )
    return tuple(kept)


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were slept, or waited for a delta's place in time; they pass at once."""
    asked: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(delay: float) -> None:
        asked.append(round(delay, 6))
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(playback, "_next_beat", sleep)
    monkeypatch.setattr(playback, "_now", lambda: sum(asked))
    return asked


# ---- the registry


def test_the_installed_runners() -> None:
    assert {"echo", "script", "recorded"} <= set(RunnerRegistry().providers())
    assert isinstance(RunnerRegistry().make("echo:"), EchoRunner)
    assert isinstance(RunnerRegistry().make("script:7"), ScriptRunner)


def test_no_runner_is_made_of_a_model_that_the_list_does_not_allow() -> None:
    listed = RunnerRegistry(policy=Policy(allow_models=("echo:*",)))
    assert isinstance(listed.make("echo:"), EchoRunner)
    with pytest.raises(RunnerError, match=r"'script:7' is not allowed here; allowed: echo:\*") as caught:
        listed.make("script:7")
    assert (caught.value.code, caught.value.retryable) == ("model_not_allowed", False)


@pytest.mark.parametrize("model", ["gpt:4", "gpt", "", ":x", "ECHO:"])
def test_an_unknown_provider_names_the_known_ones(model: str) -> None:
    with pytest.raises(RunnerError, match=r"anthropic, echo, .*, recorded, script") as caught:
        RunnerRegistry().make(model)
    assert (caught.value.code, caught.value.retryable) == ("unknown_provider", False)


def test_an_override_comes_before_the_installed_one() -> None:
    made: list[str] = []

    def factory(model: str) -> Runner:
        made.append(model)
        return RunnerRegistry().make("echo:")

    overridden = RunnerRegistry({"script": factory, "new": factory})
    assert "new" in overridden.providers()
    overridden.make("script:1")
    overridden.make("new:x:y")
    assert made == ["script:1", "new:x:y"]


def test_entry_points_are_looked_up_once_and_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    found = [
        EntryPoint(name="echo", value="turnlog_workers.runners.echo:factory", group=registry.GROUP),
        EntryPoint(name="broken", value="turnlog_workers.runners.no_such_module:factory", group=registry.GROUP),
    ]

    def entry_points(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return found

    monkeypatch.setattr(registry, "entry_points", entry_points)
    runners = RunnerRegistry()
    assert asked == []
    runners.make("echo:")
    runners.make("echo:")
    with pytest.raises(RunnerError, match="no_such_module") as caught:
        runners.make("broken:")
    assert (caught.value.code, caught.value.retryable) == ("broken_provider", False)
    assert asked == ["turnlog.runners"]


# ---- model names


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("echo:hello", "nothing but options"),
        ("echo:?deltas=0", "deltas: .*greater than or equal to 1"),
        ("echo:?deltas=x", "deltas: .*integer"),
        ("echo:?delta_ms=60001", "delta_ms"),
        ("echo:?deltas=1&deltas=2", "twice"),
        ("echo:?deltas", "name=value"),
        ("echo:?other=1", r"other: .*options: deltas, delta_ms"),
        ("script:7?words=30001", "words"),
        ("script:7?tools=1001", "tools"),
        ("script:7?tool_ms=-1", "tool_ms"),
        ("script:7?hang_s=nan", "hang_s"),
        ("script:7?hang_s=86401", "hang_s"),
        ("script:7?idempotent=perhaps", "idempotent"),
        ("script:7?fail_at=tool:0", "fail_at"),
        ("script:7?fail_at=text%0A", "fail_at"),
        ("script:7?fail_at=tool:3", "fail_at=tool:3 needs tools=3"),
        ("script:7?tools=2&hang_at=tool:3", "hang_at=tool:3 needs tools=3"),
        ("script:7?journal=/etc/passwd", "journal"),
        ("recorded:file.jsonl", "FILE#ID"),
        ("recorded:file.jsonl#", "FILE#ID"),
        ("recorded:#id", "FILE#ID"),
        ("recorded:file.jsonl#id?delta_ms=fast", "delta_ms"),
    ],
)
def test_a_bad_model_name_is_refused_with_its_reason(model: str, said: str) -> None:
    with pytest.raises(RunnerError, match=said) as caught:
        RunnerRegistry().make(model)
    assert (caught.value.code, caught.value.retryable) == ("bad_model_name", False)
    assert repr(model) in caught.value.reason


# ---- echo


async def test_echo_says_the_text_word_by_word(delays: list[float]) -> None:
    found = await play("echo:?delta_ms=20", user_content=text_content("  One two\nthree "))
    assert texts(found) == ["  One ", "two\n", "three "]
    assert answers(found) == [AssistantMessage(content=text_content("  One two\nthree "))]
    assert delays == [0.02, 0.02, 0.02]


@pytest.mark.parametrize(("text", "count"), [("Hello there, you", 3), ("abc", 3), ("ab", 2), ("a b c d e f", 3)])
async def test_echo_in_so_many_deltas(text: str, count: int) -> None:
    assert len(texts(await play("echo:?deltas=3", user_content=text_content(text)))) == count


@pytest.mark.parametrize(
    ("text", "count", "pieces"), [("abcdefg", 3, ["ab", "cd", "efg"]), ("", 3, []), ("ab", 5, ["a", "b"])]
)
def test_even_pieces(text: str, count: int, pieces: list[str]) -> None:
    assert even_pieces(text, count) == pieces


async def test_echo_estimates_what_it_would_have_cost() -> None:
    history = (HistoryMessage(message_seq=1, turn_id="t-0", role="user", content=text_content("x" * 40)),)
    found = await play("echo:", instructions="y" * 8, history=history, user_content=text_content("z" * 5))
    usage = Usage(input_tokens=14, output_tokens=2, model_calls=1, last_input_tokens=14)
    assert found[-1] == UsageReport(usage=usage)


async def test_a_long_answer_lets_others_go_on(delays: list[float]) -> None:
    await play("echo:", user_content=text_content("word " * 100))
    assert delays == [0, 0, 0]


async def test_stored_messages_of_another_plan_are_an_error() -> None:
    other = stored(await play("script:7?tools=1"))
    found, error = await play_until_error("echo:", turn_messages=other)
    assert (found, error.code, error.retryable) == ([], "resume_mismatch", False)
    _, error = await play_until_error("script:7?tools=2&calls_per_message=2", turn_messages=other[:2])
    assert error.code == "resume_mismatch"


# ---- script


async def test_a_seed_gives_other_turns_than_another_seed_and_than_its_own_next_turn() -> None:
    found = [await play(f"script:{seed}?tools=2", turn_number=number) for seed in (7, 8, "seven") for number in (1, 2)]
    plans = ["".join(texts(outputs)) for outputs in found]
    assert len(set(plans)) == len(plans)


async def test_a_seed_is_the_same_in_every_process_and_release() -> None:
    found = await play("script:7?tools=1&words=6")
    assert answers(found)[0].tool_calls[0].arguments == GOLDEN_ARGUMENTS
    assert content_text(answers(found)[-1].content) == GOLDEN_TEXT


async def test_the_options_shape_a_turn(delays: list[float]) -> None:
    found = await play("script:7?tools=5&calls_per_message=2&tool_ms=20&idempotent=1&delta_ms=5&words=30&reasoning=1")
    assert [len(answer.tool_calls) for answer in answers(found)] == [2, 2, 1, 0]
    calls = [call for answer in answers(found) for call in answer.tool_calls]
    assert all(call.idempotent for call in calls)
    assert len({call.idempotency_key for call in calls}) == 5
    assert len(results(found)) == 5
    assert len((content_text(answers(found)[-1].content) or "").split(" ")) == 30
    reasoning = [output for output in found if isinstance(output, ReasoningDelta)]
    assert reasoning
    assert sorted(delays) == [0.005] * (len(texts(found)) + len(reasoning)) + [0.02] * 5


async def test_the_first_attempts_fail_on_demand() -> None:
    model = "script:7?tools=3&fail_attempts=2&fail_at=tool:2&idempotent=1"
    whole = await play(model, attempt=3)
    found, error = await play_until_error(model)
    assert (error.code, error.retryable) == ("scripted_failure", True)
    assert (len(answers(found)), len(results(found))) == (2, 1)
    again, _ = await play_until_error(model, attempt=2, turn_messages=stored(found))
    assert again == []
    rest = await play(model, attempt=3, turn_messages=stored(found))
    assert answers(found) + answers(rest) == answers(whole)
    assert results(found) + results(rest) == results(whole)


async def test_a_failure_in_the_middle_of_the_text() -> None:
    found, error = await play_until_error("script:7?tools=0&words=10&fatal=1", attempt=9)
    assert len(texts(found)) == 5
    assert answers(found) == []
    assert not error.retryable


@pytest.mark.parametrize("words", [0, 1])
async def test_a_failure_comes_in_the_shortest_text_too(words: int) -> None:
    found, _ = await play_until_error(f"script:7?tools=0&words={words}&fail_attempts=1")
    assert found == []


async def test_a_point_that_is_stored_already_fails_in_the_text_instead() -> None:
    model = "script:7?tools=1&fail_attempts=2&fail_at=tool:1"
    found, _ = await play_until_error(model)
    interrupted = HistoryMessage(message_seq=3, turn_id="t-1", role="tool", tool_call_id="call_1_1", interrupted=True)
    again, error = await play_until_error(model, attempt=2, turn_messages=(*stored(found), interrupted))
    assert results(again) == []
    assert texts(again)
    assert "'text'" in error.reason


async def test_the_first_attempt_hangs_on_demand(delays: list[float]) -> None:
    model = "script:7?tools=1&tool_ms=10&hang_s=90&hang_at=tool:1"
    await play(model)
    assert delays[:2] == [90, 0.01]
    delays.clear()
    await play(model, attempt=2)
    assert 90 not in delays


# ---- the journal of script's tools


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    path = tmp_path / "journal.jsonl"
    monkeypatch.setenv(VARIABLE, str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_tool_starts_after_its_call_was_taken(journal: Callable[[], list[dict[str, Any]]]) -> None:
    keys: dict[str, str] = {}
    async for output in RunnerRegistry().make("script:7?tools=2").run(turn_input(attempt=4)):
        match output:
            case AssistantMessage(tool_calls=calls):
                keys |= {call.call_id: call.idempotency_key for call in calls}
                assert not {entry["call_id"] for entry in journal()} & {call.call_id for call in calls}
            case ToolResult(call_id=call_id):
                assert [(entry["what"], entry["call_id"], entry["idempotency_key"]) for entry in journal()[-2:]] == [
                    ("start", call_id, keys[call_id]),
                    ("end", call_id, keys[call_id]),
                ]
    assert all(keys.values())
    assert len(journal()) == 4
    entry = journal()[0]
    assert entry["time"] > 0
    assert {key: entry[key] for key in ("session_id", "turn_id", "attempt", "fencing_token", "pid")} == {
        "session_id": "s",
        "turn_id": "t-1",
        "attempt": 4,
        "fencing_token": 41,
        "pid": os.getpid(),
    }


async def test_an_open_idempotent_call_is_started_again_under_its_stored_key(
    journal: Callable[[], list[dict[str, Any]]],
) -> None:
    model = "script:7?tools=5&idempotent=1"
    messages = stored(await play(model))
    before = len(journal())
    third = replace(messages[4].tool_calls[0], idempotency_key="stored-key")
    kept = (*messages[:4], replace(messages[4], tool_calls=(third,)))
    found = await play(model, attempt=2, fencing_token=99, turn_messages=kept)
    starts = [entry for entry in journal()[before:] if entry["what"] == "start"]
    assert [entry["call_id"] for entry in starts] == ["call_1_3", "call_1_4", "call_1_5"]
    assert starts[0]["idempotency_key"] == "stored-key"
    assert {entry["fencing_token"] for entry in starts} == {99}
    assert [result.call_id for result in results(found)] == ["call_1_3", "call_1_4", "call_1_5"]


async def test_an_open_call_that_is_not_idempotent_is_never_started_again(
    journal: Callable[[], list[dict[str, Any]]],
) -> None:
    messages = stored(await play("script:7?tools=2"))
    before = len(journal())
    found, error = await play_until_error("script:7?tools=2", attempt=2, turn_messages=messages[:1])
    assert (found, error.code, error.retryable) == ([], "open_call", False)
    assert len(journal()) == before


async def test_a_tool_that_cannot_be_written_down_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delays: list[float]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    found, error = await play_until_error("script:7?tools=1&tool_ms=50")
    assert (error.code, error.retryable) == ("journal_unwritable", False)
    assert VARIABLE in error.reason
    assert results(found) == []
    assert 0.05 not in delays


# ---- recorded

CONVERSATION = {
    "id": "c1",
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
    ],
}


def recording(folder: Path, *rows: object, name: str = "r.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def test_recorded_at_its_pace(tmp_path: Path, delays: list[float]) -> None:
    path = recording(tmp_path, CONVERSATION)
    found = await play(f"recorded:{path}#c1?delta_ms=30", user_content=text_content("Hi"))
    assert texts(found) == ["Hello ", "there"]
    assert delays == [0.03, 0.03]


async def test_a_turn_without_an_answer_has_none(tmp_path: Path) -> None:
    path = recording(tmp_path, CONVERSATION)
    found = await play(f"recorded:{path}#c1", turn_number=2, user_content=text_content("Bye"))
    assert found == [UsageReport(usage=Usage())]


async def test_a_relative_file_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording(tmp_path, CONVERSATION)
    monkeypatch.chdir(tmp_path)
    assert texts(await play("recorded:r.jsonl#c1", user_content=text_content("Hi")))


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("r.jsonl#c9", "recording_not_found", r"'c9'.*among the 5 in .*line 2 is no conversation"),
        ("none.jsonl#c1", "recording_not_found", r"none\.jsonl.*No such file"),
        (".#c1", "recording_not_found", "not a regular file"),
        ("a\0b#c1", "recording_not_found", "null"),
        ("r.jsonl#twice", "recording_unsupported", "several lines"),
        ("r.jsonl#image", "recording_unsupported", "OpenAI chat format"),
        ("r.jsonl#half", "recording_unsupported", "surrogates"),
        ("r.jsonl#note", "recording_unsupported", "'system' message"),
    ],
)
async def test_what_cannot_be_replayed_says_why(tmp_path: Path, target: str, code: str, said: str) -> None:
    user = {"role": "user", "content": "Hi"}
    recording(
        tmp_path,
        CONVERSATION,
        "no conversation",
        {"id": "twice", "messages": []},
        {"id": "twice", "messages": [user]},
        {"id": "image", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        {"id": "half", "messages": [{"role": "user", "content": "\ud83d"}]},
        {"id": "note", "messages": [user, {"role": "system", "content": "Now be quick."}]},
    )
    found, error = await play_until_error(f"recorded:{tmp_path}/{target}", user_content=text_content("Hi"))
    assert (found, error.code, error.retryable) == ([], code, False)
    with pytest.raises(RunnerError, match=said):
        raise error


@pytest.mark.parametrize(("number", "text"), [(1, "Hi!"), (2, "Hi"), (3, "Bye"), (0, "Hi")])
async def test_another_user_message_than_recorded_is_a_mismatch(tmp_path: Path, number: int, text: str) -> None:
    path = recording(tmp_path, CONVERSATION)
    found, error = await play_until_error(f"recorded:{path}#c1", turn_number=number, user_content=text_content(text))
    assert (found, error.code, error.retryable) == ([], "recording_mismatch", False)


def test_a_file_is_scanned_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    scan = recordings._scan

    def counted(path: str, version: tuple[int, int, int, int]) -> Any:
        scanned.append(Path(path).name)
        return scan(path, version)

    monkeypatch.setattr(recordings, "_scan", counted)
    kept = Recordings(max_indexed_files=2)
    path = recording(tmp_path, CONVERSATION)
    for _ in range(2):
        assert len(kept.messages(str(path), "c1")) == 4
    assert scanned == ["r.jsonl"]
    recording(tmp_path, {"id": "c0", "messages": []}, CONVERSATION)
    assert len(kept.messages(str(path), "c1")) == 4
    assert scanned == ["r.jsonl"] * 2
    for name in ("a.jsonl", "b.jsonl", "r.jsonl"):  # two more files push the first one out
        kept.messages(str(recording(tmp_path, CONVERSATION, name=name)), "c1")
    assert scanned == ["r.jsonl", "r.jsonl", "a.jsonl", "b.jsonl", "r.jsonl"]


def test_a_file_that_changed_under_the_reader_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(tmp_path, CONVERSATION)
    kept = Recordings()
    kept.messages(str(path), "c1")
    version = recordings._version(str(path))
    monkeypatch.setattr(recordings, "_version", lambda path: version)
    recording(tmp_path, {**CONVERSATION, "id": "other"})
    with pytest.raises(UnreadableRecording, match="changed"):
        kept.messages(str(path), "c1")


def test_reading_a_file_is_not_done_on_the_event_loop(tmp_path: Path) -> None:
    threads: list[bool] = []

    class Watched(Recordings):
        def messages(self, path: str, conversation_id: str) -> Any:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                threads.append(True)
            return super().messages(path, conversation_id)

    async def run() -> list[RunnerOutput]:
        runner = recorded.RecordedRunner(
            str(recording(tmp_path, CONVERSATION)), "c1", recorded.RecordedOptions(), Watched()
        )
        return [output async for output in runner.run(turn_input(user_content=text_content("Hi")))]

    assert texts(asyncio.run(run()))
    assert threads == [True]


# ---- all of them


async def test_a_closed_runner_takes_no_turn() -> None:
    runner = RunnerRegistry().make("echo:")
    await runner.aclose()
    with pytest.raises(RunnerError, match="closed"):
        await anext(aiter(runner.run(turn_input())))


@pytest.mark.parametrize("text", ["", " ", "a", " a b ", "a\n\nb", "日本 🙂", "\u00a0x\u2028y"])
def test_words_make_the_text(text: str) -> None:
    found = playback.words(text)
    assert "".join(found) == text
    assert len(found) == (len(text.split()) or bool(text))


def test_the_sample_and_its_licence_are_in_the_wheel() -> None:
    included = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {"turnlog/data/sample-conversations.jsonl", "turnlog/data/NOTICE"} <= included
    notice = (ROOT / "turnlog/data/NOTICE").read_text()
    assert "Copyright (c) 2024 Sierra" in notice
    assert "THE SOFTWARE IS PROVIDED" in notice


async def test_a_late_delta_delays_none_after_it(monkeypatch: pytest.MonkeyPatch, delays: list[float]) -> None:
    pace = playback.Pace(0.4)
    await pace.tick()
    monkeypatch.setattr(playback, "_now", lambda: 1.0 + sum(delays))  # the loop was busy for a second
    for _ in range(4):
        await pace.tick()
    assert delays == [0.4, 0.2, 0.4]


async def test_answers_side_by_side_share_their_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, made = asyncio.get_running_loop(), []
    call_at = loop.call_at

    def counted(when: float, *rest: Any, **named: Any) -> asyncio.TimerHandle:
        made.append(when)
        return call_at(when, *rest, **named)

    monkeypatch.setattr(loop, "call_at", counted)
    said: list[int] = []

    async def answer(number: int) -> None:
        pace = playback.Pace(0.03)
        for _ in range(6):
            await pace.tick()
        said.append(number)

    answers = [asyncio.create_task(answer(number)) for number in range(300)]
    await asyncio.sleep(0)
    for cancelled in answers[::3]:
        cancelled.cancel()  # whoever waits for the same timer still goes on
    for ended in await asyncio.gather(*answers, return_exceptions=True):
        assert ended is None or isinstance(ended, asyncio.CancelledError)
    assert sorted(said) == [number for number in range(300) if number % 3]
    assert len(made) < 600, "not one for each delta"
