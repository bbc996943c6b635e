"""A session's history as the messages of AG-UI, with the ids that the client knows. Pure."""

from collections.abc import Sequence
from typing import Any

from turnlog.serve.agui.run_events import SNAPSHOT, Event, assistant_id, call_id, result_id
from turnlog.serve.agui.run_input import KnownMessage
from turnlog_schemas.files import shown_text
from turnlog_schemas.parts import HistoryEntry, content_text


def messages_snapshot(
    history: Sequence[HistoryEntry],
    known: Sequence[KnownMessage],
    *,
    turn_id: str = "",
    through_seq: int = 0,
    partial: tuple[str, str] | None = None,
) -> Event:
    """The event. Of the turn ``turn_id`` only what was told, up to message ``through_seq``; then what is being told.

    User messages have the ids that the client gave them, where it has such a message; others one of their turn.
    """
    mine = _user_ids(history, known)
    counted: dict[tuple[str, str], int] = {}
    open_calls: list[tuple[str, str]] = []
    messages: list[dict[str, Any]] = []
    for entry in history:
        if turn_id and entry.turn_id == turn_id and entry.role != "user" and entry.message_seq > through_seq:
            continue
        index = counted.get((entry.turn_id, entry.role), 0)
        counted[entry.turn_id, entry.role] = index + 1
        text = content_text(entry.content)
        if entry.role == "user":
            found = mine.get(entry.message_seq) or (f"{entry.turn_id}.u" if not index else f"{entry.turn_id}.u{index}")
            messages.append({"id": found, "role": "user", "content": shown_text(entry.content) or ""})
        elif entry.role == "assistant":
            messages.append(_assistant(entry, index, text, open_calls))
        elif entry.role == "tool":
            place = next((n for n, (given, _) in enumerate(open_calls) if given == entry.tool_call_id), None)
            own_id = open_calls.pop(place)[1] if place is not None else entry.tool_call_id or ""
            messages.append(
                {"id": result_id(entry.turn_id, index), "role": "tool", "toolCallId": own_id, "content": text or ""}
            )
    if partial is not None:
        messages.append({"id": partial[0], "role": "assistant", "content": partial[1]})
    return {**SNAPSHOT, "messages": messages}


def _assistant(entry: HistoryEntry, index: int, text: str | None, open_calls: list[tuple[str, str]]) -> dict[str, Any]:
    made: dict[str, Any] = {"id": assistant_id(entry.turn_id, index), "role": "assistant"}
    if text is not None:
        made["content"] = text
    if entry.tool_calls:
        open_calls += [(call.call_id, call_id(call)) for call in entry.tool_calls]
        made["toolCalls"] = [
            {"id": call_id(call), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in entry.tool_calls
        ]
    return made


def _user_ids(history: Sequence[HistoryEntry], known: Sequence[KnownMessage]) -> dict[int, str]:
    """The client's ids of user messages by message_seq: paired from the newest on, by their texts."""
    theirs = [message for message in known if message.role == "user"]
    found: dict[int, str] = {}
    for entry in reversed(history):
        if entry.role != "user":
            continue
        text = content_text(entry.content) or ""
        taken = _ending_in(theirs, text)
        if taken:
            found[entry.message_seq] = theirs[-taken].message_id if taken == 1 else theirs[-1].message_id
            del theirs[-taken:]
    return found


def _ending_in(theirs: Sequence[KnownMessage], text: str) -> int:
    """How many of the newest messages make up the text, as a run joins them; 0: they do not."""
    joined = ""
    for count in range(1, len(theirs) + 1):
        one = theirs[-count].text
        joined = one if count == 1 else f"{one}\n\n{joined}"
        if joined == text:
            return count
        if len(joined) > len(text):
            return 0
    return 0
