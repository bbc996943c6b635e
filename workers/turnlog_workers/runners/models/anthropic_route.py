"""``anthropic:MODEL``: Anthropic's messages, asked and read by ourselves, as ``http:`` does with the OpenAI format.

Anthropic's library below pydantic-ai takes many times the CPU for a piece of an answer, and three seconds of imports.
Source of the format: Anthropic's pages "Messages" and "Streaming Messages".
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from turnlog_schemas.files import file_name
from turnlog_schemas.parts import ContentPart, Usage
from turnlog_streams.history.messages import HistoryMessage
from turnlog_workers.base.model_servers import HttpServer, KeySource, key_of
from turnlog_workers.runners.base import AssistantMessage, ReasoningDelta, TextDelta, ToolDefinition, TurnInput
from turnlog_workers.runners.models.chat_stream import ChatAnswer, count_of, whole_answer
from turnlog_workers.runners.models.faults import fault_in_stream, invalid_response, stream_cut
from turnlog_workers.runners.models.http import HttpRunner
from turnlog_workers.runners.models.media_types import media_types_of
from turnlog_workers.runners.models.patience import ModelLimits
from turnlog_workers.runners.models.sent_files import show_files
from turnlog_workers.runners.models.sent_messages import (
    BROKEN_ARGUMENTS,
    openai_request_messages,
    settings_of,
)

ADDRESS = "https://api.anthropic.com"
KEY_VARIABLE = "ANTHROPIC_API_KEY"
ADDRESS_VARIABLE = "ANTHROPIC_BASE_URL"
VERSION = "2023-06-01"
#: Stop reasons that are an end. Anything else that comes is one, too.
_LENGTH = ("max_tokens", "model_context_window_exceeded")
_FILTERED = ("refusal",)
#: Of the OpenAI format, and refused here; clients of that format say them whatever the model is.
_OF_OPENAI = ("presence_penalty", "frequency_penalty", "seed", "logit_bias", "parallel_tool_calls")
_MAX_THOUGHT_CHARACTERS = 4 * 1024 * 1024  #: of one answer, with what signs them


class AnthropicServer(HttpServer):
    """Anthropic's own server, or what is in its place."""

    @property
    def key(self) -> KeySource | None:
        """Where the key is now: it may have been put into a file since."""
        return key_of(KEY_VARIABLE) or KeySource(variable=KEY_VARIABLE)


def anthropic_server() -> AnthropicServer:
    """As the environment has it. Raises :class:`ValueError` for an address that is none."""
    return AnthropicServer(
        url=os.environ.get(ADDRESS_VARIABLE, "").strip() or ADDRESS, media_types=media_types_of("anthropic")
    )


class AnthropicRunner(HttpRunner):
    """Asks one model; keeps its connection from turn to turn."""

    def __init__(self, model: str, limits: ModelLimits) -> None:
        super().__init__(anthropic_server(), model, limits)
        self._answers: list[AnthropicAnswer] = []  # of this run, one for each assistant message of it

    def _new_answer(self) -> ChatAnswer:
        answer = AnthropicAnswer()
        self._answers.append(answer)
        return answer

    def _is_ping(self, name: str) -> bool:
        return name == "ping"

    async def _messages(self, turn: TurnInput, since: Sequence[HistoryMessage]) -> list[dict[str, Any]]:
        asked = sum(message.role == "assistant" for message in since)
        self._answers = self._answers[-asked:] if asked else []
        messages = openai_request_messages(turn, since, escape_control_tokens=False, files=True)
        await show_files(turn, messages, self._server.media_types, file_block, text_block)
        return messages

    async def _post(self, turn: TurnInput, messages: list[dict[str, Any]]) -> aiohttp.ClientResponse:
        params = turn.params
        said = settings_of(params)
        own = {name: value for name, value in said.items() if name not in _OF_OPENAI}
        settings = with_thoughts(messages, [answer.thoughts() for answer in self._answers], own)
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": self._limits.answer_tokens(params),
            **request_parts(messages),
            "stream": True,
            **settings,
        }
        if params.temperature is not None:
            body["temperature"] = params.temperature
        if params.stop:
            body["stop_sequences"] = list(params.stop)
        offered = turn.tools.definitions if turn.allow_tools else ()
        if tools := described_tools(messages, offered):
            body["tools"] = tools
            if not offered:
                body["tool_choice"] = {"type": "none"}
            elif said.get("parallel_tool_calls") is False:
                body["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
        return await self._send(f"{self._server.url}/v1/messages", body, {"anthropic-version": VERSION})

    def _authorization(self) -> dict[str, str]:
        return {"x-api-key": self._key()}


# ---- what is sent


def text_block(text: str) -> dict[str, Any]:
    """A text as a part of a message."""
    return {"type": "text", "text": text}


def file_block(part: ContentPart, data: bytes) -> dict[str, Any]:
    """A file as a part of a message."""
    kind = part.media_type or ""
    if kind.startswith("text/"):
        return text_block(f"{file_name(part)}:\n{data.decode(errors='replace')}")
    source = {"type": "base64", "media_type": kind, "data": base64.b64encode(data).decode()}
    return {"type": "image" if kind.startswith("image/") else "document", "source": source}


def with_thoughts(
    messages: Sequence[dict[str, Any]], thoughts: Sequence[list[dict[str, Any]]], settings: dict[str, Any]
) -> dict[str, Any]:
    """Put the thoughts of this run's answers before their calls. The settings, without ``thinking`` if it must rest.

    A model that thinks by a budget must find the thoughts that led to the calls whose results it gets; else the request
    is refused. They are not stored, so an attempt that goes on with the calls of another one is made without thinking.
    Source: Anthropic's page "Extended thinking", on tools.
    """
    thinking = settings.get("thinking")
    if not isinstance(thinking, dict):
        return settings
    places = [place for place, message in enumerate(messages) if message["role"] == "user"]
    loop = [message for message in messages[places[-1] + 1 if places else 0 :] if message["role"] == "assistant"]
    known = list(zip(reversed(loop), reversed(thoughts), strict=False))
    if loop and thinking.get("type") == "enabled" and not (known and known[0][1]):
        return {name: value for name, value in settings.items() if name != "thinking"}
    for message, blocks in known:
        message["thoughts"] = blocks
    return settings


def request_parts(messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``system`` and ``messages`` of a request, for messages in the OpenAI chat format.

    What is said by the system goes before all. Results of calls are the user's here, and stand before what he says.
    """
    system = [message["content"] for message in messages if message["role"] == "system" and message["content"]]
    found: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        role, blocks = _blocks(message)
        if found and found[-1]["role"] == role:
            found[-1]["content"] += blocks
        elif blocks:
            found.append({"role": role, "content": blocks})
    made: dict[str, Any] = {"messages": found}
    return {"system": "\n\n".join(system), **made} if system else made


def _blocks(message: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    content = message["content"]
    if message["role"] == "tool":
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
        return "user", [{**result, "content": content} if content else result]
    blocks: list[dict[str, Any]] = list(message.get("thoughts", ()))
    if isinstance(content, list):
        blocks += [block for block in content if block.get("text", "x").strip()]  # a block of blanks is refused
    elif content and content.strip():
        blocks.append(text_block(content))
    for call in message.get("tool_calls", ()):
        function = call["function"]
        made = {"type": "tool_use", "id": call["id"], "name": function["name"]}
        blocks.append({**made, "input": _input(function["arguments"])})
    return message["role"], blocks


def _input(arguments: str) -> Any:
    """The arguments as an object; those that JSON has no number for as a text."""
    found = json.loads(arguments)
    try:
        json.dumps(found, allow_nan=False)
    except ValueError:
        return {BROKEN_ARGUMENTS: arguments}
    return found


def described_tools(messages: Sequence[dict[str, Any]], offered: Sequence[ToolDefinition]) -> list[dict[str, Any]]:
    """The tools of the turn, and as unusable those that the history calls: a call of an unknown one is refused."""
    tools = [
        {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)} for tool in offered
    ]
    known = {tool.name for tool in offered}
    for message in messages:
        for call in message.get("tool_calls", ()):
            name = call["function"]["name"]
            if name not in known:
                known.add(name)
                schema = {"type": "object"}
                tools.append({"name": name, "description": "Not available any more.", "input_schema": schema})
    return tools


# ---- what comes


class AnthropicAnswer(ChatAnswer):
    """Takes the events of one answer. It is whole with its ``message_stop`` only."""

    def __init__(self) -> None:
        super().__init__()
        self._said: list[str] = []
        self._uses: dict[int, tuple[str, str, list[str]]] = {}  # by index of its block: id, name, pieces of its input
        self._thoughts: dict[int, dict[str, str]] = {}  # by index of its block
        self._thought_characters = 0
        self._input_tokens = self._output_tokens = 0

    def take(self, chunk: object) -> list[TextDelta | ReasoningDelta]:
        """What an event says. Raises :class:`RunnerError`."""
        if not isinstance(chunk, dict):
            raise invalid_response("an event that is no object")
        match chunk.get("type"):
            case "error":
                raise fault_in_stream(chunk)
            case "message_start":
                message = chunk.get("message")
                self._count(message.get("usage") if isinstance(message, dict) else None)
            case "content_block_start":
                return self._begins(chunk.get("index"), chunk.get("content_block"))
            case "content_block_delta":
                return self._continues(chunk.get("index"), chunk.get("delta"))
            case "message_delta":
                delta = chunk.get("delta")
                reason = delta.get("stop_reason") if isinstance(delta, dict) else None
                self.finish_reason = reason if isinstance(reason, str) and reason else self.finish_reason
                self._count(chunk.get("usage"))
            case "message_stop":
                self.done = True
        return []

    def _count(self, usage: object) -> None:
        """Input is told at the start, and may be again; output is a running total."""
        if not isinstance(usage, dict):
            return
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        self._input_tokens = sum(count_of(usage.get(name)) for name in names) or self._input_tokens
        self._output_tokens = count_of(usage.get("output_tokens")) or self._output_tokens
        self.usage = Usage(
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            model_calls=1,
            last_input_tokens=self._input_tokens,
        )

    def _begins(self, chunk_index: object, block: object) -> list[TextDelta | ReasoningDelta]:
        if not isinstance(block, dict):
            raise invalid_response("a block that is no object")
        if block.get("type") == "tool_use":
            whole = block.get("input")
            begun = [json.dumps(whole, ensure_ascii=False)] if isinstance(whole, dict) and whole else []
            self._open_call(chunk_index, _text(block.get("id")), _text(block.get("name")), begun)
            return []
        index = chunk_index if isinstance(chunk_index, int) else -1
        if block.get("type") == "redacted_thinking":
            self._think(index, "data", _text(block.get("data")), "redacted_thinking")
            return []
        if block.get("type") == "thinking":
            self._think(index, "thinking", _text(block.get("thinking")))
            self._think(index, "signature", _text(block.get("signature")))
        return self._words(_text(block.get("text")), _text(block.get("thinking")))

    def thoughts(self) -> list[dict[str, Any]]:
        """Its thoughts as they are sent back, and must be, to the letter."""
        return [dict(self._thoughts[index]) for index in sorted(self._thoughts)]

    def _think(self, index: int, field: str, piece: str, kind: str = "thinking") -> None:
        self._thought_characters += len(piece)
        if self._thought_characters > _MAX_THOUGHT_CHARACTERS:
            raise invalid_response(f"thoughts of more than {_MAX_THOUGHT_CHARACTERS} characters")
        block = self._thoughts.setdefault(index, {"type": kind})
        block[field] = block.get(field, "") + piece

    def _open_call(self, index: object, call_id: str, name: str, pieces: list[str]) -> None:
        if not isinstance(index, int):
            raise invalid_response("a block without an index")
        self._uses[index] = (call_id, name, pieces)
        self.check_calls(len(self._uses))

    def _continues(self, index: object, delta: object) -> list[TextDelta | ReasoningDelta]:
        if not isinstance(delta, dict):
            raise invalid_response("a piece that is no object")
        if delta.get("type") == "input_json_delta":
            use = self._uses.get(index) if isinstance(index, int) else None
            if use is None:
                raise invalid_response("a piece of a tool call that did not begin")
            use[2].append(self.counted(_text(delta.get("partial_json"))))
            return []
        if isinstance(index, int) and self._thoughts.get(index, {}).get("type") == "thinking":
            for field in ("thinking", "signature"):
                self._think(index, field, _text(delta.get(field)))
        return self._words(_text(delta.get("text")), _text(delta.get("thinking")))

    def _words(self, text: str, thought: str) -> list[TextDelta | ReasoningDelta]:
        found: list[TextDelta | ReasoningDelta] = []
        if thought:
            found.append(ReasoningDelta(text=thought))
        if text:
            self._said.append(text)
            found.append(TextDelta(text=text))
        return found

    def message(self) -> AssistantMessage:
        """The whole answer. Raises :class:`RunnerError` if it is not complete."""
        if not self.done or self.finish_reason is None:
            raise stream_cut("the stream ended before the model had finished")
        return whole_answer(
            "".join(self._said) if self._said else None,
            [(call_id, name, "".join(pieces)) for _, (call_id, name, pieces) in sorted(self._uses.items())],
            cut_short=self.finish_reason in _LENGTH,
            filtered=self.finish_reason in _FILTERED,
        )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
