"""The files of workers' stores: their names, what is in them, and those that nobody needs any more."""

import re
from collections.abc import Mapping
from pathlib import Path

from turnlog_streams.folding.rows import ENCODING, STORE_TABLES
from turnlog_workers.base.process_lives import process_lives
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind
from turnlog_workers.store.port import StoreError
from turnlog_workers.store.renewal import mark, mark_of

_OF_PARTITION = re.compile(r"p(\d+)\..*duckdb")
#: A file that was written last so shortly behind an erasure's mark may be one of before it: clocks differ, and the
#: mark is made before the event.
_AROUND_MS = 3_600_000
_OF_PROCESS = re.compile(r"p\d+\.[^.]+\.(\d+)(-\d+)?\.duckdb")
# Until a checkpoint, each column of each table has whole blocks in memory, however few its rows. A worker has a dozen
# files: with the default of 256 KiB that was 600 MB for 20,000 sessions, with the smallest 150 MB, and less on disk.
_BLOCK_BYTES = 16 * 1024
#: Cold streams are loaded by the thousand, and one row is found in as much time in a stream of any size.
_INDEXES = (
    "CREATE INDEX streams_by_id ON streams (stream_id)",
    "CREATE INDEX answers_by_slot ON answers (slot)",
    "CREATE INDEX marks_by_slot ON marks (slot)",
    "CREATE INDEX channel_sessions_by_slot ON channel_sessions (slot)",
)


def store_kind(deployment: str, partition: int) -> FileKind:
    """The file of a partition."""
    return FileKind(
        deployment=deployment,
        rows=ENCODING,
        tables=STORE_TABLES,
        partitions=(partition,),
        block_bytes=_BLOCK_BYTES,
        then=_INDEXES,
    )


def file_name(partition: int, owner: str = "") -> str:
    """Of a partition's file. It tells the encoding: what another build reads and writes is another file."""
    return f"{alias_of(partition)}.{ENCODING}{owner}.duckdb"


def alias_of(partition: int) -> str:
    """What DuckDB knows a partition's database as."""
    return f"p{partition:04d}"


def delete_left_over(folder: Path, partition: int) -> None:
    """Files of processes that had to use one of their own, and are gone."""
    for file in folder.glob(file_name(partition, ".*")):
        match = _OF_PROCESS.fullmatch(file.name)
        if match and not process_lives(int(match[1])):
            database_files.delete(file)


def take_place(made: Path, file: Path, *, renew: bool) -> None:
    """A file that was made elsewhere takes the place of one that nobody has open. Raises :class:`StoreError`.

    ``renew``: its free blocks have what was erased; whoever opens it writes it anew.
    """
    if renew:
        mark(file)
    try:
        database_files.delete(file)
        made.replace(file)
    except OSError as error:
        raise StoreError(f"{file} cannot be replaced: {error}. Check the disk and the rights of its folder") from error


def _files(folder: Path) -> list[tuple[int, Path]]:
    """All of them, those that were moved aside, too, with their partitions."""
    found = []
    for path in [*folder.glob("p*.duckdb"), *(folder / database_files.ASIDE).glob("p*.duckdb")]:
        match = _OF_PARTITION.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return found


def partitions_of_files(folder: Path) -> list[int]:
    """Of which partitions there are files, whoever owns them."""
    return sorted({partition for partition, _ in _files(folder)})


def delete_outworn(folder: Path, erased_ms: Mapping[int, int]) -> list[Path]:
    """Delete what nobody has open and was written last before its partition's newest erasure; tells what is gone.

    It comes back from the log. Raises ``OSError``.
    """
    gone = []
    for partition, path in _files(folder):
        if partition not in erased_ms or database_files.is_held(path):
            continue
        if path.stat().st_mtime * 1000 < erased_ms[partition] + _AROUND_MS or mark_of(path).exists():
            database_files.delete(path)
            mark_of(path).unlink(missing_ok=True)
            gone.append(path)
    return gone
