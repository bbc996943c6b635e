"""From reply frames to the events of AG-UI 1.0, in the order that the protocol asks for. Pure: frames in, events out.

Message ids follow from the turn: whoever rejoins is given the same. A message that a failed attempt had begun is void:
what the next attempt says has another id, and a snapshot of the messages takes the void one away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from turnlog.client.replies import FrameOrder, ReplyFrame
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

PROTOCOL_VERSION = "1.0"
Event = dict[str, Any]
#: Stands where a snapshot of the messages belongs: who sends the events looks them up.
SNAPSHOT: Event = {"type": "MESSAGES_SNAPSHOT"}


def assistant_id(turn_id: str, index: int, attempt: int = 1) -> str:
    """Of a turn's assistant message, from 0. ``attempt`` above 1: it was begun anew."""
    return f"{turn_id}.a{index}" if attempt <= 1 else f"{turn_id}.a{index}.{attempt}"


def result_id(turn_id: str, index: int) -> str:
    """Of a turn's tool message, from 0."""
    return f"{turn_id}.r{index}"


def call_id(call: ToolCall) -> str:
    """Of a tool call: models' own ids repeat in a conversation. That of a call which the client runs has it, too."""
    if call.client:
        return f"{call.idempotency_key}/{call.call_id}"
    return call.idempotency_key or call.call_id


def given_call_id(own_id: str) -> str:
    """The model's own id of a call that the client runs."""
    return own_id.partition("/")[2] or own_id


@dataclass(slots=True)
class _Open:
    """A message that is being told."""

    message_id: str
    text: str = ""


@dataclass(slots=True)
class RunEvents:
    """The events of one run. Feed it the frames of its turn; each counts once."""

    thread_id: str
    run_id: str
    turn_id: str = ""
    last_seq: int = 0  #: the newest message of the turn that was told
    ended: bool = False
    _order: FrameOrder = field(default_factory=FrameOrder)
    _attempt: int = 1
    _voided: bool = False  #: what the next message begins was begun before
    _assistants: int = 0
    _results: int = 0
    _reasonings: int = 0
    _open: _Open | None = None
    _reasoning: _Open | None = None
    _calls: list[tuple[str, str]] = field(default_factory=list)  # without a result: the model's id, ours

    def started(self) -> Event:
        """The first event of every run."""
        return {
            "type": "RUN_STARTED",
            "threadId": self.thread_id,
            "runId": self.run_id,
            "protocolVersion": PROTOCOL_VERSION,
        }

    @property
    def partial(self) -> tuple[str, str] | None:
        """Id and text of the message that is being told."""
        return None if self._open is None else (self._open.message_id, self._open.text)

    def reopened(self) -> list[Event]:
        """What goes on behind a snapshot that has the partial message."""
        return [] if self._open is None else [_text_start(self._open.message_id)]

    def without_reasoning(self) -> None:
        """Whoever rejoins is not told what was reasoned before; what follows is a span of its own."""
        self._reasoning = None

    def of(self, reply: ReplyFrame) -> list[Event]:
        """What a frame adds."""
        if self.ended or not self._order.accept(reply):
            return []
        self.turn_id = reply.header.turn_id or self.turn_id
        frame = reply.frame
        match frame:
            case TurnStarted():
                return self._attempt_begins(reply.header.attempt)
            case TextDelta():
                return self._text(frame.text) if frame.text else []
            case ReasoningDelta():
                return self._reason(frame.text) if frame.text else []
            case MessageStored():
                return self._stored(frame)
            case TurnCompleted():
                return self._finish({"type": "success"}, frame.usage)
            case TurnCancelled():
                return self._finish({"type": "cancelled"}, frame.usage)
            case TurnFailed() | RequestRefused():
                return self._fail(frame.code, frame.reason)
            case _:
                return []

    def ended_as(self, status: str, code: str, reason: str) -> list[Event]:
        """The end of a run that the history tells of, and no frame any more."""
        if status == "failed":
            return self._fail(code, reason)
        return self._finish({"type": "cancelled" if status == "cancelled" else "success"}, NO_USAGE)

    def fail(self, code: str, reason: str) -> list[Event]:
        """The run ends for the reader, for a reason that no frame tells."""
        return self._fail(code, reason)

    def _attempt_begins(self, attempt: int) -> list[Event]:
        self._attempt = attempt
        if self._open is None:
            return self._close()
        self._voided = True
        return [*self._close(), SNAPSHOT]

    def _close(self) -> list[Event]:
        """End what is open."""
        events: list[Event] = []
        if self._reasoning is not None:
            message_id = self._reasoning.message_id
            events += [
                {"type": "REASONING_MESSAGE_END", "messageId": message_id},
                {"type": "REASONING_END", "messageId": message_id},
            ]
            self._reasoning = None
        if self._open is not None:
            events.append({"type": "TEXT_MESSAGE_END", "messageId": self._open.message_id})
            self._open = None
        return events

    def _reason(self, text: str) -> list[Event]:
        events: list[Event] = []
        if self._reasoning is None:
            self._reasonings += 1
            self._reasoning = _Open(f"{self.turn_id}.t{self._attempt}.{self._reasonings}")
            message_id = self._reasoning.message_id
            events += [
                {"type": "REASONING_START", "messageId": message_id},
                {"type": "REASONING_MESSAGE_START", "messageId": message_id, "role": "reasoning"},
            ]
        return [
            *events,
            {"type": "REASONING_MESSAGE_CONTENT", "messageId": self._reasoning.message_id, "delta": text},
        ]

    def _message_id(self) -> str:
        return assistant_id(self.turn_id, self._assistants, self._attempt if self._voided else 1)

    def _text(self, text: str) -> list[Event]:
        events: list[Event] = []
        if self._open is None:
            events = self._close()
            self._open = _Open(self._message_id())
            events.append(_text_start(self._open.message_id))
        self._open.text += text
        return [*events, {"type": "TEXT_MESSAGE_CONTENT", "messageId": self._open.message_id, "delta": text}]

    def _stored(self, frame: MessageStored) -> list[Event]:
        self.last_seq = max(self.last_seq, frame.message_seq)
        text = content_text(frame.content) or ""
        if frame.role == "tool":
            return [*self._close(), *self._result(frame, text)]
        if frame.role != "assistant":
            return []
        told = "" if self._open is None else self._open.text
        events: list[Event] = []
        if text.startswith(told):
            if rest := text[len(told) :]:
                events += self._text(rest)
            whole = True
        else:  # pieces are dropped under overload: the message as it is follows
            whole = False
        message_id = self._message_id()
        events += self._close()
        self._assistants += 1
        self._voided = False
        events += self._called(frame.tool_calls, message_id)
        return events if whole else [*events, SNAPSHOT]

    def _called(self, calls: Sequence[ToolCall], parent_id: str) -> list[Event]:
        events: list[Event] = []
        for call in calls:
            own_id = call_id(call)
            self._calls.append((call.call_id, own_id))
            events.append(
                {
                    "type": "TOOL_CALL_START",
                    "toolCallId": own_id,
                    "toolCallName": call.name,
                    "parentMessageId": parent_id,
                }
            )
            if call.arguments:
                events.append({"type": "TOOL_CALL_ARGS", "toolCallId": own_id, "delta": call.arguments})
            events.append({"type": "TOOL_CALL_END", "toolCallId": own_id})
        return events

    def _result(self, frame: MessageStored, text: str) -> list[Event]:
        place = next((n for n, (given, _) in enumerate(self._calls) if given == frame.tool_call_id), None)
        message_id = result_id(self.turn_id, self._results)
        self._results += 1
        if place is None:  # its call is in the history from before this reader
            return [SNAPSHOT]
        _, own_id = self._calls.pop(place)
        event = {"type": "TOOL_CALL_RESULT", "messageId": message_id, "toolCallId": own_id, "content": text}
        return [{**event, "role": "tool"}]

    def _finish(self, outcome: Event, usage: Usage) -> list[Event]:
        self.ended = True
        event: Event = {
            "type": "RUN_FINISHED",
            "threadId": self.thread_id,
            "runId": self.run_id,
            "outcome": outcome,
        }
        if usage.model_calls or usage.input_tokens or usage.output_tokens:
            event["usage"] = [{"inputTokens": usage.input_tokens, "outputTokens": usage.output_tokens}]
        return [*self._close(), event]

    def _fail(self, code: str, reason: str) -> list[Event]:
        self.ended = True
        return [*self._close(), {"type": "RUN_ERROR", "message": reason or code, "code": code}]


def _text_start(message_id: str) -> Event:
    return {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"}
