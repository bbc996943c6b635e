"""How large the fields of a request may be: one place for all commands (docs/wire.md has the same table).

What has its bound in the settings is judged where they are known: the text of a chat and a request to compact the
history by decisions (``policy``), the whole record by ``intake.request_reader``. With these bounds everything that
is made of a request fits into its record: an event of 1 MiB at the most, a frame of six times that as JSON.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from turnlog_schemas.commands import (
    CancelTurn,
    Chat,
    Forwarded,
    ForwardReceipt,
    HideTurn,
    RequestHeader,
    UpdateSession,
)
from turnlog_schemas.parts import ClientTool, InitialMessage, NewSession, ToolOutput

KIB = 1024
MAX_REQUEST_ID_CHARS = 256
#: An id above this, or one with a NUL, cannot even be answered under: its refusal goes out under the record's place.
MAX_ANSWERED_REQUEST_ID_CHARS = 1024
MAX_MODEL_BYTES = KIB
MAX_TITLE_BYTES = KIB
MAX_INSTRUCTIONS_BYTES = 256 * KIB
MAX_METADATA_ENTRIES = 256
MAX_METADATA_BYTES = 64 * KIB  #: keys and values together
MAX_CONTENT_PARTS = 4096
MAX_TURN_ID_BYTES = 256
MAX_WORD_BYTES = 64  #: of what streams tell each other
MAX_TOOLS = 128  #: of a request
MAX_TOOLS_BYTES = 256 * KIB  #: names, descriptions and schemas together
MAX_TOOL_CALLS = 128  #: of one message, and outputs of one request
MAX_CALL_ID_BYTES = 8 * KIB
MAX_TOOL_NAME_BYTES = KIB
MAX_INITIAL_MESSAGES = 1000
MAX_INITIAL_BYTES = 512 * KIB  #: texts, calls, ids and names together

Sizes = Iterator[tuple[str, int, int, str]]  #: field, what it has, what it may have, of what


def too_long(header: RequestHeader, command: Any) -> str | None:
    """Which field is above its bound, and by how much; ``None``: none is."""
    if header.metadata and (reason := _over(_of_metadata("metadata", header.metadata))):
        return reason
    match command:
        case Chat():
            if len(command.content) > MAX_CONTENT_PARTS:
                return f"content has {len(command.content)} parts; at most {MAX_CONTENT_PARTS} are accepted"
            if command.model is not None and (reason := _over(iter([_text("model", command.model, MAX_MODEL_BYTES)]))):
                return reason
            if command.after_turn is not None and (
                reason := _over(iter([_text("after_turn", command.after_turn, MAX_TURN_ID_BYTES)]))
            ):
                return reason
            if (command.tools or command.tool_outputs) and (
                reason := _over(_of_tools(command.tools)) or _over(_of_outputs(command.tool_outputs))
            ):
                return reason
        case CancelTurn():
            return _over(iter([_text("turn_id", command.turn_id or "", MAX_TURN_ID_BYTES)]))
        case HideTurn():
            return _over(
                iter(
                    [
                        _text("turn_id", command.turn_id or "", MAX_TURN_ID_BYTES),
                        ("of_request", len(command.of_request or ""), MAX_ANSWERED_REQUEST_ID_CHARS, "characters"),
                    ]
                )
            )
        case UpdateSession():
            return _over(_of_update(command))
        case Forwarded() | ForwardReceipt() if reason := _over(_of_forward(command)):
            return reason
    new = getattr(command, "new_session", None)
    return None if new is None else _over(_of_new_session(new))


def _over(sizes: Sizes) -> str | None:
    for field, size, limit, unit in sizes:
        if size > limit:
            return f"{field} has {size} {unit}; at most {limit} are accepted"
    return None


def _text(field: str, text: str, limit: int) -> tuple[str, int, int, str]:
    return field, utf8_bytes(text), limit, "bytes"


def _of_metadata(field: str, metadata: Mapping[str, str]) -> Sizes:
    yield field, len(metadata), MAX_METADATA_ENTRIES, "entries"
    size = sum(utf8_bytes(key) + utf8_bytes(value) for key, value in metadata.items())
    yield field, size, MAX_METADATA_BYTES, "bytes"


def _of_new_session(new: NewSession) -> Sizes:
    yield _text("new_session.title", new.title or "", MAX_TITLE_BYTES)
    yield _text("new_session.instructions", new.instructions or "", MAX_INSTRUCTIONS_BYTES)
    yield _text("new_session.model", new.model or "", MAX_MODEL_BYTES)
    if new.metadata:
        yield from _of_metadata("new_session.metadata", new.metadata)
    if new.messages:
        yield from _of_messages(new.messages)


def _of_update(update: UpdateSession) -> Sizes:
    yield _text("title", update.title or "", MAX_TITLE_BYTES)
    yield _text("instructions", update.instructions or "", MAX_INSTRUCTIONS_BYTES)
    yield _text("model", update.model or "", MAX_MODEL_BYTES)
    yield from _of_metadata("set_metadata", update.set_metadata)
    yield from _of_metadata("remove_metadata", dict.fromkeys(update.remove_metadata, ""))


def too_much_metadata(metadata: Mapping[str, str]) -> str | None:
    """Why a session cannot have this metadata; ``None``: it can."""
    return _over(_of_metadata("metadata", metadata))


def _of_messages(messages: tuple[InitialMessage, ...]) -> Sizes:
    """Each within what a model's own message may have, and all within one bound: they are one decision."""
    yield "new_session.messages", len(messages), MAX_INITIAL_MESSAGES, "messages"
    total = 0
    for index, message in enumerate(messages):
        where = f"new_session.messages[{index}]"
        yield f"{where}.content", len(message.content or ()), MAX_CONTENT_PARTS, "parts"
        yield f"{where}.tool_calls", len(message.tool_calls), MAX_TOOL_CALLS, "calls"
        yield _text(f"{where}.tool_call_id", message.tool_call_id or "", MAX_CALL_ID_BYTES)
        yield _text(f"{where}.name", message.name or "", MAX_TOOL_NAME_BYTES)
        for part in message.content or ():
            total += utf8_bytes(part.text or "") + utf8_bytes(part.uri or "")
        for call in message.tool_calls:
            yield _text(f"{where}: a call's id", call.call_id, MAX_CALL_ID_BYTES)
            yield _text(f"{where}: a call's name", call.name, MAX_TOOL_NAME_BYTES)
            yield _text(f"{where}: a call's idempotency_key", call.idempotency_key, MAX_TOOL_NAME_BYTES)
            total += utf8_bytes(call.arguments) + utf8_bytes(call.call_id) + utf8_bytes(call.name)
        total += utf8_bytes(message.tool_call_id or "") + utf8_bytes(message.name or "")
    yield "new_session.messages", total, MAX_INITIAL_BYTES, "bytes"


def _of_tools(tools: tuple[ClientTool, ...]) -> Sizes:
    yield "tools", len(tools), MAX_TOOLS, "tools"
    size = sum(utf8_bytes(tool.name) + utf8_bytes(tool.description) + utf8_bytes(tool.parameters) for tool in tools)
    yield "tools", size, MAX_TOOLS_BYTES, "bytes"


def _of_outputs(outputs: tuple[ToolOutput, ...]) -> Sizes:
    yield "tool_outputs", len(outputs), MAX_TOOL_CALLS, "outputs"
    for index, output in enumerate(outputs):
        yield _text(f"tool_outputs[{index}].call_id", output.call_id, MAX_CALL_ID_BYTES)


def _of_forward(command: Forwarded | ForwardReceipt) -> Sizes:
    yield _text("source_kind", command.source_kind, MAX_WORD_BYTES)
    yield _text("target_kind", command.target_kind, MAX_WORD_BYTES)
    if isinstance(command, Forwarded):
        yield _text("what", command.what, MAX_WORD_BYTES)
        origin = command.request_id_of_origin or ""
        yield "request_id_of_origin", len(origin), MAX_ANSWERED_REQUEST_ID_CHARS, "characters"


def utf8_bytes(text: str) -> int:
    """How many bytes a text has."""
    return len(text) if text.isascii() else len(text.encode())
