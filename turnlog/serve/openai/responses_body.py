"""The body of ``POST /v1/responses``: read, and echoed. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from turnlog.serve.http_errors import bad_request
from turnlog.serve.openai.generation import params_of
from turnlog.serve.openai.response_object import UNKNOWN_MODEL
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
from turnlog_schemas.parts import ClientTool, ContentPart, InitialMessage

MAX_METADATA = 16
_MAX_METADATA_KEY, _MAX_METADATA_VALUE = 64, 512
_MESSAGE_ROLES = ("user", "assistant", "system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRequest:
    """A response as it was asked for."""

    said: Said
    model: str | None  #: ``None``: the session's, or the default
    instructions: str | None  #: the field alone; what messages of the system say is in ``said``
    conversation: str | None
    previous_response_id: str | None
    tools: tuple[ClientTool, ...]
    params: GenerationParams | None
    stream: bool
    background: bool
    echo: Mapping[str, Any]


def read_response_request(body: Mapping[str, Any]) -> ResponseRequest:
    """Raises 400 for what cannot be carried out; fields that change nothing are passed over."""
    conversation = _conversation(body.get("conversation"))
    previous = _text(body, "previous_response_id")
    if conversation is not None and previous is not None:
        raise bad_request(
            "invalid_request", "previous_response_id and conversation: only one of them can say where to go on"
        )
    if body.get("prompt") is not None:
        raise bad_request("unsupported", "stored prompts are not kept here: send instructions and input", "prompt")
    tools = _tools(body.get("tools"))
    instructions = _text(body, "instructions")
    said = divided(read_items(body.get("input")), where="input")
    text = body.get("text") if isinstance(body.get("text"), dict) else None
    reasoning = body.get("reasoning") if isinstance(body.get("reasoning"), dict) else None
    settings = {
        "response_format": _response_format(text),
        "reasoning_effort": (reasoning or {}).get("effort"),
        "parallel_tool_calls": parallel_calls(body),
    }
    return ResponseRequest(
        said=said,
        model=model_of(body),
        instructions=instructions,
        conversation=conversation,
        previous_response_id=previous,
        tools=chosen(tools, body.get("tool_choice")),
        params=params_of(body, max_tokens=body.get("max_output_tokens"), settings=settings),
        stream=_flag(body, "stream"),
        background=_flag(body, "background"),
        echo=_echo(body, tools, previous, instructions, reasoning, text),
    )


def model_of(body: Mapping[str, Any]) -> str | None:
    """The model that a request names; ``turnlog`` stands for the session's own, or the default."""
    model = _text(body, "model")
    return None if model in ("", UNKNOWN_MODEL) else model


def read_metadata(value: Any) -> dict[str, str]:
    """At most 16 pairs of texts. Raises 400."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise bad_request("invalid_type", "metadata is an object of texts", "metadata")
    if len(value) > MAX_METADATA or any(
        len(key) > _MAX_METADATA_KEY or len(item) > _MAX_METADATA_VALUE for key, item in value.items()
    ):
        raise bad_request(
            "invalid_value", f"metadata: at most {MAX_METADATA} pairs, of 64 and 512 characters", "metadata"
        )
    return dict(value)


# ---- input


def read_items(value: Any) -> list[InitialMessage]:
    """The messages that input items are. Raises 400."""
    if isinstance(value, str):
        return [InitialMessage(role="user", content=(ContentPart(text=value),))]
    if not isinstance(value, list) or not value:
        raise bad_request("invalid_type", "input is a text or a list of items", "input")
    messages: list[InitialMessage] = []
    for index, item in enumerate(value):
        where = f"input[{index}]"
        if not isinstance(item, dict):
            raise bad_request("invalid_type", "an item must be an object", where)
        _read_item(item, where, messages)
    return messages


def _read_item(item: Mapping[str, Any], where: str, messages: list[InitialMessage]) -> None:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    match kind:
        case "message":
            role = item.get("role")
            if role not in _MESSAGE_ROLES:
                raise bad_request("invalid_value", f"role is one of {', '.join(_MESSAGE_ROLES)}", f"{where}.role")
            messages.append(InitialMessage(role=role, content=text_parts(item.get("content"), f"{where}.content")))
        case "function_call":
            names = ("call_id", "name", "arguments")
            call = client_call(*(text_of(item, name, where) for name in names))
            last = messages[-1] if messages else None
            if last is not None and last.role == "assistant":
                # One message of the model: what it said, and all that it called.
                messages[-1] = InitialMessage(
                    role="assistant", content=last.content, tool_calls=(*last.tool_calls, call)
                )
            else:
                messages.append(InitialMessage(role="assistant", tool_calls=(call,)))
        case "function_call_output":
            output = item.get("output")
            parts = text_parts(output, f"{where}.output")
            messages.append(InitialMessage(role="tool", content=parts, tool_call_id=text_of(item, "call_id", where)))
        case "reasoning":
            pass  # never stored, and no model is shown it
        case "item_reference":
            pass  # what it names is in the session
        case _:
            raise bad_request("unsupported_item", f"items of type {str(kind)[:64]!r} are not taken", where)


# ---- the rest


def _tools(value: Any) -> tuple[ClientTool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad_request("invalid_type", "tools is a list", "tools")
    tools = []
    for index, tool in enumerate(value):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind != "function":
            raise bad_request(
                "unsupported_tool",
                f"tools of type {str(kind)[:64]!r}: only functions are taken; tools of the server are its own settings",
                f"tools[{index}]",
            )
        tools.append(function_tool(tool, f"tools[{index}]"))
    return tuple(tools)


def _conversation(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("id")
        if value is None:
            raise bad_request("invalid_type", "conversation is an id, or an object with one", "conversation")
    if value is not None and not isinstance(value, str):
        raise bad_request("invalid_type", "conversation is an id, or an object with one", "conversation")
    return value


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request("invalid_type", f"{name} must be a text", name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_request("invalid_type", f"{name} is true or false", name)
    return bool(value)


def _response_format(text: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a server of chat completions calls it; ``None``: plain text."""
    form = (text or {}).get("format")
    if not isinstance(form, dict) or form.get("type") in (None, "text"):
        return None
    if form["type"] != "json_schema":
        return {"type": form["type"]}
    schema = {name: form[name] for name in ("name", "description", "schema", "strict") if form.get(name) is not None}
    return {"type": "json_schema", "json_schema": schema}


def _echo(
    body: Mapping[str, Any],
    tools: tuple[ClientTool, ...],
    previous: str | None,
    instructions: str | None,
    reasoning: Mapping[str, Any] | None,
    text: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What is said again in the response: as the schema wants it, which is stricter than what a request may say."""
    strict = {
        tool.name: given["strict"]
        for tool, given in zip(tools, body.get("tools") or (), strict=True)
        if isinstance(given.get("strict"), bool)
    }
    copied = {name: body.get(name) for name in _COPIED}
    choice = body.get("tool_choice")
    echo = {
        **copied,
        "model": _text(body, "model"),
        "previous_response_id": previous,
        "instructions": instructions,
        "tool_choice": choice if isinstance(choice, str | dict) else None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")} if reasoning else None,
        "text": {"format": {"type": "text"}, **text} if text else None,
        "metadata": read_metadata(body.get("metadata")) or None,
        "strict": strict or None,
    }
    return {name: value for name, value in echo.items() if value is not None}


_COPIED = (
    *("parallel_tool_calls", "temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"),
    *("max_output_tokens", "max_tool_calls", "truncation", "background", "safety_identifier", "prompt_cache_key"),
)


def canonical(body: Mapping[str, Any]) -> bytes:
    """The same bytes for the same body, however it was written."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
