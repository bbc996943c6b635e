"""From the frames of a turn to the chunks of a completion, and the whole one. Pure.

A chunk cannot take text back: where an attempt was given up, the next one's text follows after an empty line. The
completion that is not streamed has the stored text alone.
"""

from collections.abc import Iterator
from typing import Any

from turnlog.client.replies import ReplyFrame
from turnlog_schemas.frames import (
    MessageStored,
    ReasoningDelta,
    RequestRefused,
    TextDelta,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import NO_USAGE, ToolCall, Usage, content_text

Chunk = dict[str, Any]
_BETWEEN_ATTEMPTS = "\n\n"


class ChatChunks:
    """The chunks of one completion."""

    def __init__(self, *, completion_id: str, created: int, model: str, include_usage: bool = False) -> None:
        self._head = {"id": completion_id, "created": created, "model": model}
        self._include_usage = include_usage
        self._begun = False
        self._attempt = 0
        self._streamed = ""  #: of the message that is being generated
        self._void = False  #: has text been streamed that does not count?
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._usage: Usage = NO_USAGE
        self.finish_reason: str | None = None
        self.failed: TurnFailed | RequestRefused | None = None

    @property
    def ended(self) -> bool:
        """Is all said?"""
        return self.finish_reason is not None or self.failed is not None

    def feed(self, reply: ReplyFrame) -> list[Chunk]:
        """The chunks that a frame leads to."""
        return [] if self.ended else list(self._chunks(reply))

    def completion(self) -> dict[str, Any]:
        """The whole answer, once it has ended."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._texts) or None, "refusal": None}
        if self._calls:
            message["tool_calls"] = [_call(call) for call in self._calls]
        elif message["content"] is None:
            message["content"] = ""
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason or "stop", "logprobs": None}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage_of(self._usage)}

    def _chunks(self, reply: ReplyFrame) -> Iterator[Chunk]:
        frame = reply.frame
        if isinstance(frame, RequestRefused | TurnFailed):
            self.failed = frame
            return
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": ""})
        match frame:
            case TurnStarted():
                self._new_attempt(reply.header.attempt)
            case TextDelta():
                self._new_attempt(reply.header.attempt)
                yield self._text(frame.text)
            case ReasoningDelta():
                yield self._chunk({"reasoning_content": frame.text})
            case MessageStored() if frame.role == "assistant":
                yield from self._stored(frame)
            case TurnCompleted() | TurnCancelled():
                yield from self._end(frame)
            case _:
                pass

    def _new_attempt(self, attempt: int) -> None:
        if attempt != self._attempt:
            self._attempt = attempt
            self._void = self._void or bool(self._streamed)
            self._streamed = ""

    def _text(self, text: str) -> Chunk:
        between = _BETWEEN_ATTEMPTS if self._void else ""
        self._void = False
        self._streamed += text
        return self._chunk({"content": between + text})

    def _stored(self, frame: MessageStored) -> Iterator[Chunk]:
        yield from self._whole(content_text(frame.content) or "")
        for call in frame.tool_calls:
            if call.client:
                yield from self._called(call)

    def _whole(self, text: str) -> Iterator[Chunk]:
        """What was not streamed of a message follows; pieces may be dropped on their way, messages are not."""
        if text and not text.startswith(self._streamed) and text.strip() != self._streamed.strip():
            self._void, self._streamed = True, ""
        if rest := text.removeprefix(self._streamed) if text.startswith(self._streamed) else "":
            yield self._text(rest)
        self._streamed = ""
        if text:
            self._texts.append(text)

    def _called(self, call: ToolCall) -> Iterator[Chunk]:
        if call in self._calls:
            return
        index = len(self._calls)
        self._calls.append(call)
        begun = {**_call(call), "index": index, "function": {"name": call.name, "arguments": ""}}
        yield self._chunk({"tool_calls": [begun]})
        yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": call.arguments}}]})

    def _end(self, frame: TurnCompleted | TurnCancelled) -> Iterator[Chunk]:
        if frame.text and not frame.truncated and frame.text not in self._texts[-1:]:
            yield from self._whole(frame.text)
        if isinstance(frame, TurnCompleted):
            for call in frame.pending_calls:
                yield from self._called(call)
        self._usage = frame.usage
        self.finish_reason = "tool_calls" if self._calls else "stop"
        yield self._chunk({}, finish_reason=self.finish_reason)
        if self._include_usage:
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(frame.usage)}

    def _chunk(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        chunk: Chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def usage_of(usage: Usage) -> dict[str, int]:
    """What the turn has cost."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
