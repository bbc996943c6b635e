"""Showing a turn while it runs, from its reply frames."""

from collections.abc import Callable
from typing import Any

from turnlog.client.replies import FinishedTurn, ReplyFrame
from turnlog.terminal import output
from turnlog_schemas.codec import Codec, UnknownPayload
from turnlog_schemas.files import shown_text
from turnlog_schemas.frames import (
    HistoryCompacted,
    HistoryCompactionFailed,
    MessageStored,
    ReasoningDelta,
    RequestRefused,
    TextDelta,
    ToolCallStarted,
    TurnAccepted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import content_text
from turnlog_schemas.type_names import snake
from turnlog_workers.base.counted import counted

_MAX_DETAIL = 160

#: Writes a piece of text; the second argument says that it is an aside (tool calls, notes), not the answer.
Write = Callable[[str, bool], None]


class LiveTurn:
    """Turns the frames of one turn into text as they come: the answer piece by piece, tool calls as asides."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._streamed = ""  # of the message that is being generated
        self._at_line_start = True
        self._attempt = 0

    def show(self, reply: ReplyFrame) -> None:
        """Show what a frame says. Frames must be those that count, in order (a ``ChatTurn`` gives them so)."""
        match reply.frame:
            case TurnAccepted(queued_turns=before) if before:
                self._aside(f"({counted(before, 'turn')} before this one)")
            case TurnStarted():
                if self._attempt:
                    self._aside(f"(started again, attempt {reply.header.attempt}: what follows counts)")
                self._attempt = reply.header.attempt
                self._streamed = ""
            case TextDelta(text=text):
                self._answer(text)
                self._streamed += text
            case ToolCallStarted(call=call):
                self._aside(f"-> {call.name}({shorten(call.arguments)})")
            case MessageStored(role="tool") as message:
                self._aside(f"<- {shorten(content_text(message.content) or '')}")
            case MessageStored(role="assistant") as message:
                self._complete(content_text(message.content) or "")

    def finish(self) -> None:
        """End the last line."""
        if not self._at_line_start:
            self._write("\n", False)
            self._at_line_start = True

    def _complete(self, text: str) -> None:
        """A message is whole: show what did not come in pieces."""
        if text.startswith(self._streamed):
            self._answer(text[len(self._streamed) :])
        else:
            self.finish()
            self._answer(text)
        self._streamed = ""
        self.finish()

    def _answer(self, text: str) -> None:
        if text:
            self._write(output.printable(text), False)
            self._at_line_start = text.endswith("\n")

    def _aside(self, line: str) -> None:
        self.finish()
        self._write(f"{output.printable(line)}\n", True)


def shorten(text: str) -> str:
    """On one line, and not longer than a line or two."""
    text = " ".join(text.split())
    return text if len(text) <= _MAX_DETAIL else f"{text[: _MAX_DETAIL - 1]}…"


def frame_document(codec: Codec, reply: ReplyFrame) -> dict[str, Any]:
    """A frame in its JSON form, with its place in the reply topic."""
    place = {"partition": reply.partition, "offset": reply.offset}
    if not isinstance(reply.frame, UnknownPayload):
        return {**codec.to_json(reply.header, reply.frame), **place}
    header = reply.header
    common = {name: getattr(header, name) for name in type(header).__dataclass_fields__}
    return {**common, "frame": {"type": snake(reply.frame.name), **reply.frame.fields}, **place}


def frame_line(reply: ReplyFrame) -> str:
    """A frame as one line for people."""
    header, frame = reply.header, reply.frame
    name = frame.name if isinstance(frame, UnknownPayload) else type(frame).__name__
    attempt = f" #{header.attempt}" if header.attempt > 1 else ""
    detail = shorten(_detail(frame))
    return f"{header.session_id} {header.request_id[:12]}{attempt} {snake(name)}{': ' if detail else ''}{detail}"


def _detail(frame: object) -> str:
    match frame:
        case TextDelta(text=text) | ReasoningDelta(text=text) | TurnCompleted(text=text):
            return text
        case TurnStarted(model=model):
            return model
        case TurnAccepted(queued_turns=before):
            return f"{counted(before, 'turn')} before it" if before else ""
        case ToolCallStarted(call=call):
            return f"{call.name}({call.arguments})"
        case MessageStored() as message:
            calls = " ".join(f"-> {call.name}" for call in message.tool_calls)
            return f"{message.message_seq} {message.role} {shown_text(message.content) or ''} {calls}"
        case HistoryCompacted(summary=summary) as done:
            return f"{done.from_seq} to {done.to_seq} {summary}" if done.to_seq else ""
        case (
            TurnFailed(code=code, reason=reason)
            | RequestRefused(code=code, reason=reason)
            | HistoryCompactionFailed(code=code, reason=reason)
        ):
            return f"{code}: {reason}"
        case TurnCancelled(reason=reason):
            return reason
        case _:
            return ""


def finished_document(turn: FinishedTurn) -> dict[str, Any]:
    """A finished turn as JSON."""
    usage = turn.usage
    return {
        "session_id": turn.session_id,
        "request_id": turn.request_id,
        "turn_id": turn.turn_id,
        "status": turn.status,
        "text": turn.text,
        "code": turn.code or None,
        "reason": turn.reason or None,
        "attempt": turn.attempt,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "model_calls": usage.model_calls,
        },
        "pending_calls": [
            {"call_id": call.call_id, "name": call.name, "arguments": call.arguments} for call in turn.pending_calls
        ],
    }
