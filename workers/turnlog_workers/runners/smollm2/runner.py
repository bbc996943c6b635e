"""``smollm2:[?max_tokens=N&temperature=T&seed=N]``: SmolLM2-135M, without network or key.

It speaks to the machine's one model process (``server.py``) as to any other server of the OpenAI chat format. What is
its own: the process is found or started first, is told apart from one that died, and is not asked for more than it has
room for.
"""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import Field

from turnlog_streams.history.messages import HistoryMessage
from turnlog_workers.base.config import Settings
from turnlog_workers.base.model_servers import HttpServer
from turnlog_workers.observe import tracing
from turnlog_workers.runners.availability import Availability
from turnlog_workers.runners.base import CONTEXT_TOO_LONG, ReasoningDelta, Runner, RunnerError, TextDelta, TurnInput
from turnlog_workers.runners.models.chat_stream import ChatAnswer
from turnlog_workers.runners.models.faults import fault
from turnlog_workers.runners.models.http import HttpRunner
from turnlog_workers.runners.models.patience import ModelLimits
from turnlog_workers.runners.models.sent_messages import openai_params, openai_request_messages
from turnlog_workers.runners.options import Options, after_provider, bad_model_name, read_options
from turnlog_workers.runners.smollm2 import packages
from turnlog_workers.runners.smollm2.runtime_dir import ServerInfo, default_directory
from turnlog_workers.runners.smollm2.shared_server import ServerWish, SharedServer

PROVIDER = "smollm2"
#: Changes with what the processes of two builds would not understand of each other.
_FOLDER = "smollm2-1"
_HOST = "http://model"  #: nobody resolves it: the connection is a Unix socket
_MAX_THREADS = 4  #: more do not make so small a model faster
_CONNECTING_TRIES = 3
#: Before any answer. One that is ending still takes connections, and drops them.
_NOT_ANSWERED = (ConnectionError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)
#: The marks of this model's vocabulary that are not those of chat templates in general; source: its tokens 3 to 16.
_OWN_MARKS = (
    *("<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>", "<empty_output>"),
    *("<issue_start>", "<issue_comment>", "<issue_closed>"),
    *("<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<jupyter_script>"),
)


class SmolLM2Options(Options):
    """What a model name ``smollm2:?…`` may say."""

    max_tokens: int = Field(default=512, ge=1, le=4096)  #: of an answer
    temperature: float = Field(default=0.2, ge=0, le=2)  #: the model card's own
    seed: int | None = Field(default=None, ge=0, le=2**32 - 2)


@dataclass(slots=True)
class Waiting:
    """How many turns of this worker wait for the model."""

    most: int
    count: int = 0


class RoomyAnswer(ChatAnswer):
    """An answer that is given up before its first word if the prompt leaves no room for it in the model's window."""

    def __init__(self, info: ServerInfo, max_tokens: int) -> None:
        super().__init__()
        self._info, self._max_tokens = info, max_tokens

    def take(self, chunk: object) -> list[TextDelta | ReasoningDelta]:
        """The first chunks say how far the prompt is read, and how long it is."""
        if isinstance(chunk, Mapping) and isinstance(progress := chunk.get("prompt_progress"), Mapping):
            prompt, window = progress.get("total"), self._info.context_tokens
            if isinstance(prompt, int) and prompt + self._max_tokens > window:
                room = window - self._max_tokens
                detail = f"{prompt} tokens, and {room} are left of the window of {window} beside an answer"
                raise fault(CONTEXT_TOO_LONG, detail, prompt_tokens=prompt, window_tokens=room)
        return super().take(chunk)


class SmolLM2Runner(HttpRunner):
    """Asks the machine's model process."""

    def __init__(self, shared: SharedServer, waiting: Waiting, options: SmolLM2Options, limits: ModelLimits) -> None:
        super().__init__(HttpServer(url=_HOST), PROVIDER, replace(limits, max_answer_tokens=options.max_tokens))
        self._shared, self._waiting, self._options = shared, waiting, options
        self._info: ServerInfo | None = None

    def _new_answer(self) -> ChatAnswer:
        assert self._info is not None  # an answer follows a request
        return RoomyAnswer(self._info, self._options.max_tokens)

    async def _messages(self, turn: TurnInput, since: Sequence[HistoryMessage]) -> list[dict[str, Any]]:
        return _messages(turn, since)

    async def _post(self, turn: TurnInput, messages: list[dict[str, Any]]) -> aiohttp.ClientResponse:
        """Wait for a slot: the response begins when there is one. Whoever came first is next, whatever its session."""
        waiting = self._waiting
        if waiting.count >= waiting.most:
            raise fault("overloaded", f"{waiting.count} turns of this worker wait for the model already")
        waiting.count += 1
        try:
            for _ in range(_CONNECTING_TRIES):
                info = await self._shared.ready()
                if self._options.max_tokens >= info.context_tokens:
                    reason = f"max_tokens must be below the model's window of {info.context_tokens} tokens"
                    raise RunnerError("bad_model_name", reason, retryable=False)
                self._info = info
                try:
                    return await self._request(info, turn, messages)
                except _NOT_ANSWERED:  # it ended, as one that nobody has used for long does
                    self._shared.lost(info)
            raise fault("unreachable", "the model's process ends as soon as it has started")
        finally:
            waiting.count -= 1

    async def _request(
        self, info: ServerInfo, turn: TurnInput, messages: list[dict[str, Any]]
    ) -> aiohttp.ClientResponse:
        body: dict[str, Any] = {
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
            "max_tokens": self._limits.answer_tokens(turn.params),
            "temperature": self._options.temperature,
            "top_p": 0.9,
            "repeat_penalty": 1.05,
            **openai_params(turn.params),
        }
        if self._options.seed is not None:
            body["seed"] = self._options.seed
        return await self._session_to(info).post(
            f"{_HOST}/v1/chat/completions",
            data=json.dumps(body, ensure_ascii=False).encode(errors="replace"),
            headers={"Content-Type": "application/json", **tracing.outgoing()},
        )

    def _session_to(self, info: ServerInfo) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The server has a thread for each connection: none is kept open between two turns.
                connector=aiohttp.UnixConnector(info.socket, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _messages(turn: TurnInput, since: Sequence[HistoryMessage]) -> list[dict[str, Any]]:
    """The history as this model's template takes it: texts only. It was not taught to call tools."""
    messages = openai_request_messages(turn, since)
    for message in messages:
        lines = [message["content"]] if message.get("content") else []
        functions = [call["function"] for call in message.pop("tool_calls", ())]
        lines += (f"[called {function['name']} with {function['arguments']}]" for function in functions)
        text = "\n".join(lines)
        for mark in _OWN_MARKS:
            if mark in text:
                text = text.replace(mark, f"< {mark[1:]}")
        message["content"] = text
    return messages


class SmolLM2Runners:
    """Makes the runners of one worker, which share its way to the model process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = ModelLimits.of(settings)
        self._waiting = Waiting(settings.embedded_max_waiting_turns)
        self._shared: SharedServer | None = None

    def __call__(self, model: str) -> Runner:
        """A runner for ``smollm2:`` and its options. Raises :class:`RunnerError`."""
        rest, _, query = after_provider(model).partition("?")
        if rest:
            raise bad_model_name(model, "nothing but options (smollm2:?max_tokens=200) may follow smollm2:")
        options = read_options(model, query, SmolLM2Options)
        if self._shared is None:
            path = packages.model_file()
            if lacks := packages.missing():
                reason = f"{', '.join(lacks)} not installed: run `{packages.INSTALL_COMMAND}` where the worker is"
                raise RunnerError("model_not_installed", reason, retryable=False)
            assert path is not None
            self._shared = SharedServer(_directory(self._settings), path, _wish(self._settings))
        return SmolLM2Runner(self._shared, self._waiting, options, self._limits)

    def leave(self) -> None:
        """This worker needs the model process no more."""
        if self._shared is not None:
            self._shared.leave()


def _directory(settings: Settings) -> Path:
    return (settings.runtime_dir or default_directory()) / _FOLDER


def _wish(settings: Settings) -> ServerWish:
    threads = settings.embedded_threads or max(1, min(_MAX_THREADS, (os.cpu_count() or 1) - 1))
    return ServerWish(
        threads=threads,
        slots=settings.embedded_slots,
        context_tokens=settings.embedded_context_tokens,
        idle_timeout_s=settings.embedded_idle_timeout_s,
    )


class _Factory:
    """Runners by the settings of this process."""

    def __call__(self, model: str) -> Runner:
        """A runner for ``smollm2:`` and its options."""
        return _from_environment()(model)

    def availability(self) -> Availability:
        """Are its two packages here?"""
        lacks, others = packages.missing(), packages.outdated()
        return Availability(
            missing_packages=lacks,
            advice=packages.INSTALL_COMMAND if lacks else "",
            note=f"{packages.MODEL_NAME}, on this machine" + "".join(f"; {other}" for other in others),
        )


@functools.cache
def _from_environment() -> SmolLM2Runners:
    return SmolLM2Runners(Settings())


factory = _Factory()
