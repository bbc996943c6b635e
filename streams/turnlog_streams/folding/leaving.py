"""What leaves a stream's state for rows of its own when an event is folded: that keeps the state small.

It depends on the log alone, so the owner, who holds such rows until they are saved, and the store agree on them.
"""

from turnlog_schemas.events import SessionErased
from turnlog_streams.channel.state import Channel, rows_of_channel
from turnlog_streams.facts import Fact
from turnlog_streams.lookups import WROTE_NOTHING, Written
from turnlog_streams.session.state import Session
from turnlog_streams.turn import Answer


def leaving(before: Session | Channel, after: Session | Channel, fact: Fact) -> Written:
    """The rows that an event makes: answers and marks that left the state, and a channel's session."""
    if isinstance(fact.event, SessionErased):
        return WROTE_NOTHING  # its answers leave for good
    answers = before.answers.older != after.answers.older
    marks = before.marks.older != after.marks.older
    written = rows_of_channel(before, fact) if isinstance(before, Channel) else WROTE_NOTHING
    if not (answers or marks or written.opened or written.archived or written.erased):
        return WROTE_NOTHING
    return Written(
        answers=_answers(before, after) if answers else {},
        marks=_marks(before, after) if marks else {},
        opened=written.opened,
        archived=written.archived,
        erased=written.erased,
    )


def _answers(before: Session | Channel, after: Session | Channel) -> dict[str, Answer]:
    gone = [key for key in before.answers.settled if key not in after.answers.known]
    return {key: before.answers.known[key] for key in gone}


def _marks(before: Session | Channel, after: Session | Channel) -> dict[str, int]:
    gone = [source for source in before.marks.recent if source not in after.marks.known]
    return {source: before.marks.known[source] for source in gone}
