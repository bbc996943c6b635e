"""What a client of AG-UI asks for: a RunAgentInput, read as far as Turnlog has a use for it. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from turnlog.serve.agui.run_events import given_call_id
from turnlog.serve.http_errors import HttpError, bad_request
from turnlog_schemas.commands import ID_PATTERN
from turnlog_schemas.parts import ClientTool, InitialMessage, ToolOutput, text_content

_MAX_MESSAGES = 10_000
_MAX_ID_CHARS = 256
_ROLES = ("developer", "system", "assistant", "user", "tool", "activity", "reasoning")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMessage:
    """A message that the client has, by which the ids that it gave are found again."""

    message_id: str
    role: str
    text: str
    call_id: str = ""  #: of a tool message: what it answers
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """A run: what the user says now, in which thread."""

    thread_id: str
    run_id: str
    text: str
    instructions: str | None  #: of a session that this run makes
    known: tuple[KnownMessage, ...]
    tools: tuple[ClientTool, ...] = ()  #: that the client runs
    outputs: tuple[ToolOutput, ...] = ()  #: of calls that the client has run
    earlier: tuple[InitialMessage, ...] = ()  #: what a session that this run makes begins with


def session_name(thread_id: str) -> str:
    """The session of a thread: its id, or, where no session can have that, one made of it."""
    if re.fullmatch(ID_PATTERN, thread_id):
        return thread_id
    return f"agui-{hashlib.sha256(thread_id.encode('utf-8', 'replace')).hexdigest()[:32]}"


def read_run_input(body: Mapping[str, Any]) -> RunInput:
    """The run of a body. Raises 400 that names the field."""
    thread_id, run_id = read_ids(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= _MAX_MESSAGES:
        raise bad_request("invalid_input", f"messages is a list of 1 to {_MAX_MESSAGES} messages", "messages")
    if body.get("resume"):
        raise _not_there("resume", "runs are not interrupted here, so none can be resumed")
    tools = _tools(body.get("tools") or [])
    known = [_message(message, number) for number, message in enumerate(messages)]
    new = _trailing(known)
    said = [message for message in new if message.role == "user"]
    outputs = [message for message in new if message.role == "tool"]
    if not new:
        raise bad_request("invalid_input", "the last message must be of the user, or of a tool", "messages")
    before = [message.text for message in known if message.role in ("developer", "system") and message.text]
    return RunInput(
        thread_id=thread_id,
        run_id=run_id,
        text="\n\n".join(message.text for message in said),
        instructions="\n\n".join(before) or None,
        known=tuple(message for message in known if message.role in ("user", "assistant", "tool")),
        tools=tools,
        outputs=tuple(
            ToolOutput(call_id=given_call_id(message.call_id), output=message.text, is_error=message.is_error)
            for message in outputs
        ),
        earlier=tuple(
            InitialMessage(role=message.role, content=text_content(message.text))
            for message in known[: len(known) - len(new)]
            if message.role in ("user", "assistant") and message.text
        ),
    )


def _tools(tools: Any) -> tuple[ClientTool, ...]:
    """The tools of the client; what is wrong with one beyond its form is told by the session's owner."""
    if not isinstance(tools, list):
        raise bad_request("invalid_input", "tools is a list", "tools")
    made = []
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise bad_request("invalid_input", f"tools[{number}] is an object with a name", f"tools[{number}]")
        parameters = tool.get("parameters") or {"type": "object", "properties": {}}
        description = tool.get("description")
        made.append(
            ClientTool(
                name=tool["name"],
                description=description if isinstance(description, str) else "",
                parameters=json.dumps(parameters),
            )
        )
    return tuple(made)


def read_ids(body: Mapping[str, Any]) -> tuple[str, str]:
    """Thread and run. Raises 400."""
    found = []
    for name in ("threadId", "runId"):
        value = body.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= _MAX_ID_CHARS:
            raise bad_request("invalid_input", f"{name} is a text of 1 to {_MAX_ID_CHARS} characters", name)
        found.append(value)
    return found[0], found[1]


def _not_there(field: str, why: str) -> HttpError:
    return bad_request("unsupported", f"{field}: {why}", field)


def _message(message: Any, number: int) -> KnownMessage:
    where = f"messages[{number}]"
    if not isinstance(message, dict):
        raise bad_request("invalid_input", f"{where} is no object", where)
    role, message_id = message.get("role"), message.get("id")
    if role not in _ROLES:
        raise bad_request("invalid_input", f"{where}.role is one of {', '.join(_ROLES)}", f"{where}.role")
    if not isinstance(message_id, str):
        raise bad_request("invalid_input", f"{where}.id is a text", f"{where}.id")
    text = "" if role in ("activity", "reasoning") else _text(message.get("content"), f"{where}.content", role)
    if role != "tool":
        return KnownMessage(message_id=message_id, role=role, text=text)
    call_id, error = message.get("toolCallId"), message.get("error")
    if not isinstance(call_id, str):
        raise bad_request("invalid_input", f"{where}.toolCallId is a text", f"{where}.toolCallId")
    return KnownMessage(
        message_id=message_id, role=role, text=text or str(error or ""), call_id=call_id, is_error=bool(error)
    )


def _text(content: Any, where: str, role: str) -> str:
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":
        return ""
    if not isinstance(content, list):
        raise bad_request("invalid_input", f"{where} is a text or a list of parts", where)
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _not_there(where, "only parts of text are taken")
        texts.append(part["text"])
    return "".join(texts)


def _trailing(known: Sequence[KnownMessage]) -> list[KnownMessage]:
    """The messages of the user, and of the tools that the client runs, that nobody has answered."""
    new: list[KnownMessage] = []
    for message in reversed(known):
        if message.role not in ("user", "tool"):
            break
        new.append(message)
    return new[::-1]
