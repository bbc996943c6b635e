"""A DuckDB file written anew after an erasure: what was deleted stays in free blocks until something needs them.

A mark beside the file is made before the deletion is committed, so that whoever opens the file next after a crash goes
on with it.
"""

import math
import time
from collections.abc import Iterable
from pathlib import Path

import duckdb

from turnlog_schemas.events import ChannelSessionErased, SessionErased
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind
from turnlog_workers.store.port import StoreError
from turnlog_workers.store.tables import quoted, transaction

_ERASURES = (SessionErased, ChannelSessionErased)
#: A file that is made of the whole log meets old erasures by the batch: this part of the time goes into renewing it.
_SHARE = 1 / 5
_PAUSE_S = 1.0  #: at least
_AGAIN_S = 60.0  #: after a renewal that failed


class Outworn:
    """Is what was erased still in a file's free blocks, and is it time to write the file anew?"""

    def __init__(self, path: Path, others: str = "") -> None:
        """Undoes a renewal that was broken off. ``others``: names of files beside it that may hold the same rows."""
        self._path = path
        self._others = others
        self._began_at = self._next_at = -math.inf
        self.yes = recover(path)

    @property
    def due(self) -> bool:
        """Is the file to be renewed now?"""
        return self.yes and time.monotonic() >= self._next_at

    def note(self, events: Iterable[LoggedEvent]) -> None:
        """Before these events are committed. Raises :class:`StoreError`."""
        if speak_of_erasures(events):
            mark(self._path)
            self.yes = True

    def set_old(self) -> None:
        """The file, checkpointed and closed, makes room for a new one. Raises ``OSError``."""
        self._began_at = time.monotonic()
        self._next_at = self._began_at + _AGAIN_S
        old = _old_of(self._path)
        database_files.delete(old)
        self._path.replace(old)
        crash_point("store.in_renewal")

    def fill(self, cursor: duckdb.DuckDBPyConnection, kind: FileKind) -> None:
        """Put all rows of the old file into the new one, which ``cursor`` uses. Raises ``duckdb.Error``."""
        cursor.execute(f"ATTACH '{quoted(_old_of(self._path))}' AS outworn (READ_ONLY)")
        try:
            with transaction(cursor):
                for table in kind.tables:
                    cursor.execute(f"DELETE FROM {table.place}")
                    cursor.execute(f"INSERT INTO {table.place} FROM outworn.{table.schema or 'main'}.{table.name}")
        finally:
            cursor.execute("DETACH outworn")
        cursor.execute("CHECKPOINT")

    def finish(self) -> None:
        """The new file has everything: nothing of the old one stays, nor of files of its name that were set aside."""
        database_files.delete(_old_of(self._path))
        for left in (self._path.parent / database_files.ASIDE).glob(self._others or f"{self._path.stem}.*"):
            left.unlink(missing_ok=True)
        for other in self._path.parent.glob(self._others) if self._others else ():
            if other.name != self._path.name and not database_files.is_held(other):
                database_files.delete(other)  # of another version: it comes back from the log, blank
        mark_of(self._path).unlink(missing_ok=True)
        self.yes = False
        now = time.monotonic()
        self._next_at = now + max(_PAUSE_S, (now - self._began_at) / _SHARE)

    def go_back(self) -> None:
        """The new file, closed, could not be made whole: the old one takes its place again. Raises ``OSError``."""
        _restore(self._path)


def speak_of_erasures(events: Iterable[LoggedEvent]) -> bool:
    """Is something deleted by what these lead to?"""
    return any(isinstance(event.payload, _ERASURES) for event in events)


def mark(path: Path) -> None:
    """The file is to be written anew. Raises :class:`StoreError`."""
    try:
        mark_of(path).touch()
    except OSError as error:
        raise StoreError(f"{mark_of(path)} cannot be made: {error}. Check the disk and its rights") from error


def mark_of(path: Path) -> Path:
    """Beside a file that is to be written anew."""
    return path.with_name(f"{path.name}.renew")


def _old_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.old{path.suffix}")


def recover(path: Path) -> bool:
    """Before a file is opened: undo a renewal that was broken off; whether it is to be renewed.

    Nothing is done to a file that somebody has open.
    """
    if not mark_of(path).exists():
        return False
    if not database_files.is_held(path):
        _restore(path)
    return True


def _restore(path: Path) -> None:
    old = _old_of(path)
    if old.exists():
        database_files.delete(path)
        old.replace(path)
