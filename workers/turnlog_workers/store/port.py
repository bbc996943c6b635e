"""What a shard needs of a store: the streams of one partition's log prefix, and the checkpoint that they belong to.

DuckDB files (``store.partition_store``) and memory (``store.memory_store``) pass the same contract suite.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from turnlog_streams.folding.fold import StreamName, StreamState
from turnlog_streams.folding.rows import Unanswered
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.lookups import RowsInMemory
from turnlog_streams.reader_rule import LoggedEvent, LogPosition


class StoreError(RuntimeError):
    """A store cannot be read or written. Nothing of the failed call is in it; the log has everything."""


class UnreadableStoreError(StoreError):
    """What is in a store cannot be read: if that goes on, it is to be rebuilt from the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedStream:
    """A session or a channel as a store holds it."""

    state: StreamState
    history: Sequence[HistoryMessage] = ()  #: of a session
    rows: RowsInMemory | None = None  #: of a channel: what its decisions look up
    last_offset: int = -1  #: of its newest event
    unknown_events: int = 0  #: above 0: written by a newer version, nothing may be decided for it here


class PartitionStore(Protocol):
    """The streams of one partition, open for its owner. Calls may overlap; they run one after the other."""

    @property
    def position(self) -> LogPosition:
        """The committed checkpoint: where to go on reading the log."""
        ...

    async def write(self, events: Sequence[LoggedEvent], position: LogPosition) -> None:
        """Commit what accepted events (in offset order) lead to and the position behind them, both or neither.

        Events below the checkpoint are ignored, so writing a batch again changes nothing.
        Raises :class:`StoreError`, or ``folding.fold.FoldError`` where they are not the next ones.
        """
        ...

    async def load(self, names: Collection[StreamName]) -> dict[StreamName, LoadedStream]:
        """The streams that have any event, as of the checkpoint; others are left out."""
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
