"""One call of a provider's model through pydantic-ai's model level. Importing this module takes seconds.

The model level, not its agent: an agent drops results without a call, and makes up others. What its streams do that one
would not think of: the first piece of a part comes with the part's start, a stream that ends early ends without an
error and with a made-up finish reason (the real one is in ``provider_details``), and usage that comes again is added.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any

import httpx2
from pydantic_ai import exceptions as errors
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    PartDeltaEvent,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, infer_model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from turnlog_schemas.files import file_name
from turnlog_schemas.parts import ContentPart, Usage
from turnlog_streams.history.messages import HistoryMessage
from turnlog_workers.observe import tracing
from turnlog_workers.runners.base import CONTEXT_TOO_LONG, ReasoningDelta, RunnerError, TextDelta, TurnInput
from turnlog_workers.runners.base import ToolDefinition as Offered
from turnlog_workers.runners.models.chat_stream import count_of, whole_answer
from turnlog_workers.runners.models.faults import (
    ServerFaultError,
    fault,
    fault_of_status,
    invalid_response,
    stream_cut,
)
from turnlog_workers.runners.models.media_types import media_types_of
from turnlog_workers.runners.models.patience import ModelLimits, Patience
from turnlog_workers.runners.models.sent_files import show_files
from turnlog_workers.runners.models.sent_messages import openai_request_messages, settings_of
from turnlog_workers.runners.models.steps import ModelAnswer

MAX_MODELS = 200  #: kept ready
#: The first that fits. Sources: the classes of ``pydantic_ai.exceptions``.
_CODES: tuple[tuple[type[errors.ModelAPIError], str], ...] = (
    (errors.ModelContextWindowExceededError, CONTEXT_TOO_LONG),
    (errors.ModelQuotaExceededError, "quota_exceeded"),
    (errors.ModelRateLimitError, "rate_limited"),
    (errors.ModelUnavailableError, "overloaded"),
    (errors.ModelServerError, "server_error"),
    (errors.ModelAuthenticationError, "authentication"),
    (errors.ModelNotFoundError, "model_not_found"),
    (errors.ModelRequestRejectedError, "request_rejected"),
)


_opened: ContextVar[list[httpx2.Response]] = ContextVar("_opened")


class _Client(httpx2.AsyncClient):
    """Notes the responses of the call that is under way: not every library closes its own when it is stopped."""

    async def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        request.headers.update(tracing.outgoing())
        response = await super().send(request, **kwargs)
        if (opened := _opened.get(None)) is not None:
            opened.append(response)
        return response


class ModelClients:
    """The models that were asked last, by provider, name and key; they share their connections."""

    def __init__(self, limits: ModelLimits) -> None:
        self._limits = limits
        self._models: dict[tuple[str, str, str | None], Model[Any]] = {}
        self._tls = ssl.create_default_context()  # once: reading the certificates takes long
        self._loop: asyncio.AbstractEventLoop | None = None  # of the connections
        self._http: httpx2.AsyncClient | None = None

    async def ask(
        self, provider: str, name: str, key: str | None, turn: TurnInput, since: Sequence[HistoryMessage]
    ) -> AsyncGenerator[TextDelta | ReasoningDelta | ModelAnswer]:
        """One model call. Raises :class:`RunnerError`."""
        patience = Patience(self._limits)
        text: list[str] = []
        opened: list[httpx2.Response] = []
        _opened.set(opened)
        try:
            model = await self._model(provider, name, key)
            messages = provider_messages(await _sent(provider, turn, since))
            offered = turn.tools.definitions if turn.allow_tools else ()
            parameters = _parameters(provider, messages, offered)
            async with AsyncExitStack() as stack:
                call = model.request_stream(messages, self._settings(turn, parameters, offered), parameters)
                async with patience.waiting():
                    response = await stack.enter_async_context(call)
                _count_usage_once(response)
                events = aiter(response)
                while True:
                    async with patience.waiting():
                        event = await anext(events, None)
                    if event is None:
                        break
                    patience.heard()
                    for output in _outputs(event):
                        if isinstance(output, TextDelta):
                            text.append(output.text)
                        yield output
        except RunnerError:
            raise
        except (errors.AgentRunError, errors.UserError, httpx2.HTTPError, json.JSONDecodeError) as error:
            raise runner_error(error) from error
        finally:
            for one in opened:
                await one.aclose()
        yield _answer(response, "".join(text) if text else None)

    def _settings(
        self, turn: TurnInput, parameters: ModelRequestParameters, offered: Sequence[Offered]
    ) -> ModelSettings:
        settings = ModelSettings(max_tokens=self._limits.answer_tokens(turn.params), max_retries=0)
        if turn.params.temperature is not None:
            settings["temperature"] = turn.params.temperature
        if turn.params.stop:
            settings["stop_sequences"] = list(turn.params.stop)
        own = settings_of(turn.params)
        for name in ("top_p", "top_k", "seed", "presence_penalty", "frequency_penalty", "parallel_tool_calls"):
            if name in own:
                settings[name] = own.pop(name)
        if own:
            settings["extra_body"] = own
        if parameters.function_tools and not offered:
            settings["tool_choice"] = "none"
        return settings

    async def _model(self, provider: str, name: str, key: str | None) -> Model[Any]:
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            self._models, self._loop, self._http = {}, loop, self._client()
        model = self._models.get((provider, name, key))
        if model is not None:
            return model
        try:
            model = await asyncio.to_thread(self._made, provider, name, key, self._http)
        except (errors.UserError, ImportError, ValueError) as error:
            # Its sentence may be long, and says nothing of this worker's settings.
            reason = f"pydantic-ai has no usable model {name!r} of {provider!r} here ({type(error).__name__})"
            raise RunnerError("broken_provider", reason, retryable=False) from error
        if len(self._models) >= MAX_MODELS:
            self._models.clear()
        self._models[provider, name, key] = model
        return model

    def _client(self) -> httpx2.AsyncClient:
        return _Client(
            timeout=httpx2.Timeout(None, connect=self._limits.connect_s),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
            verify=self._tls,
            follow_redirects=False,  # a redirect would take the key along
        )

    @staticmethod
    def _made(provider: str, name: str, key: str | None, client: httpx2.AsyncClient) -> Model[Any]:
        if provider == "anthropic":
            from pydantic_ai.models.anthropic import AnthropicModel
            from pydantic_ai.providers.anthropic import AnthropicProvider

            return AnthropicModel(name, provider=AnthropicProvider(api_key=key, http_client=client))
        if provider == "openai":
            from pydantic_ai.models.openai import OpenAIChatModel
            from pydantic_ai.providers.openai import OpenAIProvider

            return OpenAIChatModel(name, provider=OpenAIProvider(api_key=key, http_client=client))
        if provider == "google":
            from pydantic_ai.models.google import GoogleModel
            from pydantic_ai.providers.google import GoogleProvider

            address = os.environ.get("GOOGLE_GEMINI_BASE_URL") or None
            return GoogleModel(name, provider=GoogleProvider(api_key=key, http_client=client, base_url=address))
        return infer_model(f"{provider}:{name}")


# ---- what is sent


async def _sent(provider: str, turn: TurnInput, since: Sequence[HistoryMessage]) -> list[dict[str, Any]]:
    messages = openai_request_messages(turn, since, escape_control_tokens=False, files=True)
    await show_files(turn, messages, media_types_of(provider), _shown, str)
    return messages


def _shown(part: ContentPart, data: bytes) -> str | BinaryContent:
    media_type = part.media_type or ""
    if media_type.startswith("text/"):
        return f"{file_name(part)}:\n{data.decode(errors='replace')}"
    return BinaryContent(data=data, media_type=media_type)


def provider_messages(messages: Sequence[dict[str, Any]]) -> list[ModelMessage]:
    """The messages of a request in the OpenAI chat format as pydantic-ai's."""
    found: list[ModelMessage] = []
    names: dict[str, str] = {}
    for message in messages:
        text = message["content"]
        if message["role"] == "assistant":
            calls = message.get("tool_calls", ())
            parts: list[ModelResponsePart] = []
            if text and (text.strip() or not calls):  # a text block of blanks is refused
                parts.append(TextPart(content=text))
            for call in calls:
                function = call["function"]
                names[call["id"]] = function["name"]
                parts.append(
                    ToolCallPart(tool_name=function["name"], args=function["arguments"], tool_call_id=call["id"])
                )
            found.append(ModelResponse(parts=parts))
            continue
        if isinstance(text, list):  # a user's, with files
            said = [each["text"] if isinstance(each, dict) else each for each in text]
            part: ModelRequestPart = UserPromptPart(content=said)
        else:
            part = _request_part(message, text or "", names)
        if found and isinstance(found[-1], ModelRequest):
            found[-1].parts = [*found[-1].parts, part]
        else:
            found.append(ModelRequest(parts=[part]))
    return found


def _request_part(message: dict[str, Any], text: str, names: dict[str, str]) -> ModelRequestPart:
    if message["role"] == "system":
        return SystemPromptPart(content=text)
    if message["role"] == "tool":
        call_id = message["tool_call_id"]
        return ToolReturnPart(tool_name=names.get(call_id, "unknown"), content=text, tool_call_id=call_id)
    return UserPromptPart(content=text)


def _tools_of(messages: Sequence[ModelMessage]) -> list[str]:
    """The names of all tools that the history calls."""
    names = {
        part.tool_name: None
        for message in messages
        if isinstance(message, ModelResponse)
        for part in message.parts
        if isinstance(part, ToolCallPart)
    }
    return list(names)


def _parameters(provider: str, messages: Sequence[ModelMessage], offered: Sequence[Offered]) -> ModelRequestParameters:
    """The tools of the turn. Anthropic refuses a history with calls of tools that the request does not describe: these
    are described, too, as unusable."""
    tools = [
        ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=dict(tool.parameters))
        for tool in offered
    ]
    if provider == "anthropic":
        known = {tool.name for tool in offered}
        tools += [
            ToolDefinition(name=name, description="Not available any more.", parameters_json_schema={"type": "object"})
            for name in _tools_of(messages)
            if name not in known
        ]
    return ModelRequestParameters(function_tools=tools)


# ---- what comes


def _outputs(event: object) -> Iterator[TextDelta | ReasoningDelta]:
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            if text:
                yield TextDelta(text=text)
        case PartStartEvent(part=ThinkingPart(content=text)):
            if text:
                yield ReasoningDelta(text=text)
        case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought)):
            if thought:
                yield ReasoningDelta(text=thought)


def _count_usage_once(response: StreamedResponse) -> None:
    """Some servers repeat the usage in each chunk: the last one counts, and nothing is asked of the server for it."""
    if hasattr(response, "_model_settings"):
        response._model_settings = {**(response._model_settings or {}), "openai_continuous_usage_stats": True}


def _answer(response: StreamedResponse, text: str | None) -> ModelAnswer:
    details = response.provider_details or {}
    reason = response.finish_reason
    tracing.note_answer(finish_reason=reason)
    if not details.get("finish_reason") and reason != "content_filter":
        raise stream_cut("the stream ended before the model had finished")
    if reason == "error":
        raise fault("server_error", "the model ended with an error")
    calls = [
        (part.tool_call_id, part.tool_name, _arguments(part.args))
        for part in response.get().parts
        if isinstance(part, ToolCallPart)
    ]
    message = whole_answer(text, calls, cut_short=reason == "length", filtered=reason == "content_filter")
    usage = response.usage
    prompt = count_of(usage.input_tokens)
    return ModelAnswer(
        message=message,
        usage=Usage(
            input_tokens=prompt,
            output_tokens=count_of(usage.output_tokens),
            model_calls=1,
            last_input_tokens=prompt,
        ),
    )


def _arguments(args: object) -> str:
    """As the model wrote them; of a provider that hands out what it has read, as JSON."""
    if not args or isinstance(args, str):
        return args if isinstance(args, str) else ""
    return json.dumps(args, ensure_ascii=False)


# ---- what goes wrong


def runner_error(error: Exception) -> RunnerError:
    """What an error of pydantic-ai or below means."""
    if isinstance(error, errors.ContentFilterError):
        return RunnerError("content_filter", "the provider's content filter stopped the answer", retryable=False)
    if isinstance(error, errors.ModelHTTPError) and not error.in_stream:
        made = fault_of_status(error.status_code, error.body, error.headers or {})
        if made.retryable and made.retry_after_s is None:
            made.retry_after_s = error.retry_after
        return made
    chain = list(_chain(error))
    if isinstance(error, errors.ModelConnectionError | httpx2.HTTPError):
        if any(isinstance(cause, ssl.SSLError) for cause in chain):
            return fault("unreachable", "no secure connection", retryable=False)
        if any(isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout) for cause in chain):
            return fault("unreachable")
        return stream_cut("the connection was lost")
    if isinstance(error, errors.ModelAPIError):
        numbers = (getattr(cause, "status_code", None) for cause in chain)
        status = next((number for number in numbers if isinstance(number, int) and number != 200), 500)
        if 300 <= status < 400:
            return fault_of_status(status, None, {})
        return _in_stream(error, fault_of_status(status, error.body, {}))
    if isinstance(error, errors.UnexpectedModelBehavior):
        return stream_cut("the stream ended before it began, or makes no sense")
    return invalid_response(f"{type(error).__name__} in the provider's library")


def _in_stream(error: errors.ModelAPIError, otherwise: RunnerError) -> RunnerError:
    for kind, code in _CODES:
        if isinstance(error, kind):
            detail = "an error in the middle of the stream"
            made = fault(code, detail, prompt_tokens=otherwise.prompt_tokens, window_tokens=otherwise.window_tokens)
            made.said = otherwise.said if isinstance(otherwise, ServerFaultError) else ""
            return made
    if any(isinstance(cause, json.JSONDecodeError) for cause in _chain(error)) or error.body is None:
        return invalid_response("an event that cannot be read")
    return otherwise


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__
