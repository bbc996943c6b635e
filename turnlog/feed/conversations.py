"""Files of conversations in the OpenAI chat format (one a line), and whether a stored history equals one.

Real recordings are not tidy: content may be ``null`` or ``""`` (not the same), tool-call ids repeat, arguments need not
be JSON, and a turn may have no assistant message. All of that must come back as it is.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from turnlog.errors import NotFoundError, UsageError
from turnlog_schemas.commands import ID_PATTERN
from turnlog_schemas.files import reference_text, shown_text, wrong_part
from turnlog_schemas.parts import TEXT, ContentPart, ToolCall, content_text, is_plain_text
from turnlog_workers.runners.recordings import Message

SESSION_PREFIX = "feed-"
_SHOWN_CHARACTERS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A recorded conversation: the system message, then turns."""

    conversation_id: str
    line: int  #: in its file, from 1
    instructions: str | None
    messages: tuple[Message, ...]  #: without the system message; the first is a user's

    @property
    def session_id(self) -> str:
        """The session that it is fed to."""
        return SESSION_PREFIX + self.conversation_id

    @property
    def turns(self) -> list[tuple[Message, ...]]:
        """The k-th user message and what follows it."""
        starts = [index for index, message in enumerate(self.messages) if message.role == "user"]
        ends = [*starts[1:], len(self.messages)]
        return [self.messages[start:end] for start, end in zip(starts, ends, strict=True)]

    @property
    def user_messages(self) -> list[Message]:
        """What is sent."""
        return [message for message in self.messages if message.role == "user"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationFile:
    """A file that was read and found to be in order."""

    path: Path  #: absolute
    digest: str  #: SHA-256 of its bytes, in hex
    conversations: tuple[Conversation, ...]
    not_stored: tuple[str, ...] = ()  #: message keys with a value that no history keeps


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


class _Function(BaseModel):
    name: str
    arguments: str


class _Call(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Part(BaseModel):
    """A text, or a reference to a file: the fields of a :class:`ContentPart`."""

    type: Literal["text", "file_ref"]
    text: str | None = None
    uri: str | None = None
    media_type: str | None = None
    sha256: str | None = None
    bytes: int | None = None

    @model_validator(mode="after")
    def _whole(self) -> "_Part":
        if self.type == TEXT and self.text is None:
            raise ValueError("a part of type 'text' has a text")
        if (wrong := wrong_part(self.part())) is not None:
            raise ValueError(wrong)
        return self

    def part(self) -> ContentPart:
        """As it is sent."""
        named = {"text": self.text, "uri": self.uri, "media_type": self.media_type, "sha256": self.sha256}
        return ContentPart(kind=self.type, bytes=self.bytes, **named)


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Line(BaseModel):
    id: str | int
    messages: list[_Message]


class _ShapeError(ValueError):
    """What is wrong with a conversation."""


def read_conversations(path: Path) -> ConversationFile:
    """Read and check a whole file. Blocks.

    Raises :class:`NotFoundError` for a file that cannot be read, :class:`UsageError` with file, line and what is wrong.
    """
    path = path.absolute()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror or error}") from error
    conversations: dict[str, Conversation] = {}
    not_stored: set[str] = set()
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            conversation = _conversation(line, number, not_stored)
            earlier = conversations.setdefault(conversation.conversation_id, conversation)
            if earlier is not conversation:
                raise _ShapeError(f"the id {conversation.conversation_id!r} is that of line {earlier.line} too")
        except _ShapeError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
    if not conversations:
        raise UsageError(f'{path} has no conversation: one a line is expected, {{"id": "…", "messages": […]}}')
    return ConversationFile(
        path=path,
        digest=hashlib.sha256(data).hexdigest(),
        conversations=tuple(conversations.values()),
        not_stored=tuple(sorted(not_stored)),
    )


def _conversation(line: bytes, number: int, not_stored: set[str]) -> Conversation:
    try:
        parsed = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise _ShapeError(": ".join(filter(None, (_place(first["loc"]), first["msg"])))) from error
    conversation_id = str(parsed.id)
    if not re.fullmatch(ID_PATTERN, SESSION_PREFIX + conversation_id):
        raise _ShapeError(
            f"the id {conversation_id!r} cannot be part of a session id: "
            f"at most {128 - len(SESSION_PREFIX)} characters of A-Z a-z 0-9 . _ -"
        )
    messages = parsed.messages
    instructions = None
    if messages and messages[0].role == "system":
        instructions = content_text(_content(messages[0]))
        messages = messages[1:]
    _check_order(messages, first=len(parsed.messages) - len(messages))
    for message in messages:
        not_stored |= {key for key, value in (message.model_extra or {}).items() if value is not None}
        if message.role == "user" and message.name is not None:
            not_stored.add("name")
    return Conversation(
        conversation_id=conversation_id,
        line=number,
        instructions=instructions,
        messages=tuple(_message(message) for message in messages),
    )


def _check_order(messages: Sequence[_Message], first: int) -> None:
    """``first``: position of the first of them in the line, from 0."""
    for position, message in enumerate(messages, start=first):
        if message.role == "system":
            raise _ShapeError(f"messages[{position}]: a system message can only be the first message")
        if position == first and message.role != "user":
            raise _ShapeError(
                f"messages[{position}]: a message of role {message.role!r} stands before the first user message; every "
                "message belongs to the turn that a user's message begins"
            )
        if message.role == "user" and not (shown_text(_content(message)) or "").strip():
            raise _ShapeError(f"messages[{position}]: the user's message is empty; a session refuses empty messages")
        if message.role == "tool" and message.tool_call_id is None:
            raise _ShapeError(f"messages[{position}]: the tool message has no tool_call_id")
        if message.role in ("user", "tool") and message.tool_calls:
            raise _ShapeError(f"messages[{position}]: a {message.role} message has no tool_calls")
    if not messages:
        raise _ShapeError("the conversation has no user message")


def _place(location: Iterable[int | str]) -> str:
    place = ""
    for part in location:
        place += f"[{part}]" if isinstance(part, int) else f".{part}"
    return place.lstrip(".")


def _content(message: _Message) -> tuple[ContentPart, ...] | None:
    if message.content is None:
        return None
    if isinstance(message.content, str):
        return (ContentPart(text=message.content),)
    return tuple(part.part() for part in message.content)


def _message(message: _Message) -> Message:
    calls = message.tool_calls or []
    return Message(
        role=message.role,
        content=_content(message),
        tool_calls=tuple(
            ToolCall(call_id=call.id, name=call.function.name, arguments=call.function.arguments) for call in calls
        ),
        tool_call_id=message.tool_call_id,
        name=None if message.role == "user" else message.name,
    )


# ---- comparison


def compare(
    conversation: Conversation,
    instructions: str | None,
    history: Sequence[Message] | None,
    *,
    users_only: bool = False,
) -> list[Mismatch]:
    """The differences of a stored history (``None``: no such session), in order; ``[]`` when it is the recording.

    ``users_only`` looks at the user's messages alone: for a session whose model says something else.
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
    return out


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
