"""The forms in which people keep conversations -> the one that is read here: OpenAI's of today. Pure.

Known are lines of OpenAI's fine-tuning files (no id), their older ``function_call`` and role ``function``, the role
``developer``, and ShareGPT (``conversations`` with ``from`` and ``value``). What is not known stays as it is: whoever
reads it says what is wrong with it.
"""

import hashlib
import json
from typing import Any

#: ShareGPT's names of who speaks.
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("observation", "tool", "tool_response", "function_response"), "function"),
    "system": "system",
}
_CALLS = ("function_call", "tool_call")
_TEXT_PARTS = ("text", "input_text", "output_text")


class UnknownFormError(ValueError):
    """A line that is in a known form, and not as that form has it. The text says where and what."""


def conversation_id(raw: Any, number: int, line: bytes) -> str | None:
    """The line's id; made of the line (its number from 1 and its text) if it has none; ``None``: no conversation."""
    if isinstance(raw, list):
        raw = {"messages": raw}
    if not isinstance(raw, dict):
        return None
    found = raw.get("id")
    if isinstance(found, str | int) and not isinstance(found, bool):
        return str(found)
    if found is not None or not any(isinstance(raw.get(key), list) for key in ("messages", "conversations")):
        return None
    return f"line{number}-{hashlib.sha256(line.strip()).hexdigest()[:12]}"


def as_openai(raw: Any) -> Any:
    """The line in OpenAI's form of today, a new object. Raises :class:`UnknownFormError`."""
    if isinstance(raw, list) and raw and all(isinstance(each, dict) and "role" in each for each in raw):
        raw = {"messages": raw}
    if not isinstance(raw, dict):
        return raw
    if isinstance(raw.get("conversations"), list) and "messages" not in raw:
        raw = _of_sharegpt(raw)
    if not isinstance(raw.get("messages"), list):
        return raw
    calls = _Calls()
    return {**raw, "messages": [calls.message(message, at) for at, message in enumerate(raw["messages"])]}


def _of_sharegpt(raw: dict[str, Any]) -> dict[str, Any]:
    messages = [_said(each, at) for at, each in enumerate(raw["conversations"])]
    if isinstance(raw.get("system"), str) and raw["system"]:
        messages.insert(0, {"role": "system", "content": raw["system"]})
    rest = {key: value for key, value in raw.items() if key not in ("conversations", "system")}
    return {**rest, "messages": messages}


def _said(each: Any, at: int) -> Any:
    if not isinstance(each, dict) or "from" not in each:
        return each  # some files have OpenAI's messages under ShareGPT's name
    where, speaker, value = f"conversations[{at}]", each["from"], each.get("value")
    rest = {key: kept for key, kept in each.items() if key not in ("from", "value")}
    if speaker in _CALLS:
        try:
            call = json.loads(str(value))
            arguments = call["arguments"]
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            function = {"name": call["name"], "arguments": text}
        except (ValueError, KeyError, TypeError) as error:
            raise UnknownFormError(f"{where}: the value of a {speaker} is JSON with a name and arguments") from error
        return {**rest, "role": "assistant", "content": None, "function_call": function}
    if speaker not in _SPEAKERS:
        raise UnknownFormError(f"{where}: nobody is called {str(speaker)[:64]!r} in this form")
    return {**rest, "role": _SPEAKERS[speaker], "content": value}


class _Calls:
    """Old calls have no ids: they are made of the place, and given to the answer that follows."""

    def __init__(self) -> None:
        self._open: str | None = None

    def message(self, message: Any, at: int) -> Any:
        """The message in today's form."""
        if not isinstance(message, dict):
            return message
        made = dict(message)
        if made.get("role") == "developer":
            made["role"] = "system"
        if isinstance(made.get("content"), list):
            made["content"] = [_part(part, f"messages[{at}].content[{n}]") for n, part in enumerate(made["content"])]
        call = made.get("function_call")
        if made.get("role") == "assistant" and isinstance(call, dict) and not made.get("tool_calls"):
            del made["function_call"]
            self._open = f"call-{at}"
            made["tool_calls"] = [{"id": self._open, "type": "function", "function": call}]
        if made.get("role") == "function":
            if self._open is None:
                raise UnknownFormError(f"messages[{at}]: a function's answer without a call before it")
            made |= {"role": "tool", "tool_call_id": self._open}
            self._open = None
        return made


def _part(part: Any, where: str) -> Any:
    if not isinstance(part, dict) or part.get("type") == "file_ref":
        return part
    kind = part.get("type")
    if kind not in _TEXT_PARTS:
        raise UnknownFormError(f"{where}: a part of type {str(kind)[:64]!r} is neither a text nor a file_ref")
    return {**part, "type": "text"}
