"""From the frames of a turn to the events of its response. Pure: the same frames give the same events and numbers.

Give it the frames that count, in the order of the log and from the first one on (:class:`FrameOrder` says which count).
What an attempt had streamed when it was given up cannot be taken back: its item is closed as ``incomplete``, the next
attempt opens another one, and the response's ``output`` has what was stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from turnlog.client.replies import ReplyFrame
from turnlog.serve.openai.response_object import ResponseSeed, ResponseState, response_object
from turnlog_schemas.frames import (
    MessageStored,
    ReasoningDelta,
    RequestRefused,
    TextDelta,
    TurnAccepted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import ToolCall, Usage, content_text

Event = dict[str, Any]
_ENDED = ("completed", "failed", "cancelled", "incomplete")


@dataclass(slots=True, kw_only=True)
class _Open:
    """An item that is being streamed."""

    kind: str  #: ``message`` or ``reasoning``
    index: int
    item_id: str
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ResponseEvents:
    """The events of one response, numbered from 0."""

    def __init__(self, seed: ResponseSeed) -> None:
        self._seed = seed
        self._numbers = 0
        self._items = 0
        self._open: _Open | None = None
        self._output: list[dict[str, Any]] = []
        self._unstored: list[dict[str, Any]] = []  #: of the attempt; what it leads to makes them count
        self._called: set[tuple[str, str]] = set()
        self._attempt = 0
        self._text = ""  #: of the newest stored message
        self._status = ""
        self._model = ""
        self._usage: Usage | None = None
        self._error: dict[str, str] | None = None
        self._reason: str | None = None

    @property
    def begun(self) -> bool:
        """Has anything been heard of the turn?"""
        return bool(self._status)

    @property
    def ended(self) -> bool:
        """Is the response what it will be?"""
        return self._status in _ENDED

    @property
    def response(self) -> dict[str, Any]:
        """The response object as it is now."""
        state = ResponseState(
            status=self._status or "queued",
            model=self._model,
            output=self._output,
            usage=self._usage,
            error=self._error,
            incomplete_reason=self._reason,
        )
        return response_object(self._seed, state)

    def feed(self, reply: ReplyFrame) -> list[Event]:
        """The events that a frame leads to."""
        return [] if self.ended else list(self._events(reply))

    def _events(self, reply: ReplyFrame) -> Iterator[Event]:
        frame = reply.frame
        if not self.begun:
            yield from self._begin(frame)
        if isinstance(frame, TurnAccepted):
            return
        if self._status == "queued" and not isinstance(frame, TurnCancelled | RequestRefused):
            self._status = "in_progress"
            self._model = frame.model if isinstance(frame, TurnStarted) else self._model
            yield self._lifecycle("response.in_progress")
        match frame:
            case TurnStarted():
                yield from self._start(reply.header.attempt, frame)
            case TextDelta():
                yield from self._delta("message", reply.header.attempt, frame.text)
            case ReasoningDelta():
                yield from self._delta("reasoning", reply.header.attempt, frame.text)
            case MessageStored():
                yield from self._stored(frame)
            case TurnCompleted() | TurnFailed() | TurnCancelled() | RequestRefused():
                yield from self._end(frame)
            case _:
                pass

    # ---- the life of the response

    def _begin(self, frame: Any) -> Iterator[Event]:
        self._status = "queued" if isinstance(frame, TurnAccepted) and frame.queued_turns else "in_progress"
        if isinstance(frame, TurnStarted):
            self._model = frame.model
        yield self._lifecycle("response.created")
        yield self._lifecycle(f"response.{self._status}")

    def _start(self, attempt: int, frame: TurnStarted) -> Iterator[Event]:
        self._model = frame.model
        if attempt != self._attempt:
            yield from self._new_attempt(attempt)

    def _new_attempt(self, attempt: int) -> Iterator[Event]:
        """What the one before had streamed and not stored is void."""
        self._attempt = attempt
        yield from self._close(whole=None)
        self._unstored.clear()

    def _end(self, frame: TurnCompleted | TurnFailed | TurnCancelled | RequestRefused) -> Iterator[Event]:
        text = frame.text if isinstance(frame, TurnCompleted | TurnCancelled) else ""
        if text and text != self._text and not getattr(frame, "truncated", False):
            # The frame of the message itself was not sent, or died with its sender.
            yield from self._whole_message(text, interrupted=isinstance(frame, TurnCancelled))
        yield from self._close(whole=None)
        self._keep()
        self._usage = None if isinstance(frame, RequestRefused) else frame.usage
        match frame:
            case TurnCompleted():
                for call in frame.pending_calls:
                    yield from self._call(call)
                self._status = "completed"
                yield self._lifecycle("response.completed")
            case TurnCancelled():
                # The vocabulary has no event for it: the one that every client takes for an end, with the truth in it.
                self._status, self._reason = "cancelled", "cancelled"
                yield self._lifecycle("response.incomplete")
            case TurnFailed() | RequestRefused():
                self._status, self._error = "failed", {"code": frame.code, "message": frame.reason}
                yield self._lifecycle("response.failed")

    def _lifecycle(self, kind: str) -> Event:
        return self._event(kind, response=self.response)

    def _event(self, kind: str, **fields: Any) -> Event:
        number = self._numbers
        self._numbers += 1
        return {"type": kind, "sequence_number": number, **fields}

    # ---- items

    def _stored(self, frame: MessageStored) -> Iterator[Event]:
        if frame.role != "assistant":
            yield from self._close(whole=None)
            return
        text = content_text(frame.content) or ""
        self._text = text or self._text
        if text:
            yield from self._whole_message(text, interrupted=frame.interrupted)
        yield from self._close(whole=None)
        self._keep()
        for call in frame.tool_calls:
            if call.client:  # what a worker runs is nothing for whoever reads this to run
                yield from self._call(call)

    def _whole_message(self, text: str, *, interrupted: bool) -> Iterator[Event]:
        """What is said in the open item, or in one of its own."""
        self._text = text
        streamed = self._open.text if self._open is not None and self._open.kind == "message" else ""
        if not text.startswith(streamed) and text.strip() != streamed.strip():
            yield from self._close(whole=None)  # what was streamed is no part of it
            streamed = ""
        if rest := text.removeprefix(streamed) if text.startswith(streamed) else "":
            yield from self._delta("message", self._attempt, rest)
        yield from self._close(whole=text, status="incomplete" if interrupted else "completed")

    def _delta(self, kind: str, attempt: int, text: str) -> Iterator[Event]:
        if attempt != self._attempt:  # its start was not seen; what an earlier attempt had said is void all the same
            yield from self._new_attempt(attempt)
        if self._open is not None and self._open.kind != kind:
            yield from self._close(whole=None)
        if self._open is None:
            yield from self._begin_item(kind)
        opened = self._open
        assert opened is not None
        opened.pieces.append(text)
        if kind == "message":
            yield self._event("response.output_text.delta", **_text_place(opened), delta=text, logprobs=[])
        else:
            yield self._event("response.reasoning_summary_text.delta", **_summary_place(opened), delta=text)

    def _next(self, prefix: str) -> tuple[int, str]:
        index = self._items
        self._items += 1
        return index, self._seed.turn.item_id(prefix, index)

    def _begin_item(self, kind: str) -> Iterator[Event]:
        index, item_id = self._next("msg" if kind == "message" else "rs")
        opened = self._open = _Open(kind=kind, index=index, item_id=item_id)
        empty = _message(item_id, None, "in_progress") if kind == "message" else _reasoning(item_id, None)
        yield self._event("response.output_item.added", output_index=index, item=empty)
        if kind == "message":
            yield self._event("response.content_part.added", **_text_place(opened), part=_output_text(""))
        else:
            part = {"type": "summary_text", "text": ""}
            yield self._event("response.reasoning_summary_part.added", **_summary_place(opened), part=part)

    def _close(self, *, whole: str | None, status: str = "completed") -> Iterator[Event]:
        """End the open item, if any, with its text; ``None``: it is void, unless it is reasoning."""
        opened, self._open = self._open, None
        if opened is None:
            return
        if opened.kind == "reasoning":
            text, place = opened.text, _summary_place(opened)
            yield self._event("response.reasoning_summary_text.done", **place, text=text)
            part = {"type": "summary_text", "text": text}
            yield self._event("response.reasoning_summary_part.done", **place, part=part)
            item = _reasoning(opened.item_id, text)
            self._unstored.append(item)
        else:
            text, place = opened.text if whole is None else whole, _text_place(opened)
            yield self._event("response.output_text.done", **place, text=text, logprobs=[])
            yield self._event("response.content_part.done", **place, part=_output_text(text))
            item = _message(opened.item_id, text, "incomplete" if whole is None else status)
            if whole is not None:
                self._unstored.append(item)
                self._keep()
        yield self._event("response.output_item.done", output_index=opened.index, item=item)

    def _keep(self) -> None:
        self._output += self._unstored
        self._unstored.clear()

    def _call(self, call: ToolCall) -> Iterator[Event]:
        key = (call.call_id, call.arguments)
        if key in self._called:
            return
        self._called.add(key)
        index, item_id = self._next("fc")
        place = {"item_id": item_id, "output_index": index}
        added = _function_call(item_id, call, "", "in_progress")
        yield self._event("response.output_item.added", output_index=index, item=added)
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        item = _function_call(item_id, call, call.arguments, "completed")
        self._output.append(item)
        yield self._event("response.output_item.done", output_index=index, item=item)


def _text_place(opened: _Open) -> dict[str, Any]:
    return {"item_id": opened.item_id, "output_index": opened.index, "content_index": 0}


def _summary_place(opened: _Open) -> dict[str, Any]:
    return {"item_id": opened.item_id, "output_index": opened.index, "summary_index": 0}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(item_id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_output_text(text)]
    return {"type": "message", "id": item_id, "status": status, "role": "assistant", "content": content}


def _reasoning(item_id: str, text: str | None) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "id": item_id,
        "summary": [] if text is None else [{"type": "summary_text", "text": text}],
    }


def _function_call(item_id: str, call: ToolCall, arguments: str, status: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": item_id,
        "call_id": call.call_id,
        "name": call.name,
        "arguments": arguments,
        "status": status,
    }
