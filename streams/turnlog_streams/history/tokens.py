"""How many tokens a prompt has: what the last model call measured plus an estimate of what came since.

No tokenizer is at hand for every model, so text is weighed by kinds of characters. The weights come from two public
vocabularies (cl100k, o200k): English prose has about 4.5 characters a token, JSON about 2.8, Chinese about one. Where
vocabularies differ, the weights lean to the larger count; ``with_margin`` covers the rest. Identifiers and base64 may
still be counted up to 40 % short, which is why a measured prompt goes before an estimate.
"""

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from turnlog_schemas.parts import TEXT, ContentPart, Usage
from turnlog_streams.history.messages import HistoryMessage

MARGIN_PERCENT = 15
MESSAGE_OVERHEAD = 4  #: role and separators of a message
TOOL_CALL_OVERHEAD = 8  #: what stands around the name and the arguments of a call
IMAGE_TOKENS = 1_600
MAX_DOCUMENT_TOKENS = 100_000  #: no provider takes more pages
_BYTES_PER_TOKEN = 4
_DOCUMENT_BYTES_PER_TOKEN = 50
SUMMARY_OVERHEAD = 70  #: the frame that says what a summary is (``history.openai_format``)

_SPACE = b" \t\r\n"
_LOWER = string.ascii_lowercase.encode()
_UPPER = string.ascii_uppercase.encode()
# Hundredths of a token. Digits and punctuation come in short tokens, capitals mostly in identifiers.
_LOWER_WEIGHT, _SPACE_WEIGHT, _UPPER_WEIGHT, _OTHER_ASCII_WEIGHT = 22, 20, 60, 50
_TWO_BYTES_WEIGHT, _THREE_BYTES_WEIGHT, _FOUR_BYTES_WEIGHT = 75, 110, 270


def text_tokens(text: str | None) -> int:
    """An estimate for a text, rounded up; 0 for none."""
    return -(-_weight(text) // 100) if text else 0


def _weight(text: str) -> int:
    """In hundredths of a token. Only whole-text operations: the size of a text may be half a megabyte."""
    if text.isascii():
        return _ascii_weight(text.encode())
    ascii_bytes = text.encode("ascii", "ignore")
    other = len(text) - len(ascii_bytes)
    # Characters of two, three and four bytes, from the sizes of two encodings.
    four = len(text.encode("utf-16-le", "surrogatepass")) // 2 - len(text)
    three = len(text.encode("utf-8", "surrogatepass")) - len(ascii_bytes) - 4 * four - 2 * (other - four)
    two = other - four - three
    weight = two * _TWO_BYTES_WEIGHT + three * _THREE_BYTES_WEIGHT + four * _FOUR_BYTES_WEIGHT
    return weight + _ascii_weight(ascii_bytes)


def _ascii_weight(raw: bytes) -> int:
    without_lower = raw.translate(None, _LOWER)
    without_space = without_lower.translate(None, _SPACE)
    rest = without_space.translate(None, _UPPER)
    return (
        (len(raw) - len(without_lower)) * _LOWER_WEIGHT
        + (len(without_lower) - len(without_space)) * _SPACE_WEIGHT
        + (len(without_space) - len(rest)) * _UPPER_WEIGHT
        + len(rest) * _OTHER_ASCII_WEIGHT
    )


def file_tokens(part: ContentPart) -> int:
    """An estimate for a file that a model is shown.

    An image costs by its pixels, which nobody knows here: 1,600 tokens is the most that Anthropic counts, and more than
    what OpenAI does for most (their pages on vision). A document costs by its text and pages.
    """
    kind, size = part.media_type or "", part.bytes or 0
    if kind.startswith("text/"):
        return MESSAGE_OVERHEAD + (size // _BYTES_PER_TOKEN or IMAGE_TOKENS)
    if kind.startswith("image/"):
        return MESSAGE_OVERHEAD + IMAGE_TOKENS
    return MESSAGE_OVERHEAD + max(IMAGE_TOKENS, min(size // _DOCUMENT_BYTES_PER_TOKEN, MAX_DOCUMENT_TOKENS))


def message_tokens(message: HistoryMessage) -> int:
    """An estimate for a message with its tool calls."""
    tokens = MESSAGE_OVERHEAD
    for part in message.content or ():
        tokens += text_tokens(part.text) if part.kind == TEXT else file_tokens(part)
    for call in message.tool_calls:
        tokens += TOOL_CALL_OVERHEAD + text_tokens(call.name) + text_tokens(call.arguments)
    if message.role == "summary":
        tokens += SUMMARY_OVERHEAD
    return tokens


class Weights:
    """:func:`message_tokens`, once for each message of a session: its history is counted before every model call."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[HistoryMessage, int]] = {}

    def __call__(self, message: HistoryMessage) -> int:
        """The estimate for a message. One that a repair made has the number of another: it is told by identity."""
        known = self._known.get(message.message_seq)
        if known is not None and known[0] is message:
            return known[1]
        tokens = message_tokens(message)
        self._known[message.message_seq] = (message, tokens)
        return tokens


Weigh = Callable[[HistoryMessage], int]


def prompt_tokens(
    messages: Iterable[HistoryMessage], instructions: str | None = None, weigh: Weigh = message_tokens
) -> int:
    """An estimate for a whole prompt, without margin."""
    tokens = sum(map(weigh, messages))
    return tokens + (MESSAGE_OVERHEAD + text_tokens(instructions) if instructions else 0)


def with_margin(tokens: int) -> int:
    """An estimate that is seldom too low."""
    return -(-tokens * (100 + MARGIN_PERCENT) // 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMeasure:
    """What a model reported of the prompt of one call."""

    input_tokens: int  #: instructions, tool definitions and cached parts included
    through_seq: int  #: the message_seq up to which the history was in that prompt


def measured_prompt(turn_messages: Sequence[HistoryMessage], usage: Usage) -> PromptMeasure | None:
    """What the last call of a turn measured; ``None`` if it reported nothing.

    The last call wrote the turn's last assistant message (or a later one that was not stored), so its prompt had
    everything before that message. Usage summed over calls says nothing about the size of a prompt.
    """
    if usage.last_input_tokens <= 0:
        return None
    for message in reversed(turn_messages):
        if message.role == "assistant":
            return PromptMeasure(input_tokens=usage.last_input_tokens, through_seq=message.message_seq - 1)
    return None


def context_tokens(
    messages: Sequence[HistoryMessage],
    instructions: str | None,
    measure: PromptMeasure | None = None,
    weigh: Weigh = message_tokens,
) -> int:
    """How many tokens the prompt made of an assembled history has.

    ``measure``: of the newest call, made on this same view or on a shorter one (``None`` after a history compaction).
    """
    if measure is None:
        return with_margin(prompt_tokens(messages, instructions, weigh))
    since = (message for message in messages if message.role != "summary" and message.message_seq > measure.through_seq)
    return measure.input_tokens + with_margin(prompt_tokens(since, weigh=weigh))
