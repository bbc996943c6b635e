"""Does a stored history equal a recording?"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from turnlog.feed.conversations import Conversation, Summary
from turnlog_schemas.files import reference_text
from turnlog_schemas.parts import ContentPart, is_plain_text
from turnlog_workers.runners.recordings import Message

_SHOWN_CHARACTERS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One difference between a recording and a stored history."""

    conversation_id: str
    session_id: str
    where: str  #: ``message 3, tool_calls[0].arguments``; messages count from 1, without the system message
    recorded: str
    stored: str

    def __str__(self) -> str:
        return f"session {self.session_id}, {self.where}: recorded {self.recorded}, stored {self.stored}"


def compare(
    conversation: Conversation,
    instructions: str | None,
    history: Sequence[Message] | None,
    *,
    users_only: bool = False,
    title: str | None = None,
    summaries: Sequence[Summary] = (),
) -> list[Mismatch]:
    """The differences of a stored history (``None``: no such session), in order; ``[]`` when it is the recording.

    ``users_only`` looks at the user's messages alone: for a session whose model says something else. ``title`` and
    ``summaries`` are the stored ones; they count if the recording has some.
    """
    out: list[Mismatch] = []

    def differ(where: str, recorded: Any, stored: Any) -> None:
        out.append(
            Mismatch(
                conversation_id=conversation.conversation_id,
                session_id=conversation.session_id,
                where=where,
                recorded=recorded,
                stored=stored,
            )
        )

    if history is None:
        differ("the session", "it is", "no such session")
        return out
    if instructions != conversation.instructions:
        differ("instructions", _shown(conversation.instructions), _shown(instructions))
    if conversation.title is not None and title != conversation.title:
        differ("title", _shown(conversation.title), _shown(title))
    recorded, stored = list(conversation.messages), list(history)
    if users_only:
        recorded, stored = ([m for m in messages if m.role == "user"] for messages in (recorded, stored))
    for number, (expected, found) in enumerate(zip(recorded, stored, strict=False), start=1):
        for field, left, right in _differences(expected, found):
            differ(f"message {number}, {field}", _shown(left), _shown(right))
    for number in range(len(stored) + 1, len(recorded) + 1):
        differ(f"message {number}", f"a message of role {recorded[number - 1].role!r}", "nothing")
    for number in range(len(recorded) + 1, len(stored) + 1):
        differ(f"message {number}", "nothing", f"a message of role {stored[number - 1].role!r}")
    if conversation.summaries:
        for where, left, right in _of_summaries(conversation.summaries, summaries):
            differ(where, _shown(left), _shown(right))
    return out


def _of_summaries(recorded: Sequence[Summary], stored: Sequence[Summary]) -> Iterator[tuple[str, Any, Any]]:
    for number, (made, found) in enumerate(zip_longest(recorded, stored), start=1):
        if made is None or found is None:
            yield f"summary {number}", made and made.text, found and found.text
            continue
        for field in ("from_seq", "to_seq", "text"):
            left, right = getattr(made, field), getattr(found, field)
            if left != right:
                yield f"summary {number}, {field}", left, right


def _differences(recorded: Message, stored: Message) -> list[tuple[str, Any, Any]]:
    pairs: list[tuple[str, Any, Any]] = [
        ("role", recorded.role, stored.role),
        ("content", _comparable(recorded.content), _comparable(stored.content)),
        ("tool_call_id", recorded.tool_call_id, stored.tool_call_id),
        ("name", recorded.name, stored.name),
        ("number of tool_calls", len(recorded.tool_calls), len(stored.tool_calls)),
    ]
    for position, (left, right) in enumerate(zip(recorded.tool_calls, stored.tool_calls, strict=False)):
        pairs += [
            (f"tool_calls[{position}].id", left.call_id, right.call_id),
            (f"tool_calls[{position}].name", left.name, right.name),
            (f"tool_calls[{position}].arguments", left.arguments, right.arguments),
        ]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _comparable(content: tuple[ContentPart, ...] | None) -> str | list[str | None] | None:
    """A plain text as such, several parts as a list; ``null`` is neither."""
    if content is None:
        return None
    if len(content) == 1 and is_plain_text(content[0]):
        return content[0].text
    return [part.text if is_plain_text(part) else f"{reference_text(part)} {part}" for part in content]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
