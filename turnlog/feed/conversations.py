"""Files of conversations, one a line (in the OpenAI chat format, or one that becomes it), and whether a stored history
equals one.

Real recordings are not tidy: content may be ``null`` or ``""`` (not the same), tool-call ids repeat, arguments need not
be JSON, and a turn may have no assistant message. All of that must come back as it is.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import from_json

from turnlog.errors import NotFoundError, UsageError
from turnlog_schemas.commands import ID_PATTERN
from turnlog_schemas.files import reference_text, shown_text, wrong_part
from turnlog_schemas.parts import TEXT, ContentPart, ToolCall, content_text, is_plain_text
from turnlog_workers.runners.conversation_forms import UnknownFormError, as_openai, conversation_id
from turnlog_workers.runners.recordings import Message

SESSION_PREFIX = "feed-"
_SHOWN_CHARACTERS = 160
_SHOWN_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A recorded conversation: the system message, then turns."""

    conversation_id: str
    line: int  #: in its file, from 1
    instructions: str | None
    messages: tuple[Message, ...]  #: without the system messages at the start
    title: str | None = None

    @property
    def session_id(self) -> str:
        """The session that it is fed to."""
        return SESSION_PREFIX + self.conversation_id

    @property
    def opening(self) -> tuple[Message, ...]:
        """What stands before the first user message: the session begins with it."""
        first = next(index for index, message in enumerate(self.messages) if message.role == "user")
        return self.messages[:first]

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
    not_stored: tuple[str, ...] = ()  #: keys with a value that no history keeps
    not_stored_lines: tuple[str, ...] = ()  #: the same by line: ``line 3: messages[1].name, tools``
    left_out: tuple[str, ...] = ()  #: lines that cannot be fed, and why; only if that was asked for


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


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Function(_Model):
    name: str
    arguments: str


class _Call(_Model):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Part(_Model):
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


class _Message(_Model):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Line(_Model):
    messages: list[_Message]
    title: str | None = None


class _ShapeError(ValueError):
    """What is wrong with a conversation."""


def read_conversations(path: Path, *, skip: bool = False) -> ConversationFile:
    """Read and check a whole file. Blocks. ``skip`` leaves out what cannot be fed.

    Raises :class:`NotFoundError` for a file that cannot be read, :class:`UsageError` with file, line and what is wrong.
    """
    path = path.absolute()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror or error}") from error
    conversations: dict[str, Conversation] = {}
    not_stored: dict[int, list[str]] = {}
    wrong: list[str] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            conversation, dropped = _conversation(line, number)
            earlier = conversations.setdefault(conversation.conversation_id, conversation)
            if earlier is not conversation:
                raise _ShapeError(f"the id {conversation.conversation_id!r} is that of line {earlier.line} too")
            if dropped:
                not_stored[number] = dropped
        except _ShapeError as error:
            wrong.append(f"line {number}: {error}")
    if wrong and not skip:
        raise UsageError(_all_wrong(path, data, wrong))
    if not conversations:
        reasons = f" that can be fed: {'; '.join(wrong[:_SHOWN_LINES])}" if wrong else ""
        raise UsageError(f'{path} has no conversation{reasons}: one a line is expected, {{"messages": […]}}')
    return ConversationFile(
        path=path,
        digest=hashlib.sha256(data).hexdigest(),
        conversations=tuple(conversations.values()),
        not_stored=tuple(sorted({place.rpartition(".")[2] for places in not_stored.values() for place in places})),
        not_stored_lines=tuple(f"line {number}: {', '.join(places)}" for number, places in not_stored.items()),
        left_out=tuple(wrong),
    )


def _all_wrong(path: Path, data: bytes, wrong: list[str]) -> str:
    more = f"; and {len(wrong) - _SHOWN_LINES} more lines" if len(wrong) > _SHOWN_LINES else ""
    hint = ""
    if data.lstrip()[:1] == b"[" and wrong[0].startswith("line 1:"):
        hint = ". If the file is one JSON array, make it lines: jq -c '.[]' FILE"
    elif len(wrong) > 1:
        hint = ". --skip feeds the others"
    return f"{path}, {'; '.join(wrong[:_SHOWN_LINES])}{more}{hint}"


def _conversation(line: bytes, number: int) -> tuple[Conversation, list[str]]:
    """And the places of what no history keeps."""
    parsed, found_id = _parsed(line, number)
    if not re.fullmatch(ID_PATTERN, SESSION_PREFIX + found_id):
        raise _ShapeError(
            f"the id {found_id!r} cannot be part of a session id: "
            f"at most {128 - len(SESSION_PREFIX)} characters of A-Z a-z 0-9 . _ -"
        )
    messages = parsed.messages
    first = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    said = [content_text(_content(message)) or "" for message in messages[:first]]
    _check_order(messages[first:], first=first)
    conversation = Conversation(
        conversation_id=found_id,
        line=number,
        instructions=said[0] if len(said) == 1 else "\n\n".join(filter(None, said)) or None,
        messages=tuple(_message(message) for message in messages[first:]),
        title=parsed.title or None,
    )
    return conversation, list(_dropped(parsed))


def _parsed(line: bytes, number: int) -> tuple[_Line, str]:
    try:
        raw = from_json(line)
    except ValueError as error:
        raise _ShapeError(f"Invalid JSON: {error}") from error
    try:
        parsed = _Line.model_validate(as_openai(raw))
    except UnknownFormError as error:
        raise _ShapeError(str(error)) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        said = "Input should be an object" if first["type"].startswith("model_") else first["msg"]
        raise _ShapeError(": ".join(filter(None, (_place(first["loc"]), said)))) from error
    found_id = conversation_id(raw, number, line)
    if found_id is None:
        raise _ShapeError("its id is neither a text nor a whole number")
    return parsed, found_id


def _dropped(line: _Line) -> Iterator[str]:
    """What is said and cannot be stored."""
    yield from _extra(line, "", but=("id",))
    for at, message in enumerate(line.messages):
        where = f"messages[{at}]."
        yield from _extra(message, where)
        if message.role in ("user", "system") and message.name is not None:
            yield f"{where}name"
        for number, call in enumerate(message.tool_calls or ()):
            yield from _extra(call, f"{where}tool_calls[{number}].")
            yield from _extra(call.function, f"{where}tool_calls[{number}].function.")
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            yield from _extra(part, f"{where}content[{number}].")


def _extra(model: BaseModel, where: str, but: tuple[str, ...] = ()) -> Iterator[str]:
    yield from (
        f"{where}{key}" for key, value in (model.model_extra or {}).items() if value is not None and key not in but
    )


def _check_order(messages: Sequence[_Message], first: int) -> None:
    """``first``: position of the first of them in the line, from 0."""
    for position, message in enumerate(messages, start=first):
        if message.role == "system":
            raise _ShapeError(
                f"messages[{position}]: a system or developer message can only stand at the start: a session has its "
                "instructions from the beginning"
            )
        if message.role == "user" and not (shown_text(_content(message)) or "").strip():
            raise _ShapeError(f"messages[{position}]: the user's message is empty; a session refuses empty messages")
        if message.role == "tool" and message.tool_call_id is None:
            raise _ShapeError(f"messages[{position}]: the tool message has no tool_call_id")
        if message.role in ("user", "tool") and message.tool_calls:
            raise _ShapeError(f"messages[{position}]: a {message.role} message has no tool_calls")
    if not any(message.role == "user" for message in messages):
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
    title: str | None = None,
) -> list[Mismatch]:
    """The differences of a stored history (``None``: no such session), in order; ``[]`` when it is the recording.

    ``users_only`` looks at the user's messages alone: for a session whose model says something else. ``title`` is the
    stored one; it counts if the recording has one.
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
