"""What can be said of a request without knowing its session: ids, shapes, and what does not go together."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from turnlog_schemas.commands import (
    ID_PATTERN,
    ON_BUSY,
    SESSION_COMMANDS,
    ArchiveSession,
    Chat,
    CompactHistory,
    Forwarded,
    ForwardReceipt,
    HideTurn,
    RequestHeader,
    UpdateSession,
    is_for_channel,
)
from turnlog_schemas.errors import InvalidCommandError, UndecodableError
from turnlog_schemas.files import wrong_content, wrong_part
from turnlog_schemas.generation import wrong_params
from turnlog_schemas.limits import MAX_ANSWERED_REQUEST_ID_CHARS, MAX_REQUEST_ID_CHARS, too_long
from turnlog_schemas.parts import INITIAL_ROLES, ClientTool, ContentPart, InitialMessage
from turnlog_schemas.type_names import snake

_ID = re.compile(ID_PATTERN)
#: What every provider takes as a tool's name, or as that of who speaks.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_ids(header: RequestHeader) -> None:
    """A request names a session or a channel, by a valid id; else nobody can be answered."""
    if header.session_id is None and header.channel is None:
        raise UndecodableError("neither session_id nor channel")
    for what, value in (("session_id", header.session_id), ("channel", header.channel)):
        if value is not None and not _ID.fullmatch(value):
            raise UndecodableError(f"{what} is not 1-128 characters of A-Z a-z 0-9 . _ -")


def wrong_request_id(request_id: str | None) -> str | None:
    """Why no request can have this id; ``None``: it can."""
    if request_id is None or (1 <= len(request_id) <= MAX_REQUEST_ID_CHARS and "\0" not in request_id):
        return None
    return f"request_id: 1 to {MAX_REQUEST_ID_CHARS} characters, no NUL"


def answerable(header: RequestHeader) -> RequestHeader:
    """The header, without an id that no answer could carry."""
    request_id = header.request_id or ""
    if len(request_id) <= MAX_ANSWERED_REQUEST_ID_CHARS and "\0" not in request_id:
        return header
    return replace(header, request_id=None)


def check_command(header: RequestHeader, command: Any) -> None:
    """What can be said of a command without knowing the session. Raises :class:`InvalidCommandError`."""
    if (wrong := wrong_request_id(header.request_id)) is not None:
        raise InvalidCommandError("invalid_command", wrong, answerable(header))
    name = snake(type(command).__name__)
    if isinstance(command, (*SESSION_COMMANDS, ArchiveSession)) and header.session_id is None:
        raise InvalidCommandError("invalid_command", f"{name}: session_id is missing", header)
    if is_for_channel(command, header.channel) and header.channel is None:
        raise InvalidCommandError("invalid_command", f"{name}: channel is missing", header)
    if isinstance(command, Chat):
        _check_chat(header, command)
    if isinstance(command, CompactHistory) and (wrong := _wrong_summary(command)) is not None:
        raise InvalidCommandError("invalid_command", f"compact_history: {wrong}", header)
    if isinstance(command, HideTurn) and (command.turn_id is None) == (command.of_request is None):
        raise InvalidCommandError("invalid_command", "hide_turn: either turn_id or of_request", header)
    if isinstance(command, UpdateSession) and (wrong := _wrong_update(command)) is not None:
        raise InvalidCommandError("invalid_command", f"update_session: {wrong}", header)
    if isinstance(command, Forwarded | ForwardReceipt) and not _ID.fullmatch(command.source_id):
        raise InvalidCommandError("invalid_command", f"{name}: source_id is not a valid id", header)
    new_session = getattr(command, "new_session", None)
    if new_session is not None and (new_session.history_keep_tail or 0) < 0:
        raise InvalidCommandError("invalid_command", f"{name}: new_session.history_keep_tail is negative", header)
    if new_session is not None and (wrong := _wrong_messages(new_session.messages)) is not None:
        raise InvalidCommandError("invalid_command", f"{name}: {wrong}", header)
    for params in (getattr(command, "params", None), getattr(new_session, "params", None)):
        if params is not None and (wrong := wrong_params(params)) is not None:
            raise InvalidCommandError("invalid_command", f"{name}: {wrong}", header)
    if (reason := too_long(header, command)) is not None:
        raise InvalidCommandError("too_long", f"{name}: {reason}", header)


def _check_chat(header: RequestHeader, chat: Chat) -> None:
    if chat.on_busy not in ON_BUSY:
        raise InvalidCommandError("invalid_command", f"chat: on_busy is one of {', '.join(ON_BUSY)}", header)
    if (chat.content or not chat.tool_outputs) and (found := wrong_content(chat.content)) is not None:
        raise InvalidCommandError(found[0], f"chat: {found[1]}", header)
    if chat.name is not None and (wrong := _wrong_name(chat)) is not None:
        raise InvalidCommandError("invalid_command", f"chat: {wrong}", header)
    channel = chat.new_session.channel if chat.new_session else None
    if channel is not None and not _ID.fullmatch(channel):
        raise InvalidCommandError("invalid_command", "chat: new_session.channel is not a valid id", header)
    if chat.tools and (wrong := _wrong_tools(chat.tools)) is not None:
        raise InvalidCommandError("invalid_command", f"chat: {wrong}", header)


def is_name(text: str) -> bool:
    """Can a user message have it as its ``name``?"""
    return _NAME.fullmatch(text) is not None


def _wrong_name(chat: Chat) -> str | None:
    if not is_name(chat.name or ""):
        return f"name: {(chat.name or '')[:64]!r} is no name (1 to 64 of A-Z a-z 0-9 _ -)"
    return None if chat.content else "name: there is no message of the user that could have it"


def _wrong_summary(command: CompactHistory) -> str | None:
    if command.summary is None and command.to_seq is None:
        return None
    if command.summary is None or command.to_seq is None:
        return "summary and to_seq go together"
    if command.instructions is not None:
        return "instructions are for a model, which is not asked for a summary that is there"
    if not command.summary.strip():
        return "summary: the text is empty"
    return None if command.to_seq >= 1 else "to_seq: messages are counted from 1"


def _wrong_update(command: UpdateSession) -> str | None:
    if command == UpdateSession():
        return "it says nothing: title, model, instructions, set_metadata or remove_metadata"
    both = sorted(set(command.set_metadata) & set(command.remove_metadata))
    return f"metadata {both[0][:64]!r} is both set and removed" if both else None


def _wrong_parts(content: Sequence[ContentPart]) -> str | None:
    return next((wrong for part in content if (wrong := wrong_part(part)) is not None), None)


def _wrong_tools(tools: Sequence[ClientTool]) -> str | None:
    names: set[str] = set()
    for tool in tools:
        if not _NAME.fullmatch(tool.name):
            return f"tools: {tool.name[:64]!r} is no name of a tool (1 to 64 of A-Z a-z 0-9 _ -)"
        if tool.name in names:
            return f"tools: {tool.name!r} is there twice"
        names.add(tool.name)
        try:
            schema = json.loads(tool.parameters, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return f"tools: the parameters of {tool.name!r} are no JSON"
        if not isinstance(schema, dict) or schema.get("type", "object") != "object":
            return f"tools: the parameters of {tool.name!r} are not the JSON schema of an object"
    return None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _wrong_messages(messages: Sequence[InitialMessage]) -> str | None:
    for index, message in enumerate(messages):
        if (wrong := _wrong_message(message)) is not None:
            return f"new_session.messages[{index}]: {wrong}"
    return None


def _wrong_message(message: InitialMessage) -> str | None:
    role = message.role
    if role not in INITIAL_ROLES:
        return f"role is one of {', '.join(INITIAL_ROLES)}"
    if message.content is None and role != "assistant":
        return f"a message of role {role!r} has content"
    if message.content is None and not message.tool_calls:
        return "neither content nor tool_calls"
    if message.tool_calls and role != "assistant":
        return "only a message of role 'assistant' has tool_calls"
    if bool(message.tool_call_id) != (role == "tool"):
        return "a message of role 'tool' has a tool_call_id, and no other has one"
    if not all(call.call_id and call.name for call in message.tool_calls):
        return "a tool call has a call_id and a name"
    return _wrong_parts(message.content or ())
