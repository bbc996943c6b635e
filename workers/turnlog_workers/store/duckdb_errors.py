"""What DuckDB's errors mean: a full disk passes by itself, so nothing is moved aside; a damaged file does not."""

import errno
import os

import duckdb

from turnlog_workers.store.port import DamagedStoreError, NoRoomError, StoreError

_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAID = tuple(os.strerror(number) for number in _ERRNOS)  # DuckDB's errors have no number
_DAMAGED = ("Corrupt database file", "Could not read enough bytes")


def has_no_room(error: BaseException) -> bool:
    """Is it for want of room on the disk?"""
    if isinstance(error, OSError):
        return error.errno in _ERRNOS
    return isinstance(error, duckdb.Error) and any(said in str(error) for said in _SAID)


def store_error(where: object, error: duckdb.Error) -> StoreError:
    """What DuckDB says, with what can be done."""
    if has_no_room(error):
        return NoRoomError(
            f"{where}: the disk is full ({error}). Free disk space: a worker or materializer goes on by itself then"
        )
    kind = DamagedStoreError if any(said in str(error) for said in _DAMAGED) else StoreError
    return kind(
        f"{where}: {type(error).__name__}: {error}. Check the disk; what is deleted there comes back from the log"
    )
