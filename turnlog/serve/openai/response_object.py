"""The response object: what its request said, echoed as the schema wants it, and what has become of the turn.

Every key that the schema of Open Responses has is there. Those that may not be null never are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnlog.serve.turn_ids import TurnRef
from turnlog_schemas.parts import ClientTool, Usage

#: The entry of a request's metadata that holds the echo: whoever replays a turn finds it with the request.
ECHO = "turnlog.response"
#: In bytes; what is above is left out of the echo, largest first.
MAX_ECHO_BYTES = 48 * 1024
UNKNOWN_MODEL = "turnlog"  #: until the turn has started: the session's, or the default


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSeed:
    """What is known of a response before its turn has said anything."""

    turn: TurnRef
    created_at: int  #: seconds since 1970
    echo: Mapping[str, Any] = field(default_factory=dict)  #: keys of the response object
    tools: Sequence[ClientTool] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseState:
    """What has become of its turn."""

    status: str
    model: str = ""
    output: Sequence[Mapping[str, Any]] = ()
    usage: Usage | None = None
    error: Mapping[str, str] | None = None
    incomplete_reason: str | None = None
    completed_at: int | None = None


def response_object(seed: ResponseSeed, state: ResponseState) -> dict[str, Any]:
    """The whole object."""
    echo = seed.echo
    return {
        "id": seed.turn.response_id,
        "object": "response",
        "created_at": seed.created_at,
        "completed_at": state.completed_at,
        "status": state.status,
        "incomplete_details": {"reason": state.incomplete_reason} if state.incomplete_reason else None,
        "error": dict(state.error) if state.error is not None else None,
        "model": state.model or echo.get("model") or UNKNOWN_MODEL,
        "output": [dict(item) for item in state.output],
        "previous_response_id": echo.get("previous_response_id"),
        "conversation": {"id": seed.turn.session_id},
        "instructions": echo.get("instructions"),
        "tools": [_tool(tool, echo.get("strict") or {}) for tool in seed.tools],
        "tool_choice": echo.get("tool_choice") or "auto",
        "parallel_tool_calls": echo.get("parallel_tool_calls", True),
        "temperature": echo.get("temperature", 1.0),
        "top_p": echo.get("top_p", 1.0),
        "presence_penalty": echo.get("presence_penalty", 0.0),
        "frequency_penalty": echo.get("frequency_penalty", 0.0),
        "top_logprobs": echo.get("top_logprobs", 0),
        "max_output_tokens": echo.get("max_output_tokens"),
        "max_tool_calls": echo.get("max_tool_calls"),
        "reasoning": echo.get("reasoning"),
        "text": echo.get("text") or {"format": {"type": "text"}},
        "truncation": echo.get("truncation") or "disabled",
        "usage": usage_object(state.usage) if state.usage is not None else None,
        "metadata": echo.get("metadata") or {},
        "store": True,
        "background": echo.get("background", False),
        "service_tier": "default",
        "safety_identifier": echo.get("safety_identifier"),
        "prompt_cache_key": echo.get("prompt_cache_key"),
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    """What the turn has cost. Turnlog does not tell cached and reasoning tokens apart."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _tool(tool: ClientTool, strict: Mapping[str, Any]) -> dict[str, Any]:
    """The echo of a tool has more keys than a request need have."""
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description or None,
        "parameters": json.loads(tool.parameters),
        "strict": strict.get(tool.name),
    }


def packed_echo(echo: Mapping[str, Any]) -> str:
    """The echo as it travels with its request. What is too long is not echoed by anybody."""
    kept = {name: value for name, value in echo.items() if value is not None}
    while len(text := _packed(kept)) > MAX_ECHO_BYTES:
        del kept[max(kept, key=lambda name: len(_packed(kept[name])))]
    return text


def _packed(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))  # ASCII: a character is a byte


def unpacked_echo(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The echo of a request; empty for one that no gateway sent, or that somebody else wrote there."""
    try:
        found = json.loads(metadata.get(ECHO, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, _ECHOED.get(name, ()))}


_TEXT, _NUMBER = (str,), (int, float)
_ECHOED: Mapping[str, tuple[type, ...]] = {
    "created_at": (int,),
    "model": _TEXT,
    "previous_response_id": _TEXT,
    "instructions": _TEXT,
    "strict": (dict,),
    "tool_choice": (str, dict),
    "parallel_tool_calls": (bool,),
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "top_logprobs": (int,),
    "max_output_tokens": (int,),
    "max_tool_calls": (int,),
    "reasoning": (dict,),
    "text": (dict,),
    "truncation": _TEXT,
    "metadata": (dict,),
    "background": (bool,),
    "safety_identifier": _TEXT,
    "prompt_cache_key": _TEXT,
}
