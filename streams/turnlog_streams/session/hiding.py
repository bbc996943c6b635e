"""A turn that is not to be shown any more. Nothing is erased: the log, the history and what models see stay."""

from turnlog_schemas import events as ev
from turnlog_streams.facts import Fact
from turnlog_streams.lookups import Found, Lookup
from turnlog_streams.refusals import refusal
from turnlog_streams.session.commands import Hide
from turnlog_streams.session.state import Session


def hiding_needs(session: Session, command: Hide, found: Found) -> Lookup | None:
    """The rows that tell whether there is such a turn; ``None``: it is known."""
    if not session.answers.older:
        return None
    request_id, turn_id = command.of_request, command.turn_id
    if request_id is not None:
        known = request_id in session.answers.known or request_id in found.answers
        return None if known else Lookup(answers=frozenset({request_id}))
    assert turn_id is not None
    known = _is_here(session, turn_id) or turn_id in found.turns
    return None if known else Lookup(turns=frozenset({turn_id}))


def _is_here(session: Session, turn_id: str) -> bool:
    return turn_id in session.turns or any(answer.turn_id == turn_id for answer in session.answers.known.values())


def hide(session: Session, command: Hide, found: Found) -> list[Fact]:
    """A request that is new. Hiding a hidden turn is no fault: it is hidden."""
    turn_id = command.turn_id
    if command.of_request is not None:
        answer = session.answers.find(command.of_request, found.answers)
        turn_id = answer.turn_id if answer is not None else None
    elif turn_id is not None and not (_is_here(session, turn_id) or found.turns.get(turn_id)):
        turn_id = None
    if turn_id is None:
        which = f"turn {command.turn_id!r}" if command.turn_id else f"turn of request {command.of_request!r}"
        return [refusal(command, "not_found", f"session {session.session_id} has no {which}")]
    hidden = ev.TurnHidden(request_id=command.request_id, command_hash=command.command_hash, reply=command.reply)
    return [Fact(event=hidden, turn_id=turn_id)]
