"""What deciding a command of a session, and answering it, depends on beside the session's state (``lookups``)."""

from turnlog_streams.forwarding import ReceiveForward, source_key
from turnlog_streams.lookups import NOTHING, Found, Lookup
from turnlog_streams.refusals import Refuse
from turnlog_streams.session.commands import (
    AcceptChat,
    Archive,
    Cancel,
    Erase,
    Hide,
    RequestHistoryCompaction,
    SessionCommand,
    Update,
)
from turnlog_streams.session.hiding import hiding_needs
from turnlog_streams.session.history_compactions import tail_needs
from turnlog_streams.session.state import Session
from turnlog_streams.turn import Answer


def session_needs(session: Session, command: SessionCommand, found: Found = NOTHING) -> Lookup | None:
    """The rows that deciding a command, and answering it, depends on; ``None``: everything is known."""
    match command:
        case RequestHistoryCompaction():
            needs = answer_needs(session, command.request_id, command.command_hash, found)
            return needs or tail_needs(session, command, found)
        case AcceptChat() | Refuse() | Cancel() | Archive() | Update() | Erase():
            return answer_needs(session, command.request_id, command.command_hash, found)
        case Hide():
            needs = answer_needs(session, command.request_id, command.command_hash, found)
            return needs or hiding_needs(session, command, found)
        case ReceiveForward():
            marks = session.marks.unknown(source_key(command.source_kind, command.source_id), found.marks)
            return Lookup(marks=marks) if marks else None
        case _:
            return None


def answer_needs(session: Session, request_id: str, command_hash: str, found: Found = NOTHING) -> Lookup | None:
    """The rows that giving the answer of a request again depends on."""
    keys = session.answers.unknown(request_id, command_hash, found.answers)
    if keys:
        return Lookup(answers=keys)
    answer = known_answer(session, request_id, command_hash, found)
    if answer is None or not 0 < answer.answer_seq <= session.history_compaction.covered_to:
        return None
    text = (answer.answer_seq - 1, 1)  # it may not be held any more
    return None if text in found.messages else Lookup(messages=text)


def known_answer(session: Session, request_id: str, command_hash: str, found: Found = NOTHING) -> Answer | None:
    """What became of this very request before; ``None`` when it is new, or conflicts for the first time."""
    return session.answers.of_request(request_id, command_hash, found.answers)


def is_used(session: Session, request_id: str, found: Found) -> bool:
    """Has a request of this id been answered, or has its turn been accepted, whatever it was?"""
    return session.answers.find(request_id, found.answers) is not None
