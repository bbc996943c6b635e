"""The files of workers' stores: their names, what is in them, and those that nobody needs any more."""

import re
from pathlib import Path

from turnlog_streams.folding.rows import ENCODING, STORE_TABLES
from turnlog_workers.base.process_lives import process_lives
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind

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
