"""What a shard needs of a store: the rows of one partition's log prefix, and the checkpoint that they belong to.

DuckDB files (``store.partition_store``) and memory (``store.memory_store``) pass the same contract suite.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from turnlog_streams.projection.rehydration import LoadedChannel, LoadedSession, Unanswered
from turnlog_streams.reader_rule import LoggedEvent, LogPosition


class StoreError(RuntimeError):
    """A store cannot be read or written. Nothing of the failed call is in it; the log has everything."""


class UnreadableStoreError(StoreError):
    """What is in a store cannot be read: if that goes on, it is to be rebuilt from the log."""


class PartitionStore(Protocol):
    """The materialization of one partition, open for its owner. Calls may overlap; they run one after the other."""

    @property
    def position(self) -> LogPosition:
        """The committed checkpoint: where to go on reading the log."""
        ...

    async def write(self, events: Sequence[LoggedEvent], position: LogPosition) -> None:
        """Commit the rows of accepted events (in offset order) and the position behind them, both or neither.

        Events below the checkpoint are passed over, so writing a batch again changes nothing.
        Raises :class:`StoreError`, or ``projection.state.ProjectionError`` for a log with holes.
        """
        ...

    async def load(self, session_ids: Collection[str]) -> dict[str, LoadedSession]:
        """The sessions that have any event, as of the checkpoint; others are left out."""
        ...

    async def load_channels(self, channels: Collection[str]) -> dict[str, LoadedChannel]:
        """The channels that have any event, as of the checkpoint; others are left out."""
        ...

    async def unfinished(self) -> list[str]:
        """Sessions with open turns, owed history compactions or pending forwards, the longest waiting first."""
        ...

    async def unfinished_channels(self) -> list[str]:
        """Channels with pending forwards, the one that waits longest first."""
        ...

    async def unanswered(self, replied: int) -> list[Unanswered]:
        """Requests whose answer follows from an event above the log offset ``replied``, in log order.

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

        Its ``write`` raises no ``ProjectionError``: a stream whose events do not fit together is marked, as one with
        events of a newer version.
        """
        ...

    async def close(self) -> None:
        """Close every store."""
        ...
