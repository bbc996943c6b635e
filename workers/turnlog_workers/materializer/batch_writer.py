"""Commits batches of events to the analysts' file: rows and checkpoints in one transaction, or neither."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import duckdb

from turnlog_streams.projection.project import begun, project, touched
from turnlog_streams.projection.state import State, StreamKey
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.materializer.analysts_tables import write_changes, write_erasures, write_events
from turnlog_workers.materializer.projection_states import load_states
from turnlog_workers.store import tables


class BatchWriter:
    """The one writer of an attached file. Keeps the state of streams that it wrote last, to save reading it back."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, max_cached_sessions: int, each_batch: bool = True
    ) -> None:
        """``connection`` uses the file as its current database. Not ``each_batch``: :meth:`flush` alone commits."""
        self._connection = connection
        self._each_batch = each_batch
        self._in_transaction = False
        self._max_cached_sessions = max_cached_sessions
        self._states: OrderedDict[StreamKey, State] = OrderedDict()
        self.events = 0  #: committed by this writer
        self.rows = 0  #: new and changed ones
        self.tolerant = False  #: of events that refer to something unseen: the log itself has them
        self.positions: Mapping[int, LogPosition] = tables.read_positions(connection)  #: behind what is written
        self._committed: Mapping[int, LogPosition] = self.positions

    def commit(self, events: Sequence[LoggedEvent], positions: Mapping[int, LogPosition]) -> None:
        """Write accepted events, in log order per partition, and where their reader stands behind them.

        Events below a partition's checkpoint are ignored. Raises ``duckdb.Error`` or ``ProjectionError``.
        """
        ahead = {
            partition: position
            for partition, position in positions.items()
            if position.next_offset > self.positions[partition].next_offset
        }
        if not ahead:
            return
        events = [logged for logged in events if logged.offset >= self.positions[logged.partition].next_offset]
        try:
            self._commit(events, ahead)
        except BaseException:
            self._states.clear()  # the fold ran ahead of what is stored
            raise
        self.positions = {**self.positions, **ahead}
        while len(self._states) > self._max_cached_sessions:
            self._states.popitem(last=False)

    def _commit(self, events: Sequence[LoggedEvent], positions: Mapping[int, LogPosition]) -> None:
        keys = touched(events)
        for key in keys & self._states.keys():
            self._states.move_to_end(key)
        stored = keys - self._states.keys() - begun(events)
        self._states.update(load_states(self._connection, stored))
        changes = project(events, self._states, tolerant=self.tolerant)
        with tables.transaction(self._connection) if self._each_batch else self._open_transaction():
            write_changes(self._connection, changes)
            write_events(self._connection, events)
            write_erasures(self._connection, changes)
            crash_point("materializer.mid_commit")
            tables.write_positions(self._connection, positions)
        self.events += len(events)
        self.rows += changes.rows() + len(events)

    @contextlib.contextmanager
    def _open_transaction(self) -> Iterator[None]:
        """One that stays open for the batches behind this one: DuckDB then writes whole row groups, once."""
        if not self._in_transaction:
            self._connection.execute("BEGIN")
            self._in_transaction = True
        try:
            yield
        except BaseException:
            self._in_transaction = False
            self.positions = self._committed
            with contextlib.suppress(duckdb.Error):  # the error that is raised may have ended the transaction itself
                self._connection.execute("ROLLBACK")
            raise

    def flush(self) -> None:
        """Commit what is not committed yet. Raises ``duckdb.Error``."""
        if self._in_transaction:
            self._in_transaction = False
            self._connection.execute("COMMIT")
        self._committed = self.positions
