"""Items as lists of the OpenAI protocols show them, page by page. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from turnlog.serve.http_errors import bad_request
from turnlog.serve.turn_ids import TurnRef
from turnlog_schemas.commands import Chat
from turnlog_schemas.parts import ContentPart, HistoryEntry, InitialMessage, ToolCall

Item = dict[str, Any]
_MAX_LIMIT, _DEFAULT_LIMIT = 100, 20


def input_items(turn: TurnRef, chat: Chat | None, said: Sequence[ContentPart]) -> list[Item]:
    """What a turn was given, oldest first: what its session began with if it opened it, outputs, the message."""
    items: list[Item] = []

    def number() -> str:
        return f"in_{turn.partition}_{turn.offset}_{len(items)}"

    if chat is None:
        return [message_item(number(), "user", said)]
    for message in chat.new_session.messages if chat.new_session is not None else ():
        items += _initial(message, number())
    for output in chat.tool_outputs:
        items.append(output_item(number(), output.call_id, output.output))
    if chat.content:
        items.append(message_item(number(), "user", chat.content))
    return items


def _initial(message: InitialMessage, item_id: str) -> list[Item]:
    if message.role == "tool":
        return [output_item(item_id, message.tool_call_id or "", _text(message.content))]
    items = [message_item(item_id, message.role, message.content)] if message.content else []
    return items + [call_item(f"{item_id}_{index}", call) for index, call in enumerate(message.tool_calls)]


def history_items(entries: Sequence[HistoryEntry]) -> list[Item]:
    """The items of a conversation, oldest first. Calls that workers ran, and their results, are not the client's."""
    items: list[Item] = []
    client_calls: set[str] = set()
    for entry in entries:
        number = entry.message_seq
        if entry.role == "tool":
            if entry.tool_call_id in client_calls:
                items.append(output_item(f"fco_{number}", entry.tool_call_id or "", _text(entry.content)))
            continue
        if entry.content and _text(entry.content):
            items.append(message_item(f"msg_{number}", entry.role, entry.content, cut=entry.interrupted))
        for index, call in enumerate(entry.tool_calls):
            if call.client:
                client_calls.add(call.call_id)
                items.append(call_item(f"fc_{number}_{index}", call))
    return items


def message_item(item_id: str, role: str, content: Sequence[ContentPart] | None, *, cut: bool = False) -> Item:
    """A message."""
    parts: list[Item] = []
    for part in content or ():
        if part.uri is not None:
            parts.append({"type": "input_file", "file_url": part.uri})
        elif role == "assistant":
            parts.append({"type": "output_text", "text": part.text or "", "annotations": [], "logprobs": []})
        else:
            parts.append({"type": "input_text", "text": part.text or ""})
    status = "incomplete" if cut else "completed"
    return {"type": "message", "id": item_id, "status": status, "role": role, "content": parts}


def output_item(item_id: str, call_id: str, output: str) -> Item:
    """What a call gave."""
    return {
        "type": "function_call_output",
        "id": item_id,
        "call_id": call_id,
        "output": output,
        "status": "completed",
    }


def call_item(item_id: str, call: ToolCall) -> Item:
    """A call of a function."""
    return {
        "type": "function_call",
        "id": item_id,
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }


def page_of(items: Sequence[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """One page, as ``after``, ``limit`` (1 to 100) and ``order`` (newest first unless ``asc``) say. Raises 400."""
    limit_text, order, after = query.get("limit"), query.get("order", "desc"), query.get("after")
    limit = _DEFAULT_LIMIT
    if limit_text is not None:
        limit = int(limit_text) if limit_text.isascii() and limit_text.isdigit() and len(limit_text) < 6 else 0
    if not 1 <= limit <= _MAX_LIMIT:
        raise bad_request("invalid_value", f"limit is 1 to {_MAX_LIMIT}", "limit")
    if order not in ("asc", "desc"):
        raise bad_request("invalid_value", "order is asc or desc", "order")
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        place = next((index for index, item in enumerate(ordered) if item["id"] == after), None)
        if place is None:
            raise bad_request("invalid_value", "after names no item of this list", "after")
        ordered = ordered[place + 1 :]
    page = ordered[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(ordered) > limit,
    }


def _text(content: Sequence[ContentPart] | None) -> str:
    return "".join(part.text or "" for part in content or ())
