"""What a runner yields, checked where it enters: a runner is somebody else's code.

What passes is an output of ours, made of plain values within bounds, that can be encoded and stored. What does not is
an :class:`OutputError`: it fails the turn at once, since what a program yields wrongly once it yields again. Half a
character is no error: pieces of a text are put together, and what stays broken becomes U+FFFD.
"""

from typing import Any

from turnlog_schemas.parts import OUTCOMES, TEXT, ContentPart, ToolCall, Usage
from turnlog_workers.runners.base import (
    AssistantMessage,
    ReasoningDelta,
    RunnerError,
    RunnerOutput,
    TextDelta,
    ToolResult,
)
from turnlog_workers.runners.base import UsageReport as Report

MAX_TOOL_CALLS = 128  #: of one message: as many as any provider makes
MAX_CALL_ID_BYTES = 8_192  #: some servers keep signed data in it
MAX_NAME_BYTES = 1_024  #: of a tool, and of an idempotency key
MAX_PARTS = 1_024  #: of a content
MAX_TOKENS = 10**12  #: in one count of a usage report
MAX_OUTPUTS = 1_000_000  #: between two whole messages: also of empty pieces there is an end
_SHOWN_CHARACTERS = 60
_REPLACEMENT = "\ufffd"
_NAME = type.__dict__["__name__"]


class OutputError(RunnerError):
    """A runner yielded what no runner may. The reason says what, without any text of a message."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason, retryable=False)


def checked(output: object) -> RunnerOutput:
    """The output, made of plain values. Raises :class:`OutputError`."""
    try:
        if (type(output) is TextDelta or type(output) is ReasoningDelta) and type(output.text) is str:
            return output  # most outputs are such pieces
        return _checked(output)
    except OutputError:
        raise
    except BaseException as error:  # of a property, of a method of a subclass: whatever it is, it ends here
        reason = f"the runner yielded {described(output)} that cannot be read ({type_name(error)})"
        raise OutputError("invalid_output", reason) from error


def _checked(output: object) -> RunnerOutput:
    match output:
        case TextDelta():
            return TextDelta(text=plain_text(output.text, "the text of a TextDelta"))
        case ReasoningDelta():
            return ReasoningDelta(text=plain_text(output.text, "the text of a ReasoningDelta"))
        case AssistantMessage():
            content = _content(output.content, "the content of an AssistantMessage")
            return AssistantMessage(content=content, tool_calls=_calls(output.tool_calls))
        case ToolResult():
            name = output.name
            return ToolResult(
                call_id=_bounded(output.call_id, "the call_id of a ToolResult", MAX_CALL_ID_BYTES),
                content=_content(output.content, "the content of a ToolResult"),
                name=None if name is None else _bounded(name, "the name of a ToolResult", MAX_NAME_BYTES),
                outcome=_outcome(output.outcome),
            )
        case Report():
            return Report(usage=_usage(output.usage))
    raise OutputError("invalid_output", f"the runner yielded {described(output)}, which is no output of a runner")


def plain_text(value: object, what: str) -> str:
    """A plain ``str``; a half character in it is left to the caller."""
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass: its own methods may do anything
    raise OutputError("invalid_output", f"{what} is {described(value)}, not a str")


def repaired(text: str) -> str:
    """The text with both halves of a character put together; a half that is alone becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class TextJoiner:
    """Puts the pieces of one text together where they were cut inside a character."""

    __slots__ = ("half",)

    def __init__(self) -> None:
        self.half = ""  #: that the next piece may complete

    def add(self, piece: str) -> str:
        """What can be said with this piece: without half a character at its end."""
        if piece.isascii() and not self.half:
            return piece
        text, self.half = self.half + piece, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self.half = text[:-1], text[-1]
        return repaired(text)

    def end(self) -> str:
        """What is left: nothing follows."""
        half, self.half = self.half, ""
        return _REPLACEMENT if half else ""


def described(value: object) -> str:
    """What a wrong value is, for a reason: its type, never what it says."""
    if value is None:
        return "None"
    name = type_name(value)
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def type_name(value: object) -> str:
    """The name of a value's type; a class may have any."""
    return one_line(_NAME.__get__(type(value)), _SHOWN_CHARACTERS)


def one_line(text: object, characters: int) -> str:
    """A text that fits into a reason or a line of a log: repaired, without control characters, cut."""
    if not isinstance(text, str):
        return ""
    line = "".join(c if c.isprintable() else " " for c in repaired(str.__str__(text)[: 4 * characters]))
    return " ".join(line.split())[:characters]


def _bounded(value: object, what: str, most_bytes: int) -> str:
    text = repaired(plain_text(value, what))
    if not text:
        raise OutputError("invalid_output", f"{what} is empty")
    if len(text) > most_bytes or len(text.encode()) > most_bytes:
        raise OutputError("invalid_output", f"{what} is longer than {most_bytes} bytes")
    return text


def _items(value: object, what: str, most: int, *, code: str) -> tuple[Any, ...]:
    if type(value) not in (tuple, list):
        raise OutputError("invalid_output", f"{what} is {described(value)}, not a tuple")
    items: tuple[Any, ...] = tuple(value)  # type: ignore[arg-type]
    if len(items) > most:
        raise OutputError(code, f"{what} has {len(items)} items; at most {most} may be")
    return items


def _content(value: object, what: str) -> tuple[ContentPart, ...] | None:
    if value is None:
        return None
    parts = tuple(_part(part, what) for part in _items(value, what, MAX_PARTS, code="invalid_output"))
    joined = "".join([part.text or "" for part in parts])
    whole = repaired(joined)
    return parts if whole == joined else (ContentPart(text=whole),)  # it may have been cut between two parts


def _part(part: object, what: str) -> ContentPart:
    if not isinstance(part, ContentPart):
        raise OutputError("invalid_output", f"a part of {what} is {described(part)}, not a ContentPart")
    if part.kind != TEXT or part.uri is not None:
        raise OutputError("invalid_output", f"a part of {what} is no text: only parts of the kind 'text' are stored")
    if part.media_type is not None or part.sha256 is not None or part.bytes is not None:
        raise OutputError("invalid_output", f"a part of {what} has a text and nothing else: no media_type, no sha256")
    text = part.text  # into a part of ours: what the runner does with its own later is nothing to us
    return ContentPart(text=None if text is None else plain_text(text, f"the text of a part of {what}"))


def _calls(value: object) -> tuple[ToolCall, ...]:
    if type(value) is tuple and not value:
        return ()
    what = "tool_calls of an AssistantMessage"
    return tuple(_call(call) for call in _items(value, what, MAX_TOOL_CALLS, code="too_many_tool_calls"))


def _call(call: object) -> ToolCall:
    if not isinstance(call, ToolCall):
        raise OutputError("invalid_output", f"a tool call is {described(call)}, not a ToolCall")
    if type(call.idempotent) is not bool:
        raise OutputError("invalid_output", f"'idempotent' of a tool call is {described(call.idempotent)}, not a bool")
    key = call.idempotency_key
    return ToolCall(
        call_id=_bounded(call.call_id, "the call_id of a tool call", MAX_CALL_ID_BYTES),
        name=_bounded(call.name, "the name of a tool call", MAX_NAME_BYTES),
        arguments=repaired(plain_text(call.arguments, "the arguments of a tool call")),
        idempotent=call.idempotent,
        idempotency_key=""
        if type(key) is str and not key
        else _bounded(key, "the idempotency_key of a tool call", MAX_NAME_BYTES),
    )


def _outcome(outcome: object) -> str | None:
    if outcome is None:
        return None
    known = plain_text(outcome, "the outcome of a ToolResult")
    if known not in OUTCOMES:
        raise OutputError("invalid_output", f"the outcome of a ToolResult is none of {', '.join(OUTCOMES)}")
    return known


def _usage(usage: object) -> Usage:
    if not isinstance(usage, Usage):
        raise OutputError("invalid_output", f"the usage of a UsageReport is {described(usage)}, not a Usage")
    return Usage(
        input_tokens=_count(usage.input_tokens, "input_tokens"),
        output_tokens=_count(usage.output_tokens, "output_tokens"),
        model_calls=_count(usage.model_calls, "model_calls"),
        last_input_tokens=_count(usage.last_input_tokens, "last_input_tokens"),
    )


def _count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise OutputError("invalid_output", f"{name} of a usage report is {described(value)}, not an int")
    number = int.__int__(value)
    if not 0 <= number <= MAX_TOKENS:
        raise OutputError("invalid_output", f"{name} of a usage report is not between 0 and {MAX_TOKENS}")
    return number
