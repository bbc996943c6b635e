"""What a page that follows a session is told of a reply frame. Pure, but that it remembers which frames counted."""

from datetime import UTC, datetime
from typing import Any

from turnlog.client.replies import Deduplicator, ReplyFrame
from turnlog.serve.console.pages import cost_html, message_html
from turnlog.serve.console.transcripts import Call, ShownMessage, ShownTurn, Text, shown
from turnlog_schemas.frames import (
    FrameHeader,
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
from turnlog_schemas.parts import content_text

TurnEvent = tuple[str, dict[str, Any]]


class TurnEvents:
    """Frames of one session in the order of the topic; each counts once."""

    def __init__(self) -> None:
        self._order = Deduplicator(max_turns=1_000)

    def of(self, reply: ReplyFrame) -> TurnEvent | None:
        """The name and the data of the event; ``None``: nothing is to be told."""
        header, frame = reply.header, reply.frame
        if isinstance(frame, RequestRefused):
            return "refused", {"request": header.request_id, "code": frame.code, "reason": frame.reason}
        if header.turn_id is None or not self._order.accept(reply):
            return None
        data: dict[str, Any] = {"turn": header.turn_id}
        match frame:
            case TurnAccepted():
                return "accepted", {**data, "queued": frame.queued_turns}
            case TurnStarted():
                return "started", {**data, "model": frame.model, "attempt": header.attempt}
            case TextDelta():
                return "delta", {**data, "kind": "text", "text": frame.text}
            case ReasoningDelta():
                return "delta", {**data, "kind": "reasoning", "text": frame.text}
            case MessageStored():
                html = message_html(_message(frame))
                return "message", {**data, "seq": frame.message_seq, "role": frame.role, "html": html}
            case TurnCompleted() | TurnFailed() | TurnCancelled():
                return "ended", {**data, "html": cost_html(_ended(header, frame))}
            case _:
                return None


def _message(frame: MessageStored) -> ShownMessage:
    calls = tuple(
        Call(call_id=call.call_id, name=call.name, arguments=shown(call.arguments)) for call in frame.tool_calls
    )
    return ShownMessage(
        message_seq=frame.message_seq,
        role=frame.role,
        content=shown(content_text(frame.content)),
        calls=calls,
        marks=tuple(mark for mark in ("interrupted", "truncated") if getattr(frame, mark)),
        name=frame.name,
    )


def _ended(header: FrameHeader, frame: TurnCompleted | TurnFailed | TurnCancelled) -> ShownTurn:
    status = {TurnCompleted: "completed", TurnFailed: "failed", TurnCancelled: "cancelled"}[type(frame)]
    if isinstance(frame, TurnCompleted) and frame.pending_calls:
        status = "requires_action"
    return ShownTurn(
        turn_id=header.turn_id or "",
        request_id=header.request_id,
        status=status,
        model=None,
        attempt=header.attempt,
        question=Text(text=None),
        accepted_at=datetime.now(UTC),
        accepted_offset=0,
        input_tokens=frame.usage.input_tokens,
        output_tokens=frame.usage.output_tokens,
        model_calls=frame.usage.model_calls,
        code=getattr(frame, "code", None),
        reason=getattr(frame, "reason", None),
    )
