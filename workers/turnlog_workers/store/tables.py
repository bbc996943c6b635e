"""DuckDB tables: definition, bulk writes as Arrow arrays, checkpoints, hashes. For both kinds of file.

Every function works on the connection's current database. Only built-in DuckDB features are used.
"""

import contextlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import duckdb
import nanoarrow as na

from turnlog_streams.reader_rule import LogPosition
from turnlog_streams.table_types import MOMENT, PARTITIONS, Column, PartitionRow, Table

_ARROW_TYPES = {
    "VARCHAR": na.string(),
    "BIGINT": na.int64(),
    "BOOLEAN": na.bool_(),
    MOMENT: na.timestamp("ms", timezone="UTC"),
    "JSON": na.extension_type(na.string(), "arrow.json"),  # a plain text would be read to see whether it is JSON
    "BLOB": na.binary(),
}
_POSITION_FIELDS = tuple(field.name for field in fields(LogPosition))


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit what the block does, or roll it back and raise."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # the error that is raised may have ended the transaction itself
            connection.execute("ROLLBACK")
        raise


def create_tables(connection: duckdb.DuckDBPyConnection, tables: Iterable[Table]) -> None:
    """All of them, empty."""
    for table in tables:
        columns = ", ".join(_definition(column) for column in table.columns)
        if table.schema:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {table.schema}")
        connection.execute(f"CREATE TABLE {table.place} ({columns})")


def quoted(text: object) -> str:
    """For a text between single quotes in a statement that takes no parameters."""
    return str(text).replace("'", "''")


def _definition(column: Column) -> str:
    return f"{column.name} {column.sql_type}{'' if column.nullable else ' NOT NULL'}"


def arrow_rows(columns: Iterable[Column], rows: Collection[Any]) -> Any:
    """Rows (objects with the columns as attributes) as an Arrow array."""
    return arrow_columns((column.name, column.sql_type, list(map(attrgetter(column.name), rows))) for column in columns)


def arrow_columns(columns: Iterable[tuple[str, str, Collection[Any]]]) -> Any:
    """Columns (name, SQL type, values) of equal length as an Arrow array of their rows."""
    types, arrays = {}, []
    for name, sql_type, values in columns:
        types[name] = _ARROW_TYPES[sql_type]
        arrays.append(_array(sql_type, values))
    return na.c_array_from_buffers(na.struct(types), len(arrays[0]), [None], children=arrays)


def _array(sql_type: str, values: Collection[Any]) -> Any:
    if sql_type in ("BIGINT", MOMENT):
        with contextlib.suppress(TypeError):  # a NULL is among them
            return na.c_array_from_buffers(_ARROW_TYPES[sql_type], len(values), [None, array("q", values)])
    return na.c_array(values, na.string() if sql_type == "JSON" else _ARROW_TYPES[sql_type])


def insert(connection: duckdb.DuckDBPyConnection, table: Table, rows: Collection[Any]) -> None:
    """Insert rows in bulk: of a tuple type as it is, of any other by its attributes."""
    if not rows:
        return
    if issubclass(table.row, tuple):
        insert_columns(connection, table, zip(*rows, strict=True))
    else:
        with_batch(connection, arrow_rows(table.columns, rows), f"INSERT INTO {table.place} SELECT * FROM batch")


def insert_columns(connection: duckdb.DuckDBPyConnection, table: Table, columns: Iterable[Sequence[Any]]) -> None:
    """Insert rows that are there column by column, in the table's order."""
    named = zip(table.columns, columns, strict=True)
    batch = arrow_columns((column.name, column.sql_type, values) for column, values in named)
    with_batch(connection, batch, f"INSERT INTO {table.place} SELECT * FROM batch")


def update(connection: duckdb.DuckDBPyConnection, table: Table, names: Sequence[str], rows: Collection[Any]) -> None:
    """Set the named columns of rows that are there, found by their key."""
    if rows:
        wanted = set(table.key) | set(names)
        batch = arrow_rows((column for column in table.columns if column.name in wanted), rows)
        settings = ", ".join(f"{name} = batch.{name}" for name in names)
        found = " AND ".join(f"{table.name}.{name} = batch.{name}" for name in table.key)
        with_batch(connection, batch, f"UPDATE {table.place} SET {settings} FROM batch WHERE {found}")


def replace(connection: duckdb.DuckDBPyConnection, table: Table, rows: Collection[Any]) -> None:
    """Put rows in the place of those that have their keys, if there are any."""
    if rows:
        batch = arrow_rows(table.columns, rows)
        found = " AND ".join(f"{table.name}.{name} = batch.{name}" for name in table.key)
        with_batch(connection, batch, f"DELETE FROM {table.place} USING batch WHERE {found}")
        with_batch(connection, batch, f"INSERT INTO {table.place} SELECT * FROM batch")


def with_batch(connection: duckdb.DuckDBPyConnection, rows: Any, statement: str) -> duckdb.DuckDBPyConnection:
    """Run a statement that reads rows (of :func:`arrow_rows`) under the name ``batch``, once.

    DuckDB finds the local variable by its name; a registered view would cost more than the statement. What it gets is
    a bare Arrow stream, for which it needs no pyarrow: that takes 25 MB of memory, and ``pyarrow.dataset`` as much
    again (DuckDB 1.5).
    """
    batch = na.c_array_stream(rows).__arrow_c_stream__()  # noqa: F841 - the statement names it
    return connection.execute(statement)


def write_positions(connection: duckdb.DuckDBPyConnection, positions: Mapping[int, LogPosition]) -> None:
    """Set the checkpoints of partitions that have one."""
    update(connection, PARTITIONS, PARTITIONS.updated, [_position_row(*entry) for entry in positions.items()])


def insert_positions(connection: duckdb.DuckDBPyConnection, partitions: Iterable[int]) -> None:
    """Checkpoints at the log's beginning, for partitions that have none yet."""
    insert(connection, PARTITIONS, [_position_row(partition, LogPosition()) for partition in partitions])


def _position_row(partition: int, position: LogPosition) -> PartitionRow:
    return PartitionRow(partition, *(getattr(position, name) for name in _POSITION_FIELDS))


def read_positions(connection: duckdb.DuckDBPyConnection) -> dict[int, LogPosition]:
    """The checkpoint of every partition."""
    columns = ", ".join(_POSITION_FIELDS)
    rows = connection.execute(f"SELECT partition, {columns} FROM partitions ORDER BY partition").fetchall()
    return {row[0]: LogPosition(**dict(zip(_POSITION_FIELDS, row[1:], strict=True))) for row in rows}


def table_hashes(connection: duckdb.DuckDBPyConnection, tables: Iterable[Table]) -> dict[str, str]:
    """A hash of each table's rows in key order: equal for equal log prefixes, however they came about."""
    return {table.name: _table_hash(connection, table) for table in tables}


def _table_hash(connection: duckdb.DuckDBPyConnection, table: Table) -> str:
    key = ", ".join(table.key)
    # A moment's text depends on the connection's time zone.
    columns = ", ".join(
        f"epoch_ms({column.name}) AS {column.name}" if column.sql_type == MOMENT else column.name
        for column in table.columns
        if column.name not in table.not_of_the_log
    )
    # JSON text tells NULL from the empty text, and one column from the next.
    row = connection.execute(
        f"SELECT count(*), md5(coalesce(string_agg(md5(to_json(r)::VARCHAR), '' ORDER BY {key}), '')) "
        f"FROM (SELECT {columns} FROM {table.place}) r"
    ).fetchone()
    assert row is not None
    return f"{row[0]}:{row[1]}"
