"""What is sent to a model: the assembled history, repaired where a server would refuse it or misread it.

The log is never edited: arguments that are no JSON, and a template's control tokens in somebody's words, are repaired
in what is sent only.
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NoReturn

from turnlog_schemas.generation import RESERVED, GenerationParams
from turnlog_schemas.parts import TEXT
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.openai_format import openai_messages
from turnlog_streams.history.view import assemble
from turnlog_workers.runners.base import ToolDefinition, TurnInput

#: What all providers take. Sources: what OpenAI (ids of at most 40 characters, names of at most 64) and Anthropic (ids
#: of these characters, each once in a request) answer to others.
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME_CHARACTERS = 64
BROKEN_ARGUMENTS = "arguments_that_are_no_json"  #: the one key under which they are sent
#: The marks of chat templates: ChatML and its kin, Llama 2 and 3, Mistral, Gemma, DeepSeek. In a text that a server
#: puts into its template they are real control tokens: they could end the user's message and begin one of the system.
_CONTROL_TOKEN = re.compile(
    r"<(?=[|｜][^\s<>|｜]{1,64}[|｜]>)|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|tool_call|tool_response)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])|<(?=</?SYS>>)"
)


def shown_messages(turn: TurnInput, since: Sequence[HistoryMessage] = ()) -> tuple[HistoryMessage, ...]:
    """All that the model is to see, with what this ``run()`` has added ``since``; ids in one message are distinct."""
    before = turn.assembled
    if not before:  # a task of its own, like a summary: there is nothing but what is asked
        asked = HistoryMessage(message_seq=0, turn_id=turn.turn_id, role="user", content=turn.user_content)
        before = (*turn.history, asked, *turn.turn_messages)
    return assemble([*before, *since]).messages


def openai_request_messages(
    turn: TurnInput, since: Sequence[HistoryMessage] = (), *, escape_control_tokens: bool = True, files: bool = False
) -> list[dict[str, Any]]:
    """The ``messages`` of a request in the OpenAI chat format. ``files``: as ``history.openai_format`` has it."""
    clean: Callable[[str], str] = without_control_tokens if escape_control_tokens else str
    messages = openai_messages(turn.instructions, shown_messages(turn, since), files=files)
    for index, message in enumerate(messages):
        is_ours = index == 0 and turn.instructions is not None  # the instructions are the operator's
        if isinstance(message["content"], str) and not is_ours:
            message["content"] = clean(message["content"])
        elif isinstance(message["content"], list):
            for part in message["content"]:
                if part["type"] == TEXT:
                    part["text"] = clean(part["text"])
        if "name" in message:  # of a history that came from elsewhere
            message["name"] = _NOT_IN_NAMES.sub("_", message["name"])[:_MAX_NAME_CHARACTERS]
        for call in message.get("tool_calls", ()):
            function = call["function"]
            function["arguments"] = sendable_arguments(function["arguments"])
            function["name"] = _NOT_IN_NAMES.sub("_", function["name"])[:_MAX_NAME_CHARACTERS]
    _with_distinct_ids(messages)
    return messages


def _with_distinct_ids(messages: Sequence[dict[str, Any]]) -> None:
    """Every call of the request has an id of its own, in the form that all providers take; its result follows it."""
    sent: set[str] = set()
    of_group: dict[str, str] = {}
    for message in messages:
        if message["role"] == "tool":
            message["tool_call_id"] = of_group.get(message["tool_call_id"], message["tool_call_id"])
            continue
        of_group = {}
        for call in message.get("tool_calls", ()):
            stored = call["id"]
            if stored in sent or not _CALL_ID.fullmatch(stored):
                call["id"] = next(made for n in count(len(sent) + 1) if (made := f"call_{n}") not in sent)
            sent.add(call["id"])
            of_group[stored] = call["id"]


def openai_params(params: GenerationParams) -> dict[str, Any]:
    """The parameters of a request in the OpenAI chat format, the bound of the answer excepted."""
    said: dict[str, Any] = settings_of(params)
    if params.temperature is not None:
        said["temperature"] = params.temperature
    if params.stop:
        said["stop"] = list(params.stop)
    return said


def settings_of(params: GenerationParams) -> dict[str, Any]:
    """A provider's own settings, as values."""
    return {name: json.loads(text) for name, text in params.settings.items() if name not in RESERVED}


def openai_tools(definitions: Sequence[ToolDefinition]) -> list[dict[str, Any]]:
    """The ``tools`` of a request in the OpenAI chat format."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in definitions
    ]


def sendable_arguments(arguments: str) -> str:
    """The text as it is, if it is a JSON object; else one that says what the model wrote.

    A server that reads arguments refuses a history with broken ones for ever; source: llama.cpp's "Failed to parse tool
    call arguments as JSON", status 500, also for the empty text.
    """
    if not arguments.strip():
        return "{}"
    if is_json_object(arguments):
        return arguments
    return json.dumps({BROKEN_ARGUMENTS: arguments}, ensure_ascii=False)


def is_json_object(text: str) -> bool:
    """Strict JSON, so neither NaN nor Infinity, and an object."""
    try:
        return isinstance(json.loads(text, parse_constant=_no_constant), dict)
    except (ValueError, RecursionError):
        return False


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def without_control_tokens(text: str) -> str:
    """The text with a space inside of what a chat template would take for its own marks."""
    return _CONTROL_TOKEN.sub(lambda found: f"{found.group(0)} ", text)
