"""A partition's store that is made in parts: processes fold the streams of some keys each, into a file each.

A stream's rows depend on its own events alone, so all parts together are the rows of the whole log.
"""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import duckdb

from turnlog_streams.reader_rule import NOT_READ, LoggedEvent, LogPosition, read_on
from turnlog_streams.table_types import PARTITIONS
from turnlog_workers.store import database_files
from turnlog_workers.store.duckdb_errors import store_error
from turnlog_workers.store.port import StoreError
from turnlog_workers.store.renewal import speak_of_erasures
from turnlog_workers.store.store_files import store_kind
from turnlog_workers.store.stream_rows import StreamWriter
from turnlog_workers.store.tables import quoted, transaction

_ALIAS = "part"
_MEMORY_MB = 192
_MAX_CACHED_STREAMS = 5_000
#: Rows of a stream that goes on in one commit are written once; what has both bounds takes some 100 MB in memory.
_COMMIT_EVENTS = 20000
_COMMIT_BYTES = 16 * 1024 * 1024
#: Nothing is written twice: what is committed waits in memory for the next checkpoint.
_CHECKPOINT_COMMITS = 5


class StorePart:
    """One of ``count`` parts, on its way from the log into its file. Any call may raise :class:`StoreError`."""

    def __init__(
        self, path: Path, *, deployment: str, partition: int, number: int, count: int, temp: Path, tolerant: bool
    ) -> None:
        """``tolerant``: of holes (``folding.fold``)."""
        self.path = path
        self.erasures = False  #: among its events: free blocks of the file may have what was erased
        self.position = LogPosition()
        self._number, self._count = number, count
        self._events: list[LoggedEvent] = []
        self._bytes = self._commits = 0
        self._kind = store_kind(deployment, partition)
        self._connection = duckdb.connect(
            ":memory:",
            config={"threads": 1, "memory_limit": f"{_MEMORY_MB}MB", "temp_directory": str(temp)},
        )
        database_files.attach(self._connection, path, _ALIAS, self._kind, away=database_files.delete, logged=False)
        self._cursor = self._connection.cursor()
        self._cursor.execute(f"USE {_ALIAS}")
        self._writer = StreamWriter(self._cursor, partition, max_cached_streams=_MAX_CACHED_STREAMS)
        self._writer.tolerant = tolerant

    def has(self, key: bytes) -> bool:
        """Are the streams of this key in this part?"""
        return crc32(key) % self._count == self._number

    def takes(self, size_bytes: int) -> None:
        """The next batch has so many bytes."""
        self._bytes += size_bytes

    def take(self, batch: Sequence[LoggedEvent]) -> None:
        """The next records, with ``NOT_READ`` in the place of what other parts have."""
        accepted, self.position = read_on(self.position, batch)
        self._events += [event for event in accepted if event.payload is not NOT_READ]
        if len(self._events) >= _COMMIT_EVENTS or self._bytes >= _COMMIT_BYTES * self._count:
            self._commit()

    def _commit(self) -> None:
        events, self._events, self._bytes = self._events, [], 0
        self.erasures = self.erasures or speak_of_erasures(events)
        try:
            self._writer.commit(events, self.position)
            self._commits += 1
            if self._commits % _CHECKPOINT_COMMITS == 0:
                self._cursor.execute(f"CHECKPOINT {_ALIAS}")
        except duckdb.Error as error:
            raise store_error(self.path, error) from error

    def finish(self) -> None:
        """Everything that was taken is in the file."""
        self._commit()

    def take_from(self, other: Path) -> None:
        """Add the rows of another part, which is closed and stands at the same place of the log."""
        tables = [table for table in self._kind.tables if table is not PARTITIONS]
        try:
            self._cursor.execute(f"ATTACH '{quoted(other)}' AS other (READ_ONLY)")
            with transaction(self._cursor):
                ends = self._cursor.execute("SELECT * FROM partitions UNION SELECT * FROM other.partitions").fetchall()
                if len(ends) != 1:
                    raise StoreError(f"{other} and {self.path} do not end at the same place of the log")
                for table in tables:
                    self._cursor.execute(f"INSERT INTO {table.place} FROM other.{table.place}")
            self._cursor.execute("DETACH other")
        except duckdb.Error as error:
            raise store_error(self.path, error) from error

    def close(self) -> None:
        """The file has everything, and nobody holds it."""
        try:
            self._cursor.execute(f"CHECKPOINT {_ALIAS}")
            self._cursor.close()
            database_files.detach(self._connection, _ALIAS)
        except duckdb.Error as error:
            raise store_error(self.path, error) from error
        finally:
            database_files.forget(self.path)
            self._connection.close()
