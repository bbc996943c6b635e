"""Rows of one stream that left its state and are not saved yet: a look-up finds them here, all others in the store.

They run ahead of the log as the state does. An earlier value stays what it was, so that a decision can be taken back.
"""

from dataclasses import dataclass, field
from typing import TypeVar

from immutables import Map

from turnlog_streams.lookups import WROTE_NOTHING, ChannelSession, Found, Lookup, Written, has_turn
from turnlog_streams.records import changed
from turnlog_streams.turn import Answer
from turnlog_workers.store.port import FoundRows, WantedRows

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsavedRows:
    """Each row with the version of the stream that wrote it."""

    answers: Map[str, tuple[int, Answer]] = field(default_factory=Map)
    marks: Map[str, tuple[int, int]] = field(default_factory=Map)
    sessions: Map[str, tuple[int, ChannelSession]] = field(default_factory=Map)  #: opened
    archived: Map[str, tuple[int, bool]] = field(default_factory=Map)  #: session ids

    def with_written(self, version: int, written: Written) -> "UnsavedRows":
        """With what the event of this version wrote."""
        if written is WROTE_NOTHING:
            return self
        opened, archived = written.opened or written.erased, written.archived
        return changed(
            self,
            answers=self.answers.update({key: (version, answer) for key, answer in written.answers.items()}),
            marks=self.marks.update({source: (version, seq) for source, seq in written.marks.items()}),
            sessions=self.sessions if opened is None else self.sessions.set(opened.session_id, (version, opened)),
            archived=self.archived if archived is None else self.archived.set(archived, (version, True)),
        )

    def without_saved(self, version: int) -> "UnsavedRows":
        """Without what events up to this version wrote."""
        if not (self.answers or self.marks or self.sessions or self.archived):
            return self
        return UnsavedRows(
            answers=_above(version, self.answers),
            marks=_above(version, self.marks),
            sessions=_above(version, self.sessions),
            archived=_above(version, self.archived),
        )

    def wanted(self, stream_offset: int, lookup: Lookup, fetched: FoundRows) -> WantedRows | None:
        """What a look-up needs of the store, beside rows that were fetched; ``None``: nothing."""
        answers = frozenset(key for key in lookup.answers if key not in self.answers and key not in fetched.answers)
        marks = frozenset(source for source in lookup.marks if source not in self.marks and source not in fetched.marks)
        sessions = frozenset(
            name for name in lookup.sessions if name not in self.sessions and name not in fetched.sessions
        )
        turns = frozenset(
            turn_id for turn_id in lookup.turns if turn_id not in fetched.turns and not self._has_turn(turn_id)
        )
        latest = len(self.archived) + 2 if lookup.latest_except is not None and self._newest(lookup) is None else 0
        if not (answers or marks or sessions or latest or turns):
            return None
        return WantedRows(
            stream_offset=stream_offset, answers=answers, marks=marks, sessions=sessions, latest=latest, turns=turns
        )

    def _has_turn(self, turn_id: str) -> bool:
        return has_turn((answer for _, answer in self.answers.values()), turn_id)

    def found(self, lookup: Lookup, fetched: FoundRows) -> Found:
        """The rows that are wanted, here or among those that were fetched; ``None`` for each that there is not."""
        left_out = lookup.latest_except
        return Found(
            answers={
                key: self.answers[key][1] if key in self.answers else fetched.answers.get(key) for key in lookup.answers
            },
            marks={
                source: self.marks[source][1] if source in self.marks else fetched.marks.get(source)
                for source in lookup.marks
            },
            sessions={name: self._session(name, fetched) for name in lookup.sessions},
            latest_except={} if left_out is None else {left_out: self._latest(lookup, fetched)},
            turns={turn_id: self._has_turn(turn_id) or fetched.turns.get(turn_id, False) for turn_id in lookup.turns},
        )

    def _session(self, name: str, fetched: FoundRows) -> ChannelSession | None:
        session = self.sessions[name][1] if name in self.sessions else fetched.sessions.get(name)
        return changed(session, archived=True) if session is not None and name in self.archived else session

    def _newest(self, lookup: Lookup) -> ChannelSession | None:
        """Of the sessions that are not saved; all saved ones were opened before them."""
        left = [
            session
            for name, (_, session) in self.sessions.items()
            if name != lookup.latest_except and name not in self.archived and not session.archived
        ]
        return max(left, key=lambda session: session.rank, default=None)

    def _latest(self, lookup: Lookup, fetched: FoundRows) -> ChannelSession | None:
        newest = self._newest(lookup)
        if newest is not None:
            return newest
        left = (each for each in fetched.latest if each.session_id != lookup.latest_except)
        return next((each for each in left if each.session_id not in self.archived), None)


NOTHING_UNSAVED = UnsavedRows()


def _above(version: int, rows: Map[str, tuple[int, T]]) -> Map[str, tuple[int, T]]:
    return Map({name: row for name, row in rows.items() if row[0] > version})
