"""Every runner that asks a server, against a server that does everything: the table of docs/models.md, row by row."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.model_faults import EVERY, FAULTS, ODD, Fault, cut, plays, stalls
from tests.model_server import KEY, Call, ModelServer, Stream, model_server, says
from tests.waiting import eventually
from turnlog_schemas.parts import Usage, content_text, text_content
from turnlog_workers.base.config import Settings
from turnlog_workers.runners.availability import Availability
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
from turnlog_workers.runners.models.faults import KINDS
from turnlog_workers.runners.models.http import HttpRunners
from turnlog_workers.runners.models.providers import ProviderRunners
from turnlog_workers.runners.registry import RunnerRegistry

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"http": "http:fake#m", "openai": "openai:m", "anthropic": "anthropic:claude-m", "google": "google:gemini-m"}
IMPATIENT = {"no_answer": "model_first_event_timeout_s", "stream_stalled": "model_stall_timeout_s"}  #: its setting
PATIENCE_S = (0.3, 3.0, 30.0)  #: the longer ones where this process stood still before the server had been asked


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with model_server() as found:
        yield found


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, server: ModelServer) -> None:
    for name in ("ANTHROPIC", "OPENAI", "GOOGLE", "FAKE"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)


def runner_of(kind: str, server: ModelServer, **settings: Any) -> Runner:
    if kind == "http":
        servers = f'{{"fake": {{"url": "{server.url}/v1", "key_env": "FAKE_API_KEY"}}}}'
        return HttpRunners(Settings(http_servers=servers, **settings))(MODELS[kind])  # type: ignore[arg-type]
    return ProviderRunners(Settings(**settings))(MODELS[kind])


def turn_of(kind: str) -> TurnInput:
    return TurnInput(
        session_id="s",
        turn_id="t-1",
        attempt=1,
        turn_number=1,
        fencing_token=7,
        model=MODELS[kind],
        instructions="Be kind.",
        user_content=text_content("A secret question, only for the model."),
    )


async def play(runner: Runner, turn: TurnInput) -> tuple[list[RunnerOutput], RunnerError | None]:
    found: list[RunnerOutput] = []
    try:
        async for output in runner.run(turn):
            found.append(output)  # noqa: PERF401 - what came before an error counts
    except RunnerError as error:
        return found, error
    finally:
        await runner.aclose()
    return found, None


def rows() -> list[Any]:
    return [pytest.param(kind, fault, id=f"{kind}: {fault.name}") for fault in FAULTS for kind in fault.runners]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(("kind", "fault"), rows())
async def test_a_fault_becomes_its_code(kind: str, fault: Fault, server: ModelServer) -> None:
    server.plan(fault.answer)
    setting = IMPATIENT.get(fault.code)
    for settings in [{setting: patience_s} for patience_s in PATIENCE_S] if setting else [{}]:
        found, error = await play(runner_of(kind, server, **settings), turn_of(kind))
        if server.received:
            break
    assert error is not None, found
    assert (error.code, len(server.received)) == (fault.code, 1), error.reason
    assert error.retryable == (KINDS[error.code].retryable if fault.retryable is None else fault.retryable)
    if fault.retry_after_s is None:
        assert not error.retry_after_s
    else:
        assert error.retry_after_s == pytest.approx(fault.retry_after_s, abs=5)
    assert (error.prompt_tokens, error.window_tokens) == (fault.prompt_tokens, fault.window_tokens)
    assert KEY not in error.reason
    assert "secret question" not in error.reason
    assert not any(isinstance(output, AssistantMessage) for output in found), "what is not whole is no message"


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(k, n, id=f"{k}: {n}") for n, (_, kinds) in ODD.items() for k in kinds]
)
async def test_what_is_odd_and_no_fault(kind: str, name: str, server: ModelServer) -> None:
    server.plan(ODD[name][0])
    found, error = await play(runner_of(kind, server), turn_of(kind))
    assert error is None
    assert "".join(output.text for output in found if isinstance(output, TextDelta)) == "Hello there!"
    assert found[-1] == AssistantMessage(content=text_content("Hello there!"))
    assert found[-2] == UsageReport(usage=Usage(input_tokens=12, output_tokens=7, model_calls=1, last_input_tokens=12))


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_the_server_hears_at_once_that_nobody_listens_any_more(kind: str, how: str, server: ModelServer) -> None:
    server.plan(plays(stalls))
    runner = runner_of(kind, server)
    running = runner.run(turn_of(kind))
    assert isinstance(await anext(running), TextDelta)
    if how == "cancelled":
        waiting = asyncio.ensure_future(anext(running))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await running.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: server.gone == 1, "the server sees that the request is gone", timeout_s=2)
    await runner.aclose()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", EVERY)
async def test_the_turns_of_a_session_share_a_connection(kind: str, server: ModelServer) -> None:
    runner = runner_of(kind, server)
    for _ in range(4):
        assert [output async for output in runner.run(turn_of(kind))]
    assert len({one.port for one in server.received}) == 1
    await runner.aclose()


@pytest.mark.usefixtures("keys")
async def test_a_server_that_never_ends_its_body_is_not_waited_for(server: ModelServer) -> None:
    async def open_end(stream: Stream) -> None:
        await stream.good()
        await stream.hang()

    server.plan(open_end)
    found, error = await play(runner_of("http", server), turn_of("http"))
    assert error is None
    assert isinstance(found[-1], AssistantMessage)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", EVERY)
async def test_reasoning_comes_before_the_text_and_is_no_part_of_it(kind: str, server: ModelServer) -> None:
    server.plan(says(reasoning=("Hm, ", "yes.")))
    found, error = await play(runner_of(kind, server), turn_of(kind))
    assert error is None
    texts = [type(output) for output in found if isinstance(output, TextDelta | ReasoningDelta)]
    assert texts == sorted(texts, key=lambda one: one is TextDelta)
    assert "".join(output.text for output in found if isinstance(output, ReasoningDelta)) == "Hm, yes."
    assert content_text(found[-1].content) == "Hello there!"  # type: ignore[union-attr]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", EVERY)
async def test_a_tool_that_was_not_offered_gets_a_result_that_says_so(kind: str, server: ModelServer) -> None:
    arguments = ('{"city": ', '"Paris"}')
    one = Call(call_id="c1", name="look", arguments=arguments)
    two = Call(call_id="c2", name="book", arguments=arguments)
    server.plan(says(pieces=("Wait.",), calls=(one, two)), says())
    found, error = await play(runner_of(kind, server), turn_of(kind))
    assert error is None
    first, *results = [output for output in found if isinstance(output, AssistantMessage | ToolResult)][:3]
    assert isinstance(first, AssistantMessage)
    assert [(call.call_id, call.name, call.arguments) for call in first.tool_calls] == [
        ("c1", "look", '{"city": "Paris"}'),
        ("c2", "book", '{"city": "Paris"}'),
    ]
    assert [result.call_id for result in results if isinstance(result, ToolResult)] == ["c1", "c2"]
    assert content_text(found[-1].content) == "Hello there!"  # type: ignore[union-attr]
    sent = server.received[-1].body
    assert all(text in str(sent) for text in ("Wait.", "look", "Paris", "there is no tool"))


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", EVERY)
async def test_a_model_that_calls_for_ever_comes_to_an_end(kind: str, server: ModelServer) -> None:
    server.plan(says(pieces=(), calls=(Call(call_id="c1", name="look", arguments=("{}",)),)))
    found, error = await play(runner_of(kind, server, max_model_calls=3), turn_of(kind))
    assert error is not None
    assert (error.code, error.retryable) == ("too_many_steps", False)
    assert len(server.received) == 3
    ids = [call.call_id for output in found if isinstance(output, AssistantMessage) for call in output.tool_calls]
    assert ids == ["c1", "c1", "c1"], "stored as the model made them"
    if kind != "google":
        sent = re.findall(r"'(?:tool_call_id|tool_use_id|id)': '(\w+)'", str(server.received[-1].body))
        assert len(set(sent)) == 2, "sent with an id for each"


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", EVERY)
async def test_a_server_that_is_not_there(kind: str, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with model_server() as gone:
        pass
    for name, url in (("ANTHROPIC_BASE_URL", ""), ("OPENAI_BASE_URL", "/v1"), ("GOOGLE_GEMINI_BASE_URL", "")):
        monkeypatch.setenv(name, gone.url + url)
    _, error = await play(runner_of(kind, gone), turn_of(kind))
    assert error is not None
    assert (error.code, error.retryable) == ("unreachable", True)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("wrong", ["", "two\nlines"])
async def test_a_key_that_is_none_is_told_before_anything_is_sent(
    kind: str, wrong: str, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{'FAKE' if kind == 'http' else kind.upper()}_API_KEY", wrong)
    _, error = await play(runner_of(kind, server), turn_of(kind))
    assert error is not None
    assert (error.code, error.retryable) == ("authentication", False)
    assert "_API_KEY" in error.reason
    assert "lines" not in error.reason
    assert server.received == []


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("kind", EVERY)
async def test_a_key_in_a_file_is_read_again_for_each_turn(
    kind: str, server: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("first-key-0123456789\n")
    if kind == "http":
        servers = f'{{"fake": {{"url": "{server.url}/v1", "key_file": "{file}"}}}}'
        runner = HttpRunners(Settings(http_servers=servers))(MODELS[kind])  # type: ignore[arg-type]
    else:
        monkeypatch.delenv(f"{kind.upper()}_API_KEY")
        monkeypatch.setenv(f"{kind.upper()}_API_KEY_FILE", str(file))
        runner = runner_of(kind, server)
    for key in ("first-key-0123456789", "second-key-0123456789"):
        file.write_text(f"{key}\n")
        assert [output async for output in runner.run(turn_of(kind))]
        assert key in str(server.received[-1].headers)
    await runner.aclose()


def test_what_is_missing_is_told_without_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY_FILE", raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    servers = '{"one": {"url": "http://a/v1", "key_env": "NO_SUCH_KEY"}, "two": {"url": "http://b/v1"}}'
    monkeypatch.setenv("TURNLOG_HTTP_SERVERS", servers)
    registry = RunnerRegistry()
    assert registry.availability("openai").missing_keys == ("OPENAI_API_KEY",)
    assert registry.availability("anthropic") == Availability()
    assert not registry.availability("openai").missing_packages
    assert registry.availability("http").missing_keys == ("NO_SUCH_KEY",)
    assert registry.availability("http").note == "servers: one, two"


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("model", ["pydantic-ai:openai:m", "pydantic-ai:anthropic:claude-m"])
async def test_the_same_providers_through_their_libraries(model: str, server: ModelServer) -> None:
    server.plan(says(), plays(cut))
    turn = replace(turn_of("openai"), model=model)
    found, error = await play(ProviderRunners(Settings())(model), turn)
    assert (error, found[-1]) == (None, AssistantMessage(content=text_content("Hello there!")))
    _, error = await play(ProviderRunners(Settings())(model), turn)
    assert error is not None
    assert error.code == "stream_cut"


def test_the_table_of_the_docs_is_what_is_tested() -> None:
    section = (ROOT / "docs/models.md").read_text().partition("\n## What goes wrong\n")[2].partition("\n## ")[0]
    table = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", section, flags=re.MULTILINE))
    tested = {fault.code for fault in FAULTS} | {"unreachable"}
    of_the_embedded_model = {"model_not_installed", "model_unavailable"}
    assert set(table) - of_the_embedded_model == tested
    assert set(KINDS) <= tested
    for code, again in table.items():
        if code in KINDS and code != "context_too_long":
            assert again.startswith("yes") == KINDS[code].retryable, code
