"""Files of conversations, one a line: in the OpenAI chat format, or one that becomes it.

Real recordings are not tidy: content may be ``null`` or ``""`` (not the same), tool-call ids repeat, arguments need not
be JSON, and a turn may have no assistant message. All of that must come back as it is.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import from_json

from turnlog.errors import NotFoundError, UsageError
from turnlog_schemas.commands import ID_PATTERN
from turnlog_schemas.files import shown_text, wrong_part
from turnlog_schemas.parts import TEXT, ContentPart, ToolCall, content_text
from turnlog_schemas.request_checks import is_name
from turnlog_workers.base.counted import counted
from turnlog_workers.runners.conversation_forms import UnknownFormError, as_openai, conversation_id
from turnlog_workers.runners.recordings import Message

SESSION_PREFIX = "feed-"
_SHOWN_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of the messages up to one, which are all there; messages count from 1, without the system message."""

    from_seq: int
    to_seq: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A recorded conversation: the system message, then turns."""

    conversation_id: str
    line: int  #: in its file, from 1
    instructions: str | None
    messages: tuple[Message, ...]  #: without the system messages at the start
    title: str | None = None
    summaries: tuple[Summary, ...] = ()  #: each reaches further than the one before

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


class _HistoryCompaction(_Model):
    from_seq: int = 1
    to_seq: int
    method: str | None = None
    summary: str


class _Line(_Model):
    messages: list[_Message]
    title: str | None = None
    history_compactions: list[_HistoryCompaction] | None = None


class _ShapeError(ValueError):
    """What is wrong with a conversation."""


def read_conversations(path: Path, *, skip: bool = False, summaries: bool = True) -> ConversationFile:
    """Read and check a whole file. Blocks. ``skip`` leaves out what cannot be fed, no ``summaries`` those of histories.

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
            conversation, dropped = _conversation(line, number, summaries=summaries)
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
    more = f"; and {counted(len(wrong) - _SHOWN_LINES, 'more line')}" if len(wrong) > _SHOWN_LINES else ""
    hint = ""
    if data.lstrip()[:1] == b"[" and wrong[0].startswith("line 1:"):
        hint = ". If the file is one JSON array, make it lines: jq -c '.[]' FILE"
    elif len(wrong) > 1:
        hint = ". --skip feeds the others"
    return f"{path}, {'; '.join(wrong[:_SHOWN_LINES])}{more}{hint}"


def _conversation(line: bytes, number: int, *, summaries: bool) -> tuple[Conversation, list[str]]:
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
    said_messages = tuple(_message(message) for message in messages[first:])
    kept, left = _summaries(parsed.history_compactions or () if summaries else (), said_messages)
    if not summaries and parsed.history_compactions:
        left = ["history_compactions"]
    conversation = Conversation(
        conversation_id=found_id,
        line=number,
        instructions=said[0] if len(said) == 1 else "\n\n".join(filter(None, said)) or None,
        messages=said_messages,
        title=parsed.title or None,
        summaries=kept,
    )
    return conversation, [*_dropped(parsed), *left]


def _summaries(
    found: Sequence[_HistoryCompaction], messages: Sequence[Message]
) -> tuple[tuple[Summary, ...], list[str]]:
    """Those that a session can take, one for each end, and the places of the others."""
    kept: dict[int, Summary] = {}
    left: list[str] = []
    for at, made in enumerate(found):
        place = f"history_compactions[{at}]"
        fits = made.from_seq == 1 <= made.to_seq < len(messages) and messages[made.to_seq].role != "tool"
        newer = [other.to_seq for other in found[at + 1 :] if other.to_seq <= made.to_seq]
        if not fits or newer or not made.summary.strip():
            left.append(place)
            continue
        left += _extra(made, f"{place}.")
        kept[made.to_seq] = Summary(from_seq=1, to_seq=made.to_seq, text=made.summary)
    return tuple(kept.values()), left


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
        if message.name is not None and not _keeps_name(message):
            yield f"{where}name"
        for number, call in enumerate(message.tool_calls or ()):
            yield from _extra(call, f"{where}tool_calls[{number}].")
            yield from _extra(call.function, f"{where}tool_calls[{number}].function.")
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            yield from _extra(part, f"{where}content[{number}].")


def _keeps_name(message: _Message) -> bool:
    """A user's is part of a request, which takes it only in its form; instructions have none."""
    return message.role != "system" and (message.role != "user" or is_name(message.name or ""))


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
        name=message.name if _keeps_name(message) else None,
    )
