"""Messages of a session, for people to read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from turnlog.terminal import output
from turnlog_schemas.files import shown_text
from turnlog_schemas.json_values import record_reader
from turnlog_schemas.parts import ContentPart, files_of

MAX_RESULT = 400
_read_part = record_reader(ContentPart, closed=False)


def print_message(message: Mapping[str, Any], *, max_result: int) -> None:
    """A message with its tool calls (in OpenAI's form); results and arguments cut at ``max_result`` (0: not)."""
    marks = "".join(f" [{mark}]" for mark in ("interrupted", "truncated", "covered") if message[mark])
    if message.get("outcome") in ("error", "timed_out"):
        marks += f" [{message['outcome'].replace('_', ' ')}]"
    name = f" {message['name']}" if message["name"] else ""
    output.print_text(f"\n{message['message_seq']} {message['role']}{name}{marks}")
    content = in_words(message["content"], message.get("content_parts"))
    if content:
        output.print_text(_indent(cut(content, max_result) if message["role"] == "tool" else content))
    for call in message.get("tool_calls", ()):
        function = call["function"]
        output.print_text(_indent(f"-> {function['name']}({cut(function['arguments'], max_result)})"))


def in_words(text: str | None, parts: str | Sequence[Mapping[str, Any]] | None) -> str | None:
    """The text, with a line for each file. ``parts``: as the snapshot has them, where the text does not say it all."""
    if parts is None:
        return text
    try:
        read = tuple(_read_part(part) for part in (json.loads(parts) if isinstance(parts, str) else parts))
    except ValueError:
        return text if text is not None else str(parts)
    return shown_text(read) if files_of(read) else text


def print_summary(summary: str, covered_to: int) -> None:
    """The newest summary."""
    output.print_text(f"\nsummary of the messages up to {covered_to}: what models see of them")
    output.print_text(_indent(summary))


def cut(text: str, max_length: int) -> str:
    """At most so many characters (0: all), with a word about the rest."""
    if not max_length or len(text) <= max_length:
        return text
    return f"{text[:max_length]}… (--full shows all {len(text)} characters)"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.split("\n"))
