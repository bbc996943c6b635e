"""How turns end on purpose, and why no call is left without a result when one ends."""

from collections.abc import Sequence

from turnlog_schemas import events as ev
from turnlog_schemas.parts import NO_USAGE, CancelRequest, ToolCall, cut_content, text_content
from turnlog_streams.facts import Fact
from turnlog_streams.session.commands import AcceptChat, Cancel
from turnlog_streams.session.state import Session
from turnlog_streams.turn import INTERRUPTED_TEXT, Turn


def closed_calls(session: Session, turn: Turn, calls: Sequence[ToolCall], attempt: int) -> list[Fact]:
    """Results for calls whose outcome is unknown."""
    facts: list[Fact] = []
    for index, call in enumerate(calls):
        closed = ev.MessageStored(
            message_seq=session.messages + 1 + index,
            role="tool",
            content=text_content(INTERRUPTED_TEXT),
            tool_call_id=call.call_id,
            name=call.name,
            interrupted=True,
            outcome="interrupted",
        )
        facts.append(Fact(event=closed, turn_id=turn.turn_id, attempt=attempt))
    return facts


def cancellation(
    session: Session,
    turn: Turn,
    reason: str,
    *,
    running: AcceptChat | Cancel | None = None,
    max_text_bytes: int = 0,
    by: Cancel | None = None,
) -> list[Fact]:
    """A turn ends on purpose. Of the running one, open calls are closed and its partial text is kept as a message.

    ``running``: what tells of the running one; its text is cut like that of any message.
    """
    facts: list[Fact] = []
    usage, first_delta_ms = NO_USAGE, None
    if session.running == turn.turn_id and running is not None:
        usage, first_delta_ms = turn.cost(running.usage), running.first_delta_ms
        partial, truncated = cut_content(text_content(running.partial), max_text_bytes)
        facts += closed_calls(session, turn, turn.open_calls, turn.attempt)
        if running.partial:
            message = ev.MessageStored(
                message_seq=session.messages + len(facts) + 1,
                role="assistant",
                content=partial,
                interrupted=True,
                truncated=truncated,
            )
            facts.append(Fact(event=message, turn_id=turn.turn_id, attempt=turn.attempt))
    cancelled = ev.TurnCancelled(
        reason=reason,
        usage=usage,
        by=CancelRequest(request_id=by.request_id, command_hash=by.command_hash, reply=by.reply) if by else None,
        first_delta_ms=first_delta_ms,
    )
    return [*facts, Fact(event=cancelled, turn_id=turn.turn_id, attempt=turn.attempt)]


def cancel_all(session: Session, chat: AcceptChat, max_text_bytes: int) -> list[Fact]:
    """A chat interrupts: the running turn and all that wait end, the newest message is what counts."""
    facts: list[Fact] = []
    waiting = ([session.running] if session.running else []) + list(session.queue)
    for turn_id in waiting:
        turn = session.turns[turn_id]
        reason = "interrupted by a newer message"
        facts += cancellation(session, turn, reason, running=chat, max_text_bytes=max_text_bytes)
    return facts


def cancel_queued(session: Session, reason: str) -> list[Fact]:
    """Every turn that waits ends; the running one goes on."""
    return [fact for turn_id in session.queue for fact in cancellation(session, session.turns[turn_id], reason)]
