"""What is left of a session's state when its texts cannot be read any more.

Readers that have read its texts and readers that come later, when they are blank, must agree: it is made of what no
text can change.
"""

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from immutables import Map

from turnlog_schemas import events as ev
from turnlog_streams.answers import Answers
from turnlog_streams.forwarding import without_texts
from turnlog_streams.records import changed
from turnlog_streams.turn import Answer

if TYPE_CHECKING:  # the state itself calls this
    from turnlog_streams.session.state import Session

CODE = "erased"
_KEPT = ("session_id", "active", "channel", "messages", "turn_count", "last_started", "waits", "forward_seq", "marks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """When what an erasure does not reach is gone: milliseconds from it; -1: never, 0: not said."""

    requests_kept_ms: int = 0
    replies_kept_ms: int = 0
    dead_letters_kept_ms: int = 0
    key_kept_ms: int = 0


def erased(session: "Session", event: ev.SessionErased) -> "Session":
    """The state behind the event. Requests that wait for a forward's delivery are still answered."""
    answer = Answer(command_hash=event.command_hash, kind="erased", reply=event.reply)
    bare = {each.name: _default(each) for each in fields(session) if each.name not in _KEPT}
    bare |= {
        "version": session.version + 1,
        "exists": True,
        "archived": True,
        "answers": _answers(session).settle(event.request_id, answer),
        "outbox": tuple([without_texts(forward) for forward in session.outbox]),
        "erasure": Erasure(
            requests_kept_ms=event.requests_kept_ms,
            replies_kept_ms=event.replies_kept_ms,
            dead_letters_kept_ms=event.dead_letters_kept_ms,
            key_kept_ms=event.key_kept_ms,
        ),
    }
    return changed(session, **bare)


def _answers(session: "Session") -> Answers:
    """Whoever may not have heard what became of a request hears that the session is erased."""
    before, known = session.answers, {}
    for key, answer in before.known.items():
        if key in session.waits:
            known[key] = changed(answer, command_hash="")
        elif "\0" not in key:  # that of a conflict is named by its hash
            known[key] = refused(session.session_id, answer)
    settled = [key for key in before.settled if key in known]
    settled += sorted(known.keys() - set(settled) - set(session.waits))
    return Answers(known=Map(known), settled=tuple(settled))


def why(session_id: str) -> str:
    """For whoever asks it something."""
    return f"session {session_id} was erased"


def refused(session_id: str, answer: Answer) -> Answer:
    """What stands for an answer of before, to where that one was asked."""
    return Answer(command_hash="", kind="refused", code=CODE, reason=why(session_id), reply=answer.reply)


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
