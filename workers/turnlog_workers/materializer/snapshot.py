"""Publishing a DuckDB file for readers: a copy of its checkpointed state, moved into place at once.

DuckDB lets nobody else open a file that is being written. Between checkpoints the main file does not change (new
commits go to the write-ahead log), so copying it alone gives exactly the state of the last checkpoint. That is not a
promise of DuckDB's, so every copy is opened and its checkpoints are compared before anybody sees it.

The file to copy arrives open and stays open: POSIX gives up a process's lock on a file as soon as *any* descriptor of
it is closed in that process, and then a second writer could open the live file.

Readers put things beside a snapshot: ``snapshot.duckdb.tmp`` is the folder of one that ran out of memory, and
``snapshot.duckdb.wal`` the changes of one that opened it for writing. So a copy has a name that DuckDB never takes.
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import duckdb

from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.store.database_files import wal_of
from turnlog_workers.store.tables import read_positions

log = logging.getLogger(__name__)

_CHUNK_BYTES = 8 * 1024 * 1024
_SUFFIX = ".publishing"
_READ_ONLY_MODE = 0o444
_OURS = f"{os.getpid()}-{secrets.token_hex(4)}"  # process ids repeat: in other containers, and in time
_UNUSED_AFTER_S = 3600.0  # of a half copy, where files cannot be locked
_DUCKDB_MAGIC = slice(8, 12), b"DUCK"  # https://duckdb.org/docs/stable/internals/storage

Mark = tuple[int, int, int, int]  #: what tells a published file from any other at its place


class SnapshotError(RuntimeError):
    """A snapshot could not be published; the one before it is still there."""


def publish(source: BinaryIO, target: Path, positions: Mapping[int, LogPosition]) -> Mark:
    """Copy a checkpointed file that is not checkpointed meanwhile; ``positions`` are what it must hold.

    Readers that have the old snapshot open keep it. Nobody is meant to write to a snapshot: its mode says so, and
    what somebody wrote all the same goes. Raises :class:`SnapshotError` with what to do.
    """
    try:
        if target.is_dir():
            raise SnapshotError(
                f"the snapshot {target} was not published: there is a folder of that name. Remove it, or set "
                "TURNLOG_SNAPSHOT_PATH"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        with _copy(source, target) as copy:
            _check(copy, positions)
            copy.chmod(_READ_ONLY_MODE)
            _remove_wal(target)
            os.replace(copy, target)
        mark = mark_of(target)
    except SnapshotError:
        raise
    except Exception as error:  # whatever it is: the next try may do better, and the process has more to do than this
        raise SnapshotError(
            f"the snapshot {target} was not published: {type(error).__name__}: {error}. {_advice(error)}"
        ) from error
    if mark is None:
        raise SnapshotError(f"the snapshot {target} was published, and somebody took it away at once")
    return mark


def mark_of(target: Path) -> Mark | None:
    """Tells whether a file is the one that was published, untouched; ``None``: there is none."""
    try:
        found = target.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def is_untouched(target: Path, mark: Mark | None) -> bool:
    """Is the published file still at its place, and nothing beside it that readers would take for a part of it?"""
    return mark is not None and mark_of(target) == mark and not wal_of(target).exists()


def remove_leftovers(target: Path) -> None:
    """Remove half copies of the dead. One that is being written is locked; what readers leave has other names.

    What cannot be removed stays: it is in nobody's way.
    """
    prefix = _prefix(target)
    with contextlib.suppress(OSError):
        for path in list(target.parent.iterdir()):
            if path.name.startswith(prefix) and path.name.endswith(_SUFFIX):
                _remove_unless_in_use(path)
    # What an earlier version left. A folder of this name is a reader's.
    earlier = target.with_name(f"{target.name}.tmp")
    with contextlib.suppress(OSError):
        if earlier.is_file() and not earlier.is_symlink() and _is_database(earlier):
            earlier.unlink()


def _prefix(target: Path) -> str:
    return f".{target.name}."


@contextlib.contextmanager
def _copy(source: BinaryIO, target: Path) -> Iterator[Path]:
    """A copy beside the target under a name of its own, locked; away with it if it was not moved into place."""
    copy = target.with_name(f"{_prefix(target)}{_OURS}{_SUFFIX}")
    with copy.open("xb") as out:
        try:
            with contextlib.suppress(OSError):  # not every file system can
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            source.seek(0)
            shutil.copyfileobj(source, out, _CHUNK_BYTES)
            out.flush()
            yield copy
        finally:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                copy.unlink(missing_ok=True)


def _remove_unless_in_use(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # no locks here
            if time.time() - path.stat().st_mtime < _UNUSED_AFTER_S:
                return
        path.unlink()


def _is_database(path: Path) -> bool:
    place, magic = _DUCKDB_MAGIC
    with path.open("rb") as file:
        return file.read(place.stop)[place] == magic


def _remove_wal(target: Path) -> None:
    """A write-ahead log beside the old snapshot would be read into the new one: rows that no log ever had."""
    wal = wal_of(target)
    if wal.exists():
        log.warning(
            "%s: somebody opened the snapshot for writing; what they wrote is not kept. Open it read-only", target
        )
        wal.unlink(missing_ok=True)


def _check(copy: Path, positions: Mapping[int, LogPosition]) -> None:
    connection = duckdb.connect(str(copy), read_only=True, config={"threads": 1, "temp_directory": ""})
    try:
        found = read_positions(connection)
    finally:
        connection.close()
    if found != dict(positions):
        raise SnapshotError(f"{copy} holds another state than the file that it was copied from: not published")


def _advice(error: Exception) -> str:
    match getattr(error, "errno", None):
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return "Free disk space: a snapshot needs room for a second copy"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"Give this user the right to write to its folder {getattr(error, 'filename', '') or ''}".rstrip()
        case _:
            return "Check the free disk space and the rights of its folder"
