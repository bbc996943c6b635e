"""A summary without a model, at the end of the ladder: the same messages always give the same text.

It keeps the last summary of a model and the beginning of each message; the user's messages go before the rest.
"""

from collections.abc import Iterator, Sequence

from turnlog_schemas.files import shown_text
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.summary_prompt import clipped, shortened
from turnlog_streams.history.tokens import text_tokens

_CHARACTERS = (800, 400, 200, 100, 50)  #: of a user message; of others half or a quarter


def truncation_summary(messages: Sequence[HistoryMessage], previous: str | None, *, max_tokens: int) -> str:
    """A record of at most ``max_tokens`` (estimated) of at least one message, after the record ``previous``."""
    head = f"Messages {messages[0].message_seq} to {messages[-1].message_seq}, cut short without a model:"
    if previous:
        head = f"{clipped(previous, max_tokens // 2)}\n\n{head}"
    room = max_tokens - text_tokens(head) - 2
    for characters in _CHARACTERS:
        lines = list(_lines(messages, characters))
        if text_tokens("\n".join(lines)) <= room:
            return "\n".join([head, *lines])
    users = list(_lines([message for message in messages if message.role == "user"], _CHARACTERS[-1]))
    return clipped("\n".join([head, *_first_and_newest(users or lines, room)]), max_tokens)


def _lines(messages: Sequence[HistoryMessage], characters: int) -> Iterator[str]:
    for message in messages:
        text = " ".join((shown_text(message.content) or "").split())
        number = f"[{message.message_seq}]"
        if message.role == "tool":
            yield f"{number} {message.name or 'tool'}: {shortened(text, characters // 4)}"
        elif text:
            share = 1 if message.role == "user" else 2
            yield f"{number} {message.role}: {shortened(text, characters // share)}"
        for call in message.tool_calls:
            yield f"{number} {message.role} calls {call.name} {shortened(call.arguments, characters // 4)}"


def _first_and_newest(lines: Sequence[str], room: int) -> list[str]:
    """The first line, which says what it is about, and of the newest as many as fit."""
    kept: list[str] = []
    room -= text_tokens(lines[0]) + 4
    for line in reversed(lines[1:]):
        room -= text_tokens(line) + 1
        if room < 0:
            break
        kept.append(line)
    left_out = len(lines) - 1 - len(kept)
    return [lines[0], *(["[…]"] if left_out else []), *reversed(kept)]
