"""Publishing a DuckDB file for readers: a copy of its checkpointed state, moved into place at once.

DuckDB lets nobody else open a file that is being written. Between checkpoints the main file does not change (new
commits go to the write-ahead log), so copying it alone gives exactly the state of the last checkpoint. That is not a
promise of DuckDB's, so every copy is opened and its checkpoints are compared before anybody sees it.

The file to copy arrives open and stays open: POSIX gives up a process's lock on a file as soon as *any* descriptor of
it is closed in that process, and then a second writer could open the live file.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import duckdb

from streams.reader_rule import LogPosition
from workers.duck import read_positions

_CHUNK_BYTES = 8 * 1024 * 1024


class SnapshotError(RuntimeError):
    """A snapshot could not be published; the one before it is still there."""


def publish(source: BinaryIO, target: Path, positions: Mapping[int, LogPosition]) -> None:
    """Copy a checkpointed file that is not checkpointed meanwhile; ``positions`` are what it must hold.

    Readers that have the old snapshot open keep it. Raises :class:`SnapshotError`.
    """
    copy = target.with_name(f"{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.seek(0)
        with copy.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK_BYTES)
        _check(copy, positions)
        os.replace(copy, target)
    except (OSError, duckdb.Error) as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            copy.unlink()
        raise SnapshotError(
            f"the snapshot {target} was not published: {type(error).__name__}: {error}. "
            "Check the free disk space and the rights of its folder"
        ) from error


def _check(copy: Path, positions: Mapping[int, LogPosition]) -> None:
    connection = duckdb.connect(str(copy), read_only=True, config={"threads": 1})
    try:
        found = read_positions(connection)
    finally:
        connection.close()
    if found != dict(positions):
        copy.unlink()
        raise SnapshotError(f"{copy} holds another state than the file that it was copied from: not published")
