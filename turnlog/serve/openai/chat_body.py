"""The body of ``POST /v1/chat/completions``: read. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from turnlog.serve.http_errors import bad_request
from turnlog.serve.openai.generation import params_of
from turnlog.serve.openai.responses_body import model_of
from turnlog.serve.openai.said import (
    Said,
    chosen,
    client_call,
    divided,
    function_tool,
    parallel_calls,
    text_of,
    text_parts,
)
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import ClientTool, InitialMessage, ToolCall
from turnlog_schemas.request_checks import is_name

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A completion as it was asked for."""

    said: Said
    messages: tuple[InitialMessage, ...]  #: all that were sent, the system's too
    model: str | None
    named_model: str  #: as the request says it; it is said again in the answer
    tools: tuple[ClientTool, ...]
    params: GenerationParams | None
    stream: bool
    include_usage: bool
    metadata: Mapping[str, Any]


def read_chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """Raises 400 for what cannot be carried out; fields that change nothing are passed over."""
    if body.get("n") not in (None, 1):
        raise bad_request("unsupported", "one answer is given: n must be 1", "n")
    messages = tuple(_messages(body.get("messages")))
    options = body.get("stream_options")
    limit = body.get("max_completion_tokens")
    settings = {
        "response_format": _response_format(body),
        "reasoning_effort": body.get("reasoning_effort"),
        "parallel_tool_calls": parallel_calls(body),
    }
    metadata = body.get("metadata")
    model = body.get("model")
    return ChatRequest(
        said=divided(messages, where="messages"),
        messages=messages,
        model=model_of(body),
        named_model=model if isinstance(model, str) else "",
        tools=chosen(_tools(body.get("tools")), body.get("tool_choice")),
        params=params_of(body, max_tokens=body.get("max_tokens") if limit is None else limit, settings=settings),
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _response_format(body: Mapping[str, Any]) -> Any:
    form = body.get("response_format")
    return None if isinstance(form, dict) and form.get("type") == "text" else form


def _messages(value: Any) -> list[InitialMessage]:
    if not isinstance(value, list) or not value:
        raise bad_request("invalid_type", "messages is a list of messages, at least one", "messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(value)]


def _message(message: Any, where: str) -> InitialMessage:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        raise bad_request("invalid_value", f"role is one of {', '.join(_ROLES)}", f"{where}.role")
    content = message.get("content")
    parts = () if content is None and role == "assistant" else text_parts(content, f"{where}.content")
    call_id = None
    if role in ("tool", "function"):
        call_id = message.get("name") if role == "function" else text_of(message, "tool_call_id", where)
    return InitialMessage(
        role="tool" if role == "function" else role,
        content=parts or (None if role == "assistant" else ()),
        tool_calls=tuple(_calls(message.get("tool_calls"), where)) if role == "assistant" else (),
        tool_call_id=call_id,
        name=_name(message.get("name")) if role == "user" else None,
    )


def _name(value: Any) -> str | None:
    """Of who speaks, where it is one; the field was never said to matter, so any other is passed over."""
    return value if isinstance(value, str) and is_name(value) else None


def _calls(value: Any, where: str) -> list[ToolCall]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad_request("invalid_type", "tool_calls is a list", f"{where}.tool_calls")
    calls = []
    for index, call in enumerate(value):
        place = f"{where}.tool_calls[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise bad_request("unsupported_tool", "only calls of functions are taken", place)
        name, arguments = text_of(function, "name", place), text_of(function, "arguments", place)
        calls.append(client_call(text_of(call, "id", place), name, arguments))
    return calls


def _tools(value: Any) -> tuple[ClientTool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad_request("invalid_type", "tools is a list", "tools")
    tools = []
    for index, tool in enumerate(value):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise bad_request("unsupported_tool", "only functions are taken", f"tools[{index}]")
        tools.append(function_tool(tool.get("function"), f"tools[{index}].function"))
    return tuple(tools)


def users_texts(messages: Sequence[InitialMessage]) -> list[str]:
    """What the user said, message by message."""
    return ["".join(part.text or "" for part in each.content or ()) for each in messages if each.role == "user"]
