"""What is exported: the tables of a snapshot, which of their rows are new, and the types that other readers get.

Rows of the log (messages, usage, events …) are written once, so an offset says which are new. Rows of a state
(sessions, turns, tool calls …) change: whoever has copied them replaces those that are different.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb

from turnlog.errors import TurnlogError
from turnlog.snapshot.sql import make_scratch
from turnlog_streams.projection.rows import EVENTS, FORWARDS, PROJECTION_VERSION, TABLES
from turnlog_streams.table_types import PARTITIONS, Table

Form = Literal["parquet", "jsonl"]
_MOMENTS = ("recorded_at", "created_at", "accepted_at", "opened_at")
MEMORY_MB = 1024
VERSION = PROJECTION_VERSION

#: The tables that are exported; those about delivery and progress are nobody's data.
EXPORTED: tuple[Table, ...] = tuple(table for table in TABLES if table not in (FORWARDS, PARTITIONS))


class SnapshotIsOlderError(TurnlogError):
    """The snapshot ends before what was exported: it is being rebuilt, or is another log's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export did."""

    rows: int  #: written, those of replaced files included
    files: int  #: written; of a lake: its tables that changed
    positions: dict[int, int]  #: by partition: the next log offset to export

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"rows": self.rows, "files": self.files, "positions": self.positions}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An open snapshot: one state of it, however long the export takes."""

    connection: duckdb.DuckDBPyConnection
    positions: Mapping[int, int]  #: by partition: the log offset behind the newest row

    def columns(self, table: Table) -> dict[str, str]:
        """Names and SQL types, as the snapshot has them."""
        described = self.connection.execute(f"DESCRIBE {name_of(table)}").fetchall()
        return {str(row[0]): str(row[1]) for row in described}


def name_of(table: Table) -> str:
    """The table's whole name, whatever else is attached."""
    return f"snapshot.{table.place}" if table.schema else f"snapshot.main.{table.name}"


def of_the_log(table: Table) -> bool:
    """Are its rows written once, each at its log offset?"""
    names = {column.name for column in table.columns}
    return "log_offset" in names and not (table.updated or table.rarely_updated or table.not_of_the_log)


def day_of(table: Table) -> str:
    """SQL for the day (UTC) that a row belongs to; it never changes."""
    names = {column.name for column in table.columns}
    moment = next(name for name in _MOMENTS if name in names)
    return f"CAST({moment} AS DATE)"


def identity(table: Table) -> str:
    """SQL for the table's key, which is also the order of rows."""
    return ", ".join(table.key)


@contextmanager
def open_source(snapshot: Path) -> Iterator[Source]:
    """The newest snapshot, beside which files and catalogs may be written. Raises :class:`TurnlogError`."""
    scratch = make_scratch()
    connection = duckdb.connect(
        ":memory:",
        config={
            "temp_directory": str(scratch.path),
            "memory_limit": f"{MEMORY_MB}MB",
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
        },
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        try:
            connection.execute(f"ATTACH {literal(snapshot)} AS snapshot (READ_ONLY)")
            rows = connection.execute("SELECT partition, next_offset FROM snapshot.main.partitions").fetchall()
        except duckdb.Error as error:
            raise TurnlogError(f"The snapshot {snapshot} cannot be read: {error}") from error
        yield Source(connection=connection, positions=dict(rows))
    finally:
        connection.close()
        scratch.remove()


def literal(value: object) -> str:
    """SQL for a text."""
    return "'" + str(value).replace("'", "''") + "'"


def set_exported(source: Source, exported: Mapping[int, int], where: str) -> None:
    """Say how far ``where`` has the log; :func:`is_new` looks at it. Raises :class:`SnapshotIsOlderError`."""
    for partition, offset in exported.items():
        if source.positions.get(partition, 0) < offset:
            raise SnapshotIsOlderError(
                f"{where} has partition {partition} up to offset {offset}, the snapshot only up to "
                f"{source.positions.get(partition, 0)}: it is being rebuilt (try again later), or is of another log "
                "(export that one to another place)"
            )
    source.connection.execute("CREATE OR REPLACE TEMP TABLE exported (partition BIGINT, next_offset BIGINT)")
    for partition, offset in exported.items():
        source.connection.execute("INSERT INTO exported VALUES (?, ?)", [partition, offset])


def is_new(offset: str) -> str:
    """SQL: is the row's ``offset`` column behind what was exported of its partition?"""
    return (
        f"{offset} >= coalesce((SELECT next_offset FROM temp.exported "
        f"WHERE temp.exported.partition = rows.partition), 0)"
    )


def were_erased(source: Source) -> bool:
    """Was a session erased behind what was exported, or did its channel hear of it?"""
    found = source.connection.execute(
        f"SELECT count(*) FROM {name_of(EVENTS)} AS rows "
        f"WHERE type IN ('SessionErased', 'ChannelSessionErased') AND {is_new('rows.log_offset')}"
    ).fetchone()
    return bool(found and found[0])


def as_written(columns: Mapping[str, str]) -> str:
    """SQL for the columns, in types from which every reader gets the same values."""
    return ", ".join(
        f'CAST(rows."{name}" AS VARCHAR) AS "{name}"' if kind == "JSON" else f'rows."{name}"'
        for name, kind in columns.items()
    )


def as_line(columns: Mapping[str, str]) -> str:
    """SQL for a row as a line of JSON. What is JSON in it stays as it is, digit by digit: DuckDB's own export reads its
    numbers and writes them anew."""
    members = [
        f"'{',' if number else ''}\"{name}\":'" + " || " + _member(f'rows."{name}"', kind)
        for number, (name, kind) in enumerate(columns.items())
    ]
    return " || ".join(["'{'", *members, "'}'"])


def _member(column: str, kind: str) -> str:
    if kind == "JSON":  # line ends can only be between its tokens
        text = f"replace(replace(CAST({column} AS VARCHAR), chr(10), ' '), chr(13), ' ')"
    elif kind == "BLOB":
        text = f"CAST(to_json(to_base64({column})) AS VARCHAR)"
    elif kind == "TIMESTAMP WITH TIME ZONE":
        text = f"CAST(to_json(strftime({column}, '%Y-%m-%dT%H:%M:%S.%f+00:00')) AS VARCHAR)"
    else:
        text = f"CAST(to_json({column}) AS VARCHAR)"
    return f"coalesce({text}, 'null')"
