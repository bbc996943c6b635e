"""What a shard needs of a store: the streams of one partition's log prefix, and the checkpoint that they belong to.

DuckDB files (``store.partition_store``) and memory (``store.memory_store``) pass the same contract suite.
"""

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from turnlog_streams.folding.fold import StreamName, StreamState
from turnlog_streams.folding.rows import Unanswered
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.lookups import ChannelSession
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_streams.turn import Answer


class StoreError(RuntimeError):
    """A store cannot be read or written. Nothing of the failed call is in it; the log has everything."""


class NoRoomError(StoreError):
    """The disk is full. What is there stays good, and the same call works once there is room."""


class UnreadableStoreError(StoreError):
    """What is in a store cannot be read: if that goes on, it is to be rebuilt from the log."""


class DamagedStoreError(UnreadableStoreError):
    """The file itself is damaged: it is to be rebuilt from the log, as soon as that shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedStream:
    """A session or a channel as a store holds it."""

    state: StreamState
    history: Sequence[HistoryMessage] = ()  #: of a session: those that are held (``history.window``)
    stream_offset: int = -1  #: of its first event
    last_offset: int = -1  #: of its newest event
    unknown_events: int = 0  #: above 0: written by a newer version, nothing may be decided for it here


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRows:
    """Rows of one stream that are wanted."""

    stream_offset: int
    answers: frozenset[str] = frozenset()  #: keys
    marks: frozenset[str] = frozenset()  #: sources
    sessions: frozenset[str] = frozenset()  #: ids; of a channel
    latest: int = 0  #: so many of the channel's sessions opened last that are not archived
    messages: frozenset[tuple[int, int, int]] = frozenset()  #: behind which, how many at most, up to which message_seq
    turns: frozenset[str] = frozenset()  #: ids: is there an answer of such a turn?

    def plus(self, more: "WantedRows") -> "WantedRows":
        """These, and more of the same stream."""
        return WantedRows(
            stream_offset=self.stream_offset,
            answers=self.answers | more.answers,
            marks=self.marks | more.marks,
            sessions=self.sessions | more.sessions,
            latest=max(self.latest, more.latest),
            messages=self.messages | more.messages,
            turns=self.turns | more.turns,
        )


@dataclass(slots=True, kw_only=True)
class FoundRows:
    """What was found; ``None`` where there is no such row."""

    answers: dict[str, Answer | None] = field(default_factory=dict)
    marks: dict[str, int | None] = field(default_factory=dict)
    sessions: dict[str, ChannelSession | None] = field(default_factory=dict)
    latest: list[ChannelSession] = field(default_factory=list)  #: the one opened last first
    #: by what was wanted of them: behind which, and how many at most (here with what is above that); fewer when large
    messages: dict[tuple[int, int], Sequence[HistoryMessage]] = field(default_factory=dict)
    turns: dict[str, bool] = field(default_factory=dict)

    def add(self, wanted: WantedRows, found: "FoundRows") -> None:
        """What was found when these were wanted."""
        self.answers |= {key: found.answers.get(key) for key in wanted.answers}
        self.marks |= {source: found.marks.get(source) for source in wanted.marks}
        self.sessions |= {name: found.sessions.get(name) for name in wanted.sessions}
        self.turns |= {turn_id: found.turns.get(turn_id, False) for turn_id in wanted.turns}
        if wanted.latest:
            self.latest = found.latest
        for after, limit, _ in wanted.messages:
            self.messages[after, limit - 1] = found.messages[after, limit]


NOTHING_FETCHED: Final = FoundRows()  #: of every stream that nothing was fetched for: it is not added to


class Saved(NamedTuple):
    """How far a stream is saved."""

    stream_offset: int
    version: int
    messages: int  #: of a session: the highest message_seq


class PartitionStore(Protocol):
    """The streams of one partition, open for its owner. Calls may overlap; they run one after the other."""

    @property
    def position(self) -> LogPosition:
        """The committed checkpoint: where to go on reading the log."""
        ...

    @property
    def outworn(self) -> bool:
        """Is there something to do in the next write, although nothing is new?"""
        ...

    @property
    def tolerant(self) -> bool:
        """Was it made anew since it could not be used? What is odd in it then is the log's, or one stream's."""
        ...

    async def write(self, events: Sequence[LoggedEvent], position: LogPosition) -> Mapping[StreamName, Saved]:
        """Commit what accepted events (in offset order) lead to and the position behind them, both or neither.

        How far their streams are saved then.

        Events below the checkpoint are ignored, so writing a batch again changes nothing.
        Raises :class:`StoreError`, or ``folding.fold.FoldError`` where they are not the next ones.
        """
        ...

    async def load(self, names: Collection[StreamName]) -> dict[StreamName, LoadedStream]:
        """The streams that have any event, as of the checkpoint; others are left out."""
        ...

    async def look_up(self, wanted: Sequence[WantedRows]) -> list[FoundRows]:
        """Rows of streams as of the checkpoint, in the order in which they are wanted."""
        ...

    async def unfinished(self) -> list[StreamName]:
        """Streams with open turns, owed history compactions or pending forwards, the longest waiting first."""
        ...

    async def unanswered(self) -> list[Unanswered]:
        """Requests whose answer follows from an event above what the checkpoint says is sent, in log order.

        Such an event is the end of a turn (for its request, and for one that cancelled it), the end of a history
        compaction that was asked for, a refusal, a lifecycle decision that waits for nothing, or the delivery that one
        waited for last.
        """
        ...

    async def forget(self, streams: Collection[StreamName]) -> None:
        """These have left memory: what is kept of them to save reading them back may go. Their rows stay."""
        ...

    async def rest(self) -> None:
        """Nobody uses the partition for now: give memory back, and leave what the next owner opens quickly.

        Any other call may follow.
        """
        ...

    async def close(self) -> None:
        """Give the file free for the next owner. May be called again."""
        ...


class PartitionStores(Protocol):
    """The stores of one worker."""

    async def open(self, partition: int) -> PartitionStore:
        """The partition's store, where it stands; a fresh one if there is none that can be used.

        Raises :class:`StoreError` when not even a fresh one can be made, ``ValueError`` when it is open already.
        """
        ...

    async def open_fresh(self, partition: int, reason: str) -> PartitionStore:
        """Move the partition's file aside (for example: its log was re-created) and start from the log's beginning.

        Its ``write`` raises no ``FoldError``: a stream whose events do not fit together is marked, as one with events
        of a newer version.
        """
        ...

    async def close(self) -> None:
        """Close every store."""
        ...


class StoreBuilds(Protocol):
    """Makes stores outside of the worker's process."""

    def pay(self, events: int) -> bool:
        """Is that worth it for so many?"""
        ...

    async def build(
        self, partition: int, end: int, *, tolerant: bool, told: Callable[[int], None]
    ) -> Callable[[], Coroutine[None, None, PartitionStore]] | None:
        """The store of the log up to ``end``. It is not open here meanwhile.

        What opens it; ``None``: it could not be made. ``tolerant``: as one that is opened fresh. ``told`` hears how
        many more events are read, of this one and those that are made before it.
        """
        ...
