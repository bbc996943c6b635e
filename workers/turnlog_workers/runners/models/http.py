"""``http:NAME#MODEL``: any server that speaks the OpenAI chat format, under a name of the settings.

vLLM, Ollama, llama.cpp and gateways. It always streams: a server notices at once that nobody listens any more only
where it streams. An answer is complete only with its finish reason.
"""

import asyncio
import contextlib
import functools
import io
import json
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp
from aiohttp.http import HttpProcessingError

from turnlog_schemas.parts import ContentPart
from turnlog_streams.history.messages import HistoryMessage
from turnlog_workers.base.config import Settings
from turnlog_workers.base.logs import at, keep_secret
from turnlog_workers.base.model_servers import HttpServer, KeyUnavailableError
from turnlog_workers.observe import tracing
from turnlog_workers.runners.availability import Availability
from turnlog_workers.runners.base import ReasoningDelta, Runner, RunnerError, RunnerOutput, TextDelta, TurnInput
from turnlog_workers.runners.fault_log import as_logged, texts_of
from turnlog_workers.runners.models.chat_stream import ChatAnswer
from turnlog_workers.runners.models.faults import (
    ServerFaultError,
    fault,
    fault_of_status,
    invalid_response,
    stream_cut,
)
from turnlog_workers.runners.models.patience import ModelLimits, Patience
from turnlog_workers.runners.models.sent_files import openai_part, openai_text, show_files
from turnlog_workers.runners.models.sent_messages import (
    openai_params,
    openai_request_messages,
    openai_tools,
    without_control_tokens,
)
from turnlog_workers.runners.models.sse import EventTooLargeError, SseReader
from turnlog_workers.runners.models.steps import ModelAnswer, run_steps
from turnlog_workers.runners.options import after_provider, bad_model_name
from turnlog_workers.runners.playback import OfflineRunner

log = logging.getLogger(__name__)
MAX_BODY_BYTES = 8 * 1024 * 1024  #: of an answer that is no stream
_END_S = 0.1
_FILES = ("image_url", "file", "image", "document")  #: parts that hold one, in either format
MAX_MODEL_CHARACTERS = 256


class HttpRunner(OfflineRunner):
    """Asks one model of one server; keeps its connection from turn to turn."""

    def __init__(self, server: HttpServer, model: str, limits: ModelLimits) -> None:
        super().__init__()
        self._server = server
        self._model = model
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        """The rest of the turn. Raises :class:`RunnerError`: docs/models.md has every code."""
        self._check_alive()
        try:
            async with aclosing(run_steps(turn, self._ask, max_calls=self._limits.max_calls)) as outputs:
                async for output in outputs:
                    yield output
        except ServerFaultError as error:
            if error.said:
                texts = [*texts_of(turn), *map(without_control_tokens, texts_of(turn))]
                said = as_logged(error.said, texts)
                log.warning("a model server said: %s", said, extra=at(session=turn.session_id, turn=turn.turn_id))
            raise

    async def aclose(self) -> None:
        """Close the connection."""
        await super().aclose()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(
        self, turn: TurnInput, since: Sequence[HistoryMessage]
    ) -> AsyncGenerator[TextDelta | ReasoningDelta | ModelAnswer]:
        patience = Patience(self._limits)
        messages = await self._messages(turn, since)
        try:
            async with patience.waiting():
                response = await self._post(turn, messages)
            del messages
            answer = self._new_answer()
            try:
                if response.status != 200:
                    raise await _refused(response, patience)
                if response.content_type == "application/json":
                    for output in answer.take(await _whole_body(response, patience)):
                        yield output
                else:
                    async with aclosing(event_data(response, patience, self._is_ping)) as events:
                        async for data in events:
                            for output in answer.feed(data):
                                yield output
                            if answer.done:
                                break
                    await _read_to_its_end(response)
            finally:
                response.close()  # what was read to its end is back in the pool already; else the server hears of it
        except aiohttp.ClientSSLError as error:
            raise fault("unreachable", "no secure connection", retryable=False) from error
        except ssl.SSLError as error:
            raise fault("unreachable", "no secure connection", retryable=False) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise fault("unreachable") from error
        except HttpProcessingError as error:
            raise invalid_response("no HTTP that can be read") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise stream_cut("the connection was lost") from error
        tracing.note_answer(finish_reason=answer.finish_reason)
        yield ModelAnswer(message=answer.message(), usage=answer.usage)

    def _is_ping(self, name: str) -> bool:
        """Is an event of this name no part of the answer? Then it says nothing of a model that is silent."""
        return False

    def _new_answer(self) -> ChatAnswer:
        return ChatAnswer()

    async def _messages(self, turn: TurnInput, since: Sequence[HistoryMessage]) -> list[dict[str, Any]]:
        escape, taken = self._server.control_tokens == "escape", self._server.media_types
        messages = openai_request_messages(turn, since, escape_control_tokens=escape, files=bool(taken))
        clean = without_control_tokens if escape else str

        def shown(part: ContentPart, data: bytes) -> dict[str, Any]:
            made = openai_part(part, data)
            return openai_text(clean(made["text"])) if made["type"] == "text" else made

        await show_files(turn, messages, taken, shown, lambda text: openai_text(clean(text)))
        return messages

    async def _post(self, turn: TurnInput, messages: list[dict[str, Any]]) -> aiohttp.ClientResponse:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            self._server.max_tokens_field: self._limits.answer_tokens(turn.params),
            **openai_params(turn.params),
        }
        if turn.allow_tools and turn.tools.definitions:
            body["tools"] = openai_tools(turn.tools.definitions)
        return await self._send(f"{self._server.url}/chat/completions", body, {})

    async def _send(self, address: str, body: dict[str, Any], headers: dict[str, str]) -> aiohttp.ClientResponse:
        tracing.note_answer(server=self._server.url)
        kinds = {"Content-Type": "application/json", "Accept": "text/event-stream", **tracing.outgoing()}
        return await self._opened().post(
            address,
            data=await _encoded(body),
            headers={**kinds, **headers, **self._authorization()},
            allow_redirects=False,  # a redirect would take the key along
        )

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key()}"} if self._server.key is not None else {}

    def _key(self) -> str:
        """The server's key. Raises :class:`RunnerError`."""
        source = self._server.key
        try:
            key = source.read() if source is not None else ""
        except KeyUnavailableError as error:
            raise fault("authentication", str(error)) from error
        keep_secret(key)
        return key

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _encoded(body: dict[str, Any]) -> bytes | io.BytesIO:
    """The body of a request; one with files is long, and not encoded on the event loop."""
    parts = (part for message in body["messages"] for part in message["content"] or () if isinstance(part, dict))
    if not any(part.get("type") in _FILES for part in parts):
        return json.dumps(body, ensure_ascii=False).encode(errors="replace")
    return io.BytesIO(await asyncio.to_thread(lambda: json.dumps(body, ensure_ascii=False).encode(errors="replace")))


async def event_data(
    response: aiohttp.ClientResponse, patience: Patience, is_ping: Callable[[str], bool]
) -> AsyncGenerator[str]:
    """The data of each event of a stream. Raises :class:`RunnerError`, and what aiohttp raises."""
    reader = SseReader()
    try:
        while True:
            async with patience.waiting():
                data = await response.content.readany()
            if not data:
                break
            for event in reader.feed(data):
                if not is_ping(event.name):
                    patience.heard()
                    yield event.data
        last = reader.end()
    except EventTooLargeError as error:
        raise invalid_response(str(error)) from error
    if last is not None:  # its empty line is missing: whole, or cut in the middle
        try:
            json.loads(last.data)
        except (ValueError, RecursionError) as error:
            if last.data.strip() != "[DONE]":
                raise stream_cut("the stream ended in the middle of an event") from error
        yield last.data


async def _read_to_its_end(response: aiohttp.ClientResponse) -> None:
    """Nothing follows but the end of the body: with it the connection serves the next turn. Not worth a long wait."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_END_S):
            while await response.content.readany():
                pass


async def _body(response: aiohttp.ClientResponse, patience: Patience) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while size <= MAX_BODY_BYTES:
        async with patience.waiting():
            piece = await response.content.readany()
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
    raise invalid_response(f"a body of more than {MAX_BODY_BYTES} bytes")


async def _whole_body(response: aiohttp.ClientResponse, patience: Patience) -> object:
    """The answer of a server that does not stream."""
    try:
        return json.loads(await _body(response, patience))
    except (ValueError, RecursionError) as error:
        raise invalid_response("a body that is no JSON") from error


async def _refused(response: aiohttp.ClientResponse, patience: Patience) -> RunnerError:
    """What another status than 200 means; its body may say more."""
    try:
        body = json.loads(await _body(response, patience))
    except (ValueError, RecursionError, aiohttp.ClientError, RunnerError):
        body = None  # the status says enough
    headers = {name.lower(): value for name, value in response.headers.items()}
    return fault_of_status(response.status, body, headers)


class HttpRunners:
    """Makes runners of the servers that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._servers = settings.http_servers
        self._limits = ModelLimits.of(settings)

    def media_types(self, model: str) -> Sequence[str]:
        """What the settings say of the server."""
        server = self._servers.get(after_provider(model).partition("#")[0])
        return server.media_types if server is not None else ()

    def __call__(self, model: str) -> Runner:
        """A runner for ``http:NAME#MODEL``. Raises :class:`RunnerError`."""
        name, _, rest = after_provider(model).partition("#")
        server = self._servers.get(name)
        if server is None:
            known = ", ".join(sorted(self._servers)) or "none"
            raise bad_model_name(model, f"no such server in TURNLOG_HTTP_SERVERS; it names {known}")
        if not rest.strip() or len(rest) > MAX_MODEL_CHARACTERS:
            raise bad_model_name(model, f"a model's name follows the server's: http:{name}#MODEL")
        return HttpRunner(server, rest, self._limits)


@functools.cache
def _from_environment() -> HttpRunners:
    return HttpRunners(Settings())


class HttpFactory:
    """Runners for ``http:NAME#MODEL``, by the settings of this process."""

    def media_types(self, model: str) -> Sequence[str]:
        """What the settings say of the server."""
        return _from_environment().media_types(model)

    def __call__(self, model: str) -> Runner:
        """A runner for a full model name. Raises :class:`RunnerError`."""
        return _from_environment()(model)

    def availability(self) -> Availability:
        """Which servers are named, and whose keys are not where they should be?"""
        servers = Settings().http_servers
        missing = [server.key_env for server in servers.values() if server.key_env and not server.has_key()]
        missing += [str(server.key_file) for server in servers.values() if server.key_file and not server.has_key()]
        if not servers:
            return Availability(missing_settings=("TURNLOG_HTTP_SERVERS",))
        return Availability(missing_keys=tuple(missing), note=f"servers: {', '.join(sorted(servers))}")


factory = HttpFactory()
