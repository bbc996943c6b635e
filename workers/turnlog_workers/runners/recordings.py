"""Files of recorded conversations: where each one stands in its file, and what it says.

A file is scanned once for its ids (again when its time or size changes); a conversation is read when it is asked for,
so a big file costs an offset a conversation. All of it blocks: call it in a thread.
"""

import json
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turnlog_schemas.files import wrong_part
from turnlog_schemas.parts import FILE_REF, ContentPart, ToolCall
from turnlog_workers.runners.conversation_forms import as_openai, conversation_id

MAX_INDEXED_FILES = 16


class UnreadableRecording(Exception):
    """A recording that is not there or not of the form. ``code`` as in :class:`RunnerError`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of a conversation, as it was recorded."""

    role: str
    content: tuple[ContentPart, ...] | None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """Where the conversations of one version of a file are."""

    version: tuple[int, int, int, int]  #: device, inode, time of the last change (ns), size (bytes)
    places: dict[str, tuple[int, int, int]] = field(default_factory=dict)  #: by id: the line's offset, length, number
    twice: set[str] = field(default_factory=set)  #: ids that several lines have
    unreadable: list[int] = field(default_factory=list)  #: line numbers, from 1; at most one is kept


class Recordings:
    """The files that were asked for last, indexed. For use in threads."""

    def __init__(self, max_indexed_files: int = MAX_INDEXED_FILES) -> None:
        self._max_indexed_files = max_indexed_files
        self._indexes: OrderedDict[str, _Index] = OrderedDict()
        self._lock = threading.Lock()

    def messages(self, path: str, conversation_id: str) -> tuple[Message, ...]:
        """The messages of a conversation. Raises :class:`UnreadableRecording`. Blocks."""
        line, number = self._line(path, conversation_id)
        if _id_of(line, number) != conversation_id:
            raise UnreadableRecording("recording_not_found", f"{path} was changed while it was read")
        try:
            return tuple(_message(raw) for raw in as_openai(json.loads(line))["messages"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"not in the OpenAI chat format ({type(error).__name__}: {error})"
            raise UnreadableRecording("recording_unsupported", reason) from error

    def _line(self, path: str, conversation_id: str) -> tuple[bytes, int]:
        full_path = os.path.abspath(path)
        try:
            version = _version(full_path)
            index = self._index(full_path, version)
            place = index.places.get(conversation_id)
            if place is None:
                hint = f" (line {index.unreadable[0]} is no conversation)" if index.unreadable else ""
                reason = f"no conversation with this id among the {len(index.places)} in {path}{hint}"
                raise UnreadableRecording("recording_not_found", reason)
            if conversation_id in index.twice:
                raise UnreadableRecording("recording_unsupported", f"several lines of {path} have this id")
            with Path(full_path).open("rb") as file:
                file.seek(place[0])
                return file.read(place[1]), place[2]
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UnreadableRecording("recording_not_found", f"cannot read {path!r}: {why}") from error

    def _index(self, path: str, version: tuple[int, int, int, int]) -> _Index:
        with self._lock:  # sessions that start together scan the file once, not each for itself
            index = self._indexes.get(path)
            if index is None or index.version != version:
                index = self._indexes[path] = _scan(path, version)
            self._indexes.move_to_end(path)
            while len(self._indexes) > self._max_indexed_files:
                self._indexes.popitem(last=False)
            return index


def _version(path: str) -> tuple[int, int, int, int]:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # a device or a pipe may have no end
        raise UnreadableRecording("recording_not_found", f"{path} is not a regular file")
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _scan(path: str, version: tuple[int, int, int, int]) -> _Index:
    index = _Index(version=version)
    offset = 0
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                found = _id_of(line, number)
                if found is None:
                    index.unreadable[:] = index.unreadable or [number]
                elif found in index.places:
                    index.twice.add(found)
                else:
                    index.places[found] = (offset, len(line), number)
            offset += len(line)
    return index


def _id_of(line: bytes, number: int) -> str | None:
    try:
        return conversation_id(json.loads(line), number, line)
    except (ValueError, RecursionError):
        return None


def _message(raw: dict[str, Any]) -> Message:
    """A message of the OpenAI chat format; keys that are not of interest are ignored."""
    name, tool_call_id = raw.get("name"), raw.get("tool_call_id")
    return Message(
        role=_text(raw["role"]),
        content=_content(raw.get("content")),
        tool_calls=tuple(_call(call) for call in raw.get("tool_calls") or ()),
        tool_call_id=None if tool_call_id is None else _text(tool_call_id),
        name=None if name is None else _text(name),
    )


def _content(raw: object) -> tuple[ContentPart, ...] | None:
    if raw is None:
        return None
    if isinstance(raw, list):
        return tuple(_part(part) for part in raw)
    return (ContentPart(text=_text(raw)),)


def _part(raw: dict[str, Any]) -> ContentPart:
    if raw.get("type") != FILE_REF:
        return ContentPart(text=_text(raw["text"]))
    part = ContentPart(
        kind=FILE_REF,
        uri=_text(raw["uri"]),
        media_type=_text(raw["media_type"]),
        sha256=raw.get("sha256"),
        bytes=raw.get("bytes"),
    )
    if (wrong := wrong_part(part)) is not None:
        raise ValueError(wrong)
    return part


def _call(raw: dict[str, Any]) -> ToolCall:
    function = raw["function"]
    return ToolCall(call_id=_text(raw["id"]), name=_text(function["name"]), arguments=_text(function["arguments"]))


def _text(raw: object) -> str:
    """The text, if it is one that can be written down: JSON can hold half a surrogate pair, UTF-8 cannot."""
    if not isinstance(raw, str):
        raise TypeError(f"{type(raw).__name__} where a text must be")
    raw.encode()
    return raw
