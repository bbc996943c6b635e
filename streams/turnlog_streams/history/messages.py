"""The history: the whole messages of a session, in turn order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from turnlog_schemas import events as ev
from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.parts import ContentPart, ToolCall, content_text


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryMessage:
    """A stored message and the turn that it belongs to."""

    message_seq: int
    turn_id: str
    role: str
    content: tuple[ContentPart, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    interrupted: bool = False
    truncated: bool = False
    outcome: str | None = None  #: of a tool message: how its call ended; ``None``: not said
    imported: bool = False  #: said elsewhere, in no turn


def history_message(turn_id: str, event: ev.MessageStored) -> HistoryMessage:
    """The message of an event."""
    return HistoryMessage(
        message_seq=event.message_seq,
        turn_id=turn_id,
        role=event.role,
        content=event.content,
        tool_calls=event.tool_calls,
        tool_call_id=event.tool_call_id,
        name=event.name,
        interrupted=event.interrupted,
        truncated=event.truncated,
        outcome=event.outcome,
        imported=event.imported,
    )


def of_turn(history: Sequence[HistoryMessage], turn_id: str) -> list[HistoryMessage]:
    """The messages of one turn: a suffix-heavy search, since one asks for the newest turn."""
    found: list[HistoryMessage] = []
    for message in reversed(history):
        if message.turn_id == turn_id:
            found.append(message)
        elif found:
            break
    found.reverse()
    return found


def final_text(messages: Iterable[HistoryMessage]) -> str:
    """The text of the last assistant message; empty when a turn had none (one is never invented)."""
    text = ""
    for message in messages:
        if message.role == "assistant":
            text = content_text(message.content) or ""
    return text
