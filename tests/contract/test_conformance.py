"""The suite for runners, on every runner of ours, and on runners that break one rule each: the suite must say so."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.model_server import KEY, Call, Good, ModelServer, Stream, model_server_in_a_thread, refuses, says
from turnlog.runner import (
    Runner,
    TurnInput,
)
from turnlog.testing import RunnerConformance
from turnlog.testing.turns import CLIENT_OUTPUT, ordinary_turn, with_history
from turnlog_workers.base.config import Settings
from turnlog_workers.runners.models.http import HttpRunners
from turnlog_workers.runners.models.providers import ProviderRunners
from turnlog_workers.runners.recordings import Recordings
from turnlog_workers.runners.smollm2.runner import SmolLM2Runners


class TestEcho(RunnerConformance):
    model = "echo:"
    failing: ClassVar = {"echo:what": "bad_model_name"}
    deterministic = True


class TestScript(RunnerConformance):
    model = "script:7?tools=3&calls_per_message=2&words=9&reasoning=1"
    client_calls = "script:7?tools=1&client_calls=2&words=5"
    failing: ClassVar = {
        "script:7?fatal=1&fail_at=start": "scripted_failure",
        "script:7?fatal=1": "scripted_failure",
        "script:7?tools=2&fail_attempts=9&fail_at=tool:2": "scripted_failure",
    }
    deterministic = True


class TestIdempotentScript(RunnerConformance):
    model = "script:7?tools=5&calls_per_message=3&idempotent=1"
    deterministic = True


class TestRecorded(RunnerConformance):
    name = "airline-005-0"
    deterministic = True
    failing: ClassVar = {"recorded:/no/such/file#x": "recording_not_found"}

    @pytest.fixture(autouse=True)
    def _sample(self) -> Iterator[None]:
        with as_file(files("turnlog") / "data" / "sample-conversations.jsonl") as path:
            self.path = path
            self.model = f"recorded:{path}#{self.name}"  # type: ignore[misc]
            yield

    def turn(self, model: str) -> TurnInput:
        messages = Recordings().messages(str(self.path), self.name)
        user = [message for message in messages if message.role == "user"][1]
        turn = ordinary_turn(model)
        return with_history(replace(turn, user_content=user.content or ()), turn.history)


class TestSmolLM2(RunnerConformance):
    """Around a stand-in for its engine."""

    model = "smollm2:?max_tokens=40"
    failing: ClassVar = {"smollm2:what": "bad_model_name", "smollm2:?max_tokens=4096": "bad_model_name"}

    @pytest.fixture(autouse=True)
    def _runners(self, runtime_folder: Path, fake_engine: None, installed_model: None) -> Iterator[None]:
        self.factory = SmolLM2Runners(Settings(runtime_dir=runtime_folder))
        yield
        self.factory.leave()

    def make_runner(self, model: str) -> Runner:
        return self.factory(model)


class OfServer(RunnerConformance):
    """A runner that asks a server: the model calls a tool that it was not offered, then answers."""

    secrets = (KEY,)
    client_calls = "asks"
    failing: ClassVar = {"limited": "rate_limited", "unknown": "authentication", "cut": "stream_cut"}
    base = ""  #: of its model names

    @pytest.fixture(autouse=True)
    def _keys(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        self.patch = monkeypatch
        for name in ("ANTHROPIC", "OPENAI", "GOOGLE", "FAKE"):
            monkeypatch.setenv(f"{name}_API_KEY", KEY)
        caplog.set_level(logging.DEBUG, "turnlog_workers")
        yield
        assert KEY not in caplog.text

    def environment(self) -> AbstractAsyncContextManager[None]:
        return self._served()

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[None]:
        # In a loop of its own: its tasks are not the runner's.
        with model_server_in_a_thread(self.answer) as server:
            self.patch.setenv("ANTHROPIC_BASE_URL", server.url)
            self.patch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
            self.patch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
            self.factory = self.made(server)
            yield

    @staticmethod
    async def answer(stream: Stream) -> Any:
        """By the model's name: it fails. Else: one step with a tool, then the answer."""
        asked = f"{stream.received.path} {stream.received.body.get('model')}"
        if "limited" in asked:
            return await refuses(429, headers={"Retry-After": "1"})(stream)
        if "unknown" in asked:
            return await refuses(401)(stream)
        if "cut" in asked:
            await stream.send(*stream.dialect(Good())[:2])
            stream.abort()
            return None
        if not any(text in str(stream.received.body) for text in ("there is no tool", CLIENT_OUTPUT)):
            call = Call(call_id="c1", name="look", arguments=('{"city":', ' "Paris"}'))
            return await says(pieces=("Wait. ",), reasoning=("Hm.",), calls=(call,))(stream)
        return await says()(stream)

    def made(self, server: ModelServer) -> Any:
        return ProviderRunners(Settings())

    def make_runner(self, model: str) -> Runner:
        if ":" not in model:
            model = f"{self.base}{model}"
        runner: Runner = self.factory(model)
        return runner


class TestHttp(OfServer):
    model = "http:fake#m"
    base = "http:fake#"

    def made(self, server: ModelServer) -> Any:
        servers = f'{{"fake": {{"url": "{server.url}/v1", "key_env": "FAKE_API_KEY"}}}}'
        return HttpRunners(Settings(http_servers=servers))  # type: ignore[arg-type]


class TestOpenAI(OfServer):
    model = "openai:m"
    base = "openai:"


class TestAnthropic(OfServer):
    model = "anthropic:claude-m"
    base = "anthropic:"


class TestGoogle(OfServer):
    model = "google:gemini-m"
    base = "google:"
