"""Which reply frames follow from which facts."""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas import events as ev
from schemas import frames as fr
from streams.history import HistoryMessage, final_text, of_turn
from streams.session import Fact, Session, reply_address
from streams.turn import Answer, ReplyAddress

_TERMINAL = frozenset(fr.TERMINAL_FRAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A frame, whom it answers, and of which attempt it is. The sender adds epoch and frame_seq."""

    frame: fr.Frame
    address: ReplyAddress
    request_id: str
    turn_id: str | None = None
    attempt: int = 0

    @property
    def terminal(self) -> bool:
        """Does this frame end what its reader waits for?"""
        return self.frame.__class__ in _TERMINAL


def replies_to(before: Session, fact: Fact, history: Sequence[HistoryMessage]) -> list[Reply]:
    """The frames that report a fact. ``before`` is the state just before it, ``history`` has all messages up to it."""
    event = fact.event
    if isinstance(event, ev.RequestRefused):
        address = reply_address(event)
        refused = fr.RequestRefused(code=event.code, reason=event.reason)
        return [Reply(frame=refused, address=address, request_id=event.request_id)]
    if isinstance(event, ev.TurnAccepted):
        address = reply_address(event)
        accepted = fr.TurnAccepted(queued_turns=before.open_turns)
        return [Reply(frame=accepted, address=address, request_id=event.request_id, turn_id=fact.turn_id)]
    turn = before.turns.get(fact.turn_id or "")
    if turn is None:
        return []
    return [
        Reply(frame=frame, address=turn.reply, request_id=turn.request_id, turn_id=turn.turn_id, attempt=fact.attempt)
        for frame in _frames_of_turn(event, turn.turn_id, history)
    ]


def _frames_of_turn(event: ev.Event, turn_id: str, history: Sequence[HistoryMessage]) -> Sequence[fr.Frame]:
    match event:
        case ev.TurnStarted():
            return (fr.TurnStarted(model=event.model),)
        case ev.MessageStored():
            return _message_frames(event) if event.role != "user" else ()
        case ev.TurnCompleted():
            return (fr.TurnCompleted(text=final_text(of_turn(history, turn_id)), usage=event.usage),)
        case ev.TurnFailed():
            return (fr.TurnFailed(code=event.code, reason=event.reason, usage=event.usage),)
        case ev.TurnCancelled():
            text = final_text(of_turn(history, turn_id))
            return (fr.TurnCancelled(reason=event.reason, text=text, usage=event.usage),)
        case _:
            return ()


def _message_frames(event: ev.MessageStored) -> list[fr.Frame]:
    stored = fr.MessageStored(
        message_seq=event.message_seq,
        role=event.role,
        content=event.content,
        tool_calls=event.tool_calls,
        tool_call_id=event.tool_call_id,
        name=event.name,
        interrupted=event.interrupted,
        truncated=event.truncated,
    )
    calls = [fr.ToolCallStarted(message_seq=event.message_seq, call=call) for call in event.tool_calls]
    return [stored, *calls]


def reply_again(answer: Answer, request_id: str, address: ReplyAddress, history: Sequence[HistoryMessage]) -> Reply:
    """The answer of the log to a request that was decided before: its terminal frame, or where its turn stands."""
    frame: fr.Frame
    if answer.kind == "refused":
        frame = fr.RequestRefused(code=answer.code, reason=answer.reason)
        return Reply(frame=frame, address=address, request_id=request_id)
    text = final_text(m for m in history if m.turn_id == answer.turn_id)
    match answer.kind:
        case "completed":
            frame = fr.TurnCompleted(text=text, usage=answer.usage)
        case "failed":
            frame = fr.TurnFailed(code=answer.code, reason=answer.reason, usage=answer.usage)
        case "cancelled":
            frame = fr.TurnCancelled(reason=answer.reason, text=text, usage=answer.usage)
        case _:
            frame = fr.TurnAccepted()
    return Reply(frame=frame, address=address, request_id=request_id, turn_id=answer.turn_id, attempt=answer.attempt)
