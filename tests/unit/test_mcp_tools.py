"""Tools of a real server of the Model Context Protocol, over its standard streams and over HTTP."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from tests.mcp_server import server as small_server
from tests.one_session import OneSession
from tests.unit.test_tools import ANY, BOUNDS, call, calls_then_answers, results_of
from tests.waiting import eventually
from turnlog_workers.base.config import Settings
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.tools.from_settings import toolbox_of
from turnlog_workers.tools.mcp_tools import McpServers
from turnlog_workers.tools.toolbox import Toolbox

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "tests" / "mcp_server.py")]


def settings_for(described: dict[str, object]) -> Settings:
    return Settings(
        mcp_servers=json.dumps({"small": described}),  # type: ignore[arg-type]
        allow_tools="small__*",  # type: ignore[arg-type]
        mcp_connect_timeout_s=60.0,
    )


@asynccontextmanager
async def over_stdio(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Toolbox]:
    monkeypatch.setenv("GIVEN_TO_TOOLS", "yes")
    monkeypatch.setenv("NOT_GIVEN_TO_TOOLS", "no")
    box = toolbox_of(settings_for({"command": COMMAND, "env_from": ["GIVEN_TO_TOOLS"]}))
    try:
        yield box
    finally:
        await box.aclose()


@asynccontextmanager
async def over_http() -> AsyncIterator[Toolbox]:
    app = small_server.streamable_http_app()
    serving = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    task = asyncio.create_task(serving.serve())
    await eventually(lambda: serving.started, "the server listens")
    port = serving.servers[0].sockets[0].getsockname()[1]
    box = toolbox_of(settings_for({"url": f"http://127.0.0.1:{port}/mcp"}))
    try:
        yield box
    finally:
        await box.aclose()
        serving.should_exit = True
        await task


async def uses(box: Toolbox) -> None:
    one = OneSession(main=calls_then_answers(call("small__add", {"a": 2, "b": 40})), toolbox=box)
    await one.say("Go.")
    definitions = {each.name: each for each in one.given[0].tools.definitions}
    assert definitions["small__add"].description == "Add two numbers."
    assert definitions["small__add"].idempotent
    assert not definitions["small__fails"].idempotent
    assert set(definitions["small__add"].parameters["properties"]) == {"a", "b"}
    names = ("add", "fails", "add", "add", "told")
    arguments = ({"a": 2, "b": 40}, {}, {"a": "two", "b": 1}, "[1", {})
    calls = [
        call(f"small__{name}", given, str(n)) for n, (name, given) in enumerate(zip(names, arguments, strict=True))
    ]
    results = await results_of(box, *calls)
    assert results[0] == ("ok", "42")
    assert results[1][0] == results[2][0] == results[3][0] == "error"
    assert "this never works" in results[1][1]
    assert "no JSON" in results[3][1]
    assert "t1:2:4" in results[4][1]  # the idempotency key
    assert "'turnlog/fencing-token': 7" in results[4][1]


async def test_over_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    async with over_stdio(monkeypatch) as box:
        await uses(box)
        assert await results_of(box, call("small__given")) == [("ok", "yes None")]


async def test_a_server_that_dies_is_a_result_and_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with over_stdio(monkeypatch) as box:
        ((outcome, text),) = await results_of(box, call("small__dies"))
        assert outcome == "error"
        assert "may have done" in text
        assert await results_of(box, call("small__add", {"a": 1, "b": 1})) == [("ok", "2")]


async def test_over_http() -> None:
    async with over_http() as box:
        await uses(box)


@pytest.mark.parametrize(
    "described", [{"command": ["there-is-no-such-program"]}, {"url": "http://127.0.0.1:9/mcp"}, {"command": ["cat"]}]
)
async def test_a_server_that_cannot_be_asked_has_no_tools_and_the_turn_goes_on(described: dict[str, object]) -> None:
    settings = settings_for(described)
    box = Toolbox(ANY, BOUNDS, sources=[McpServers(settings.mcp_servers, connect_s=1.0)], extra={})
    try:
        ((outcome, text),) = await results_of(box, call("small__add"))
        assert outcome == "error"
        assert "no tool 'small__add' here" in text
    finally:
        await box.aclose()


@pytest.mark.parametrize(
    ("described", "why"),
    [
        ({}, "command or url"),
        ({"command": ["x"], "url": "http://h/"}, "command or url"),
        ({"url": "ftp://h/"}, "http://"),
        ({"url": "http://me:hidden-1@h/"}, "no name and password"),
        ({"command": ["x"], "key_env": "KEY"}, "env_from"),
        ({"command": ["x"], "env_from": ["A=1"]}, "names of variables"),
        ({"command": ["x"], "secret": "hidden-1"}, "no such field"),
    ],
)
def test_a_server_that_makes_no_sense_is_refused_without_its_values(described: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        settings_for(described)
    assert "hidden-1" not in str(caught.value)
