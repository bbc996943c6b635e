"""What a request says, in either protocol: from its messages or items to what a chat command carries. Pure."""

import json
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from turnlog.serve.http_errors import HttpError, bad_request
from turnlog_schemas.parts import FILE_REF, ClientTool, ContentPart, InitialMessage, ToolCall, ToolOutput

_TEXT_PARTS = ("text", "input_text", "output_text")
_SYSTEM = ("system", "developer")
_FILE_PARTS = ("input_image", "input_file", "image_url")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """``history`` came before the turn, which is the outputs of calls and what the user said last."""

    system: tuple[str, ...] = ()
    history: tuple[InitialMessage, ...] = ()
    outputs: tuple[ToolOutput, ...] = ()
    users: tuple[InitialMessage, ...] = ()

    @property
    def instructions(self) -> str | None:
        """The system's and the developer's words."""
        return "\n\n".join(self.system) or None

    @property
    def before(self) -> tuple[InitialMessage, ...]:
        """What a new session begins with."""
        return self.history if self.outputs else (*self.history, *self.users[:-1])

    @property
    def opening_content(self) -> tuple[ContentPart, ...]:
        """The turn's message in a session that begins with :attr:`before`."""
        return self.content if self.outputs else joined(self.users[-1:])

    @property
    def opening_name(self) -> str | None:
        """Who says :attr:`opening_content`."""
        return self.name if self.outputs else one_name(self.users[-1:])

    @property
    def name(self) -> str | None:
        """Who says :attr:`content`, if it is one."""
        return one_name(self.users)

    @property
    def content(self) -> tuple[ContentPart, ...]:
        """The turn's message in a session that is there: all that the user said since the model did."""
        return joined(self.users)


def one_name(messages: Sequence[InitialMessage]) -> str | None:
    """The name that all of them have."""
    names = {message.name for message in messages}
    return names.pop() if len(names) == 1 else None


def joined(messages: Sequence[InitialMessage]) -> tuple[ContentPart, ...]:
    """The parts of several messages, an empty line between two."""
    parts: list[ContentPart] = []
    for message in messages:
        if parts and message.content:
            parts.append(ContentPart(text="\n\n"))
        parts += message.content or ()
    return tuple(parts)


def divided(messages: Sequence[InitialMessage], *, where: str) -> Said:
    """Where the turn begins: with the last words of the user, and the outputs of calls just before. Raises 400."""
    for message in messages:
        if message.role in (*_SYSTEM, "tool") and any(part.uri for part in message.content or ()):
            raise bad_request(
                "unsupported_content", "files are the user's: instructions and outputs of calls are text", where
            )
    system = tuple(text for message in messages if message.role in _SYSTEM and (text := _text(message)))
    rest = [message for message in messages if message.role not in _SYSTEM]
    end = len(rest)
    while end and rest[end - 1].role == "user":
        end -= 1
    start = end
    while start and rest[start - 1].role == "tool":
        start -= 1
    if start == len(rest):
        raise bad_request("no_user_message", "the last message must be the user's, or the outputs of calls", where)
    outputs = [ToolOutput(call_id=each.tool_call_id or "", output=_text(each)) for each in rest[start:end]]
    return Said(system=system, history=tuple(rest[:start]), outputs=tuple(outputs), users=tuple(rest[end:]))


def _text(message: InitialMessage) -> str:
    return "".join(part.text or "" for part in message.content or ())


# ---- reading


def text_parts(content: Any, where: str) -> tuple[ContentPart, ...]:
    """The parts of a message: a text, or a list of parts of text. Raises 400."""
    if isinstance(content, str):
        return (ContentPart(text=content),) if content else ()
    if not isinstance(content, list):
        raise bad_request("invalid_content", "content is a text or a list of parts", where)
    parts = []
    for index, part in enumerate(content):
        place = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            parts.append(ContentPart(text=text_of(part, "refusal", place)))
        elif kind in _TEXT_PARTS:
            parts.append(ContentPart(text=text_of(part, "text", place)))
        elif kind in _FILE_PARTS:
            parts.append(_file(part, kind, place))
        else:
            raise bad_request("unsupported_content", f"parts of type {str(kind)[:64]!r} are not taken", place)
    return tuple(parts)


def _file(part: Mapping[str, Any], kind: str, where: str) -> ContentPart:
    """A reference to an image or another file. The log holds no bytes: what brings them is refused."""
    found = part.get("file_url" if kind == "input_file" else "image_url")
    uri = found.get("url") if isinstance(found, dict) else found
    if not isinstance(uri, str) or not uri.lower().startswith(("https://", "http://")):
        raise bad_request(
            "unsupported_content", "files are referred to by an https address: the log holds none of their bytes", where
        )
    media_type, _ = mimetypes.guess_type(urlsplit(uri).path)
    if media_type is None:
        raise bad_request(
            "unsupported_content", "the address does not end as a file of a known type does, such as .png", where
        )
    return ContentPart(kind=FILE_REF, uri=uri, media_type=media_type)


def text_of(item: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be a text. Raises 400."""
    value = item.get(name)
    if not isinstance(value, str):
        raise bad_request("invalid_type", f"{name} must be a text", f"{where}.{name}" if where else name)
    return value


def client_call(call_id: str, name: str, arguments: str) -> ToolCall:
    """A call of a tool that the client runs."""
    return ToolCall(call_id=call_id, name=name, arguments=arguments, client=True)


def function_tool(function: Any, where: str) -> ClientTool:
    """A function that the client runs: ``name``, ``description``, ``parameters``. Raises 400."""
    if not isinstance(function, dict):
        raise bad_request("invalid_type", "a function must be an object", where)
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise bad_request("invalid_type", "parameters must be a JSON schema", f"{where}.parameters")
    description = function.get("description")
    return ClientTool(
        name=text_of(function, "name", where),
        description=description if isinstance(description, str) else "",
        parameters=json.dumps(parameters, ensure_ascii=False, separators=(",", ":")),
    )


def chosen(tools: Sequence[ClientTool], choice: Any) -> tuple[ClientTool, ...]:
    """The tools that a ``tool_choice`` leaves. That one must be called cannot be promised. Raises 400."""
    match choice:
        case None | "auto" | "required":
            return tuple(tools)
        case "none":
            return ()
        case {"type": "function"}:
            names = [_function_name(choice)]
        case {"type": "allowed_tools"}:
            allowed = choice.get("allowed_tools", choice)  # completions have them one level deeper
            listed = allowed.get("tools") if isinstance(allowed, dict) else None
            names = [_function_name(each) for each in listed] if isinstance(listed, list) else []
        case _:
            raise _no_such_choice("tool_choice is none, auto, required, or names functions")
    known = {tool.name for tool in tools}
    if not names or not all(name in known for name in names):
        raise _no_such_choice("tool_choice names a function that is not among the tools")
    return tuple(tool for tool in tools if tool.name in names)


def _function_name(choice: Any) -> Any:
    """Of a function as either protocol refers to it; ``None``: it refers to none."""
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return None
    function = choice.get("function")
    return choice.get("name") or (function.get("name") if isinstance(function, dict) else None)


def _no_such_choice(message: str) -> HttpError:
    return bad_request("unsupported_tool_choice", message, "tool_choice")


def parallel_calls(body: Mapping[str, Any]) -> bool | None:
    """``False`` where the model's server is to be told; ``None``: nothing is said. Raises 400."""
    value = body.get("parallel_tool_calls")
    if value is not None and not isinstance(value, bool):
        raise bad_request("invalid_type", "parallel_tool_calls is true or false", "parallel_tool_calls")
    return False if value is False else None
