"""What a decision needs to know beside the state of its stream, looked up before it is made.

A stream's state is of bounded size, whatever was ever said in it. The rest are rows, without a bound: the answers of
done requests by key, the highest forward heard by source, and a channel's sessions by id. So a command is decided in
two steps, both pure, with the look-up (batched, of many commands) between them:

    found = NOTHING
    while lookup := needs(state, command, found):       # ``None``: everything is known
        found = found.plus(await rows.look_up(kind, stream_id, lookup))
    facts = decide(state, command, policy, found)

``needs`` asks only where there can be a row (``Answers.older``, ``Channel.session_count``), so a new request id in a
stream of few costs nothing. What is found must be as of the state: rows of events that are decided but not yet saved
count, those of decisions that were taken back do not. ``evolve`` never looks anything up: an event says all that
follows from what was looked up for its decision. Which rows an event writes: :class:`Written`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from immutables import Map

from turnlog_schemas.parts import NewSession
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.records import changed
from turnlog_streams.turn import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSession:
    """A session of a channel, as the channel knows it: a row."""

    session_id: str
    rank: int  #: version of the channel when it was opened: of two sessions, the higher one was opened later
    archived: bool = False
    new_session: NewSession = field(default_factory=NewSession)  #: what it was opened with


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Rows of one stream that are wanted."""

    answers: frozenset[str] = frozenset()  #: keys
    marks: frozenset[str] = frozenset()  #: sources
    sessions: frozenset[str] = frozenset()  #: ids; of a channel
    latest_except: str | None = None  #: the channel's session opened last that is neither archived nor this one
    messages: tuple[int, int] | None = None  #: of a session: those behind this message_seq, so many at most
    turns: frozenset[str] = frozenset()  #: ids: is there such a turn among the answers?


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Rows that were looked up; ``None`` where there is no such row."""

    answers: Mapping[str, Answer | None] = field(default_factory=dict)
    marks: Mapping[str, int | None] = field(default_factory=dict)
    sessions: Mapping[str, ChannelSession | None] = field(default_factory=dict)
    latest_except: Mapping[str, ChannelSession | None] = field(default_factory=dict)  #: by the one left out
    messages: Mapping[tuple[int, int], Sequence[HistoryMessage]] = field(default_factory=dict)  #: as they were wanted
    turns: Mapping[str, bool] = field(default_factory=dict)

    def plus(self, more: "Found") -> "Found":
        """Both together."""
        return Found(
            answers={**self.answers, **more.answers},
            marks={**self.marks, **more.marks},
            sessions={**self.sessions, **more.sessions},
            latest_except={**self.latest_except, **more.latest_except},
            messages={**self.messages, **more.messages},
            turns={**self.turns, **more.turns},
        )


NOTHING = Found()


class StreamRows(Protocol):
    """Where rows are looked up."""

    async def look_up(self, kind: str, stream_id: str, lookup: Lookup) -> Found:
        """Every row that is wanted, and ``None`` for each that there is not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The rows that one event writes: new, or instead of what stands there."""

    answers: Mapping[str, Answer] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)
    opened: ChannelSession | None = None
    archived: str | None = None  #: session id: its row says so from here on
    erased: ChannelSession | None = None  #: instead of its row


WROTE_NOTHING = Written()


def has_turn(answers: Iterable[Answer], turn_id: str) -> bool:
    """Is one of these the answer of this turn?"""
    return any(answer.turn_id == turn_id for answer in answers)


# ---- in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """All rows of one stream, as a store keeps them."""

    answers: Map[str, Answer] = field(default_factory=Map)
    marks: Map[str, int] = field(default_factory=Map)
    sessions: Map[str, ChannelSession] = field(default_factory=Map)


_Opened = tuple[str, "_Opened | None"]  #: a session id, and the one opened before it


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsInMemory:
    """All rows of one stream, in memory. An earlier value stays what it was."""

    answers: Map[str, Answer] = field(default_factory=Map)
    marks: Map[str, int] = field(default_factory=Map)
    sessions: Map[str, ChannelSession] = field(default_factory=Map)
    last_opened: "_Opened | None" = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, rows: StoredRows) -> "RowsInMemory":
        """The rows of a store."""
        last: _Opened | None = None
        for session in sorted(rows.sessions.values(), key=lambda session: session.rank):
            if not session.archived:
                last = (session.session_id, last)
        return cls(answers=rows.answers, marks=rows.marks, sessions=rows.sessions, last_opened=last)

    def stored(self) -> StoredRows:
        """For a store."""
        return StoredRows(answers=self.answers, marks=self.marks, sessions=self.sessions)

    def with_written(self, rows: Written) -> "RowsInMemory":
        """The rows after an event."""
        if rows is WROTE_NOTHING:
            return self
        sessions, last = self.sessions, self.last_opened
        if rows.opened is not None:
            sessions = sessions.set(rows.opened.session_id, rows.opened)
            last = (rows.opened.session_id, last)
        if rows.erased is not None:
            sessions = sessions.set(rows.erased.session_id, rows.erased)
        if rows.archived is not None:
            sessions = sessions.set(rows.archived, changed(sessions[rows.archived], archived=True))
            while last is not None and sessions[last[0]].archived:
                last = last[1]
        return changed(
            self,
            answers=self.answers.update(rows.answers),
            marks=self.marks.update(rows.marks),
            sessions=sessions,
            last_opened=last,
        )

    def look_up(self, lookup: Lookup) -> Found:
        """As :meth:`StreamRows.look_up`."""
        left_out = lookup.latest_except
        return Found(
            answers={key: self.answers.get(key) for key in lookup.answers},
            marks={source: self.marks.get(source) for source in lookup.marks},
            sessions={session_id: self.sessions.get(session_id) for session_id in lookup.sessions},
            latest_except={} if left_out is None else {left_out: self._latest_except(left_out)},
            messages={} if lookup.messages is None else {lookup.messages: ()},  # its session holds them all
            turns={turn_id: has_turn(self.answers.values(), turn_id) for turn_id in lookup.turns},
        )

    def _latest_except(self, left_out: str) -> ChannelSession | None:
        opened = self.last_opened
        while opened is not None:
            session = self.sessions[opened[0]]
            if not session.archived and session.session_id != left_out:
                return session
            opened = opened[1]
        return None

    def find(self, needs: Callable[[Found], Lookup | None]) -> Found:
        """All that something needs, which says step by step what that is."""
        found = NOTHING
        while (lookup := needs(found)) is not None:
            found = found.plus(self.look_up(lookup))
        return found
