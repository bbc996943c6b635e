"""DuckDB files that belong to a log: opened where they stand, or moved aside and made anew.

A file is used only if it opens, holds the rows that are wanted and belongs to this deployment; everything in it comes
back from the log. A file that another process holds is an error of its own: that process may be a stopped zombie.
"""

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from turnlog_streams.table_types import Table
from turnlog_workers.store.duckdb_errors import has_no_room, store_error
from turnlog_workers.store.port import StoreError
from turnlog_workers.store.tables import create_tables, insert_positions, quoted, read_positions, transaction

log = logging.getLogger(__name__)

ASIDE = "aside"
KEPT_ASIDE = 3  #: files of one name
# What is not checkpointed is held in memory at many times its size; a checkpoint rewrites what changed, at worst the
# whole file: a threshold that grows with the file keeps both in proportion.
_MIN_CHECKPOINT_WAL_BYTES = 2 * 1024 * 1024
_MAX_CHECKPOINT_WAL_BYTES = 64 * 1024 * 1024
_CHECKPOINT_WAL_OF_FILE = 1 / 8
Away = Callable[[Path], None]  #: what becomes of a file that cannot be used
_open_files: set[Path] = set()  # file locks do not hold against one's own process
_open_files_lock = threading.Lock()


class FileLockedError(StoreError):
    """Another process has the file open."""


class _UnusableError(Exception):
    """The file cannot be used as it is; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """What a file must be to be used."""

    deployment: str  #: cluster and topic prefix: rows of another log are of no use
    rows: str  #: which rows a log leads to
    tables: tuple[Table, ...]
    partitions: tuple[int, ...]
    block_bytes: int  #: of its blocks, which a file keeps for life: one with another size does not open
    then: tuple[str, ...] = ()  #: statements once its tables are made
    until: str = ""  #: it ends there, whatever the log has; empty: it goes on with the log

    @property
    def marks(self) -> dict[str, str]:
        """What the file says of itself in its table ``about``."""
        marks = {"rows": self.rows, "deployment": self.deployment}
        return marks | {"until": self.until} if self.until else marks


def attach(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    alias: str,
    kind: FileKind,
    *,
    away: Away | None = None,
    logged: bool = True,
) -> None:
    """Attach a file as ``alias``, with all tables; one that cannot be used is moved aside, or what ``away`` does.

    Not ``logged``: what is committed is stored by the next checkpoint only, and is not written twice.

    Raises :class:`FileLockedError`, :class:`NoRoomError`, or :class:`StoreError` when not even a new file can be made.
    """
    path, away = path.resolve(), away or move_aside
    with _open_files_lock:
        if path in _open_files:
            raise FileLockedError(f"{path} is open in this process already")
        _open_files.add(path)
    try:
        try:
            _attach(connection, path, alias, kind, logged=logged)
        except _UnusableError as error:
            log.warning("%s is %s and rebuilt from the log: %s", path, what_is_done(away), error)
            away(path)
            _attach(connection, path, alias, kind, logged=logged)
    except BaseException as error:
        forget(path)
        if isinstance(error, _UnusableError):
            raise StoreError(f"{path} cannot be made: {error}. Check the disk and the rights of its folder") from error
        raise


def attach_as_it_is(connection: duckdb.DuckDBPyConnection, path: Path, alias: str, kind: FileKind) -> None:
    """Attach a file again that is known as open here, and was detached. Raises :class:`StoreError`."""
    try:
        _attach(connection, path.resolve(), alias, kind)
    except _UnusableError as error:
        raise StoreError(f"{path} cannot be attached again: {error}. Check the disk, or restart the worker") from error


def _attach(
    connection: duckdb.DuckDBPyConnection, path: Path, alias: str, kind: FileKind, *, logged: bool = True
) -> None:
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(f"{path} may not be read or written by this user: change its rights, or remove it")
    is_new = not path.exists()
    try:
        unlogged = "" if logged else ", RECOVERY_MODE no_wal_writes"
        connection.execute(f"ATTACH '{quoted(path)}' AS {alias} (BLOCK_SIZE {kind.block_bytes}{unlogged})")
    except duckdb.Error as error:
        if "Could not set lock" in str(error):
            raise FileLockedError(f"{path} is open in another process") from error
        if has_no_room(error):
            raise _full(path, error, is_new=is_new) from error
        raise _UnusableError(f"it does not open ({_first_line(error)})") from error
    try:
        _check_or_create(connection, alias, kind)
    except BaseException as error:
        with contextlib.suppress(duckdb.Error):
            detach(connection, alias)
        if isinstance(error, duckdb.Error):
            if has_no_room(error):
                raise _full(path, error, is_new=is_new) from error
            raise _UnusableError(f"it cannot be read ({_first_line(error)})") from error
        raise


def _full(path: Path, error: duckdb.Error, *, is_new: bool) -> StoreError:
    """What there is stays where it is: it is good. Of a new file nothing stays."""
    if is_new:
        delete(path)
    return store_error(path, error)


def _check_or_create(connection: duckdb.DuckDBPyConnection, alias: str, kind: FileKind) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(f"USE {alias}")
        there = cursor.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = $1", [alias]).fetchall()
        if not there:
            _create(cursor, kind)
        elif ("about",) not in there:
            raise _UnusableError("it was not made by this program")
        marks = dict(cursor.execute("SELECT name, value FROM about").fetchall())
        if marks != kind.marks:
            raise _UnusableError(f"it says {marks}, and {kind.marks} is wanted")
        missing = set(kind.partitions) - set(read_positions(cursor))
        insert_positions(cursor, sorted(missing))
    finally:
        cursor.close()


def _create(cursor: duckdb.DuckDBPyConnection, kind: FileKind) -> None:
    """All or nothing: a process that dies here leaves a file without tables."""
    with transaction(cursor):
        cursor.execute("CREATE TABLE about (name VARCHAR, value VARCHAR)")
        for mark in kind.marks.items():
            cursor.execute("INSERT INTO about VALUES ($1, $2)", mark)
        create_tables(cursor, kind.tables)
        for statement in kind.then:
            cursor.execute(statement)
        insert_positions(cursor, kind.partitions)
    cursor.execute("CHECKPOINT")


def detach(connection: duckdb.DuckDBPyConnection, alias: str) -> None:
    """Detach a database; no cursor may use it any more."""
    connection.execute(f"DETACH {alias}")


def is_held(path: Path) -> bool:
    """Does somebody have the file open? By the lock that DuckDB takes on it."""
    with _open_files_lock:  # in this process it would say no, and closing a second descriptor would drop the lock
        if path.resolve() in _open_files:
            return True
        try:
            with path.open("r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def forget(path: Path) -> None:
    """The file is not open in this process any more."""
    with _open_files_lock:
        _open_files.discard(path.resolve())


def move_aside(path: Path) -> None:
    """Keep the file (and its write-ahead log) beside the others, the newest few only. Raises :class:`StoreError`."""
    try:
        folder = path.parent / ASIDE
        folder.mkdir(exist_ok=True)
        name = f"{path.stem}.{time.time_ns()}{path.suffix}"
        for source, target in zip(_with_wal(path), _with_wal(folder / name), strict=True):
            if source.exists():
                source.replace(target)
        for old in sorted(folder.glob(f"{path.stem}.*{path.suffix}"))[:-KEPT_ASIDE]:
            delete(old)
    except OSError as error:
        raise StoreError(f"{path} cannot be moved aside: {error}. Remove it by hand") from error


def delete(path: Path) -> None:
    """Delete a file and its write-ahead log."""
    for part in _with_wal(path):
        part.unlink(missing_ok=True)


def what_is_done(away: Away) -> str:
    """To a file that cannot be used, in words."""
    return "moved aside" if away is move_aside else "removed"


def _with_wal(path: Path) -> Iterable[Path]:
    """The write-ahead log first: alone, it would be taken for that of whatever comes to the file's place."""
    return wal_of(path), path


def wal_of(path: Path) -> Path:
    """Where DuckDB keeps the file's write-ahead log."""
    return path.with_name(f"{path.name}.wal")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def checkpoint_pays(path: Path) -> bool:
    """Has the file's write-ahead log become long enough to be folded into it?"""
    wal = wal_of(path)
    if not wal.exists():
        return False
    wanted = path.stat().st_size * _CHECKPOINT_WAL_OF_FILE
    return wal.stat().st_size > min(max(wanted, _MIN_CHECKPOINT_WAL_BYTES), _MAX_CHECKPOINT_WAL_BYTES)
