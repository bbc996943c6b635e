"""DuckDB tables of the materialization: definition, bulk writes as Arrow tables, hashes.

Every function works on the connection's current database. Only built-in DuckDB features are used.
"""

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import duckdb
import pyarrow as pa

from turnlog_streams.projection.columns import MOMENT, Column, Table
from turnlog_streams.projection.history_row_types import COMPACTION_REQUESTS, COMPACTIONS
from turnlog_streams.projection.rows import (
    CHANNEL_EVENTS,
    CHANNELS,
    DEAD_LETTERS,
    EVENTS,
    FORWARDS,
    MESSAGES,
    PARTITIONS,
    REFUSALS,
    SESSIONS,
    TABLES,
    TOOL_CALLS,
    TURNS,
    UNKNOWN_EVENTS,
    USAGE,
    PartitionRow,
)
from turnlog_streams.projection.state import Changes
from turnlog_streams.reader_rule import LogPosition

_ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    MOMENT: pa.timestamp("ms", tz="UTC"),
    "JSON": pa.string(),
    "BLOB": pa.binary(),
}
_MOMENT_COMMENT = (
    "A moment, stored as UTC: the same for every reader, whatever their zone. It is shown, and cut to days, in the "
    "connection's time zone (SET TimeZone = 'UTC'). From a worker's clock: order by log_offset, not by this."
)
_POSITION_FIELDS = tuple(field.name for field in fields(LogPosition))
#: Not a function of the event log: the dead letters' bytes come from a topic that forgets.
NOT_HASHED = {DEAD_LETTERS.name: ("bytes",)}


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


def tables_of(*, analysts: bool) -> tuple[Table, ...]:
    """The tables of a kind of file."""
    return tuple(table for table in TABLES if analysts or not table.analysts_only)


def create_tables(connection: duckdb.DuckDBPyConnection, *, analysts: bool) -> None:
    """All tables, empty. The worker's file also gets an index: it loads cold sessions by the thousand."""
    for table in tables_of(analysts=analysts):
        columns = ", ".join(_definition(column) for column in table.columns)
        connection.execute(f"CREATE TABLE {table.name} ({columns})")
    if analysts:
        _comment(connection)
    else:
        # Messages are only ever inserted: none of the traps of changing an indexed row within a transaction.
        connection.execute("CREATE INDEX messages_of_session ON messages (session_offset)")


def _comment(connection: duckdb.DuckDBPyConnection) -> None:
    """What analysts find with ``SELECT comment FROM duckdb_columns()`` (or ``duckdb_tables()``), in any tool."""
    for table in TABLES:
        about = inspect.cleandoc(table.row.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "")
        connection.execute(f"COMMENT ON TABLE {table.name} IS '{quoted(about)}'")
        for column in table.columns:
            if column.sql_type == MOMENT:
                connection.execute(f"COMMENT ON COLUMN {table.name}.{column.name} IS '{quoted(_MOMENT_COMMENT)}'")


def quoted(text: object) -> str:
    """For a text between single quotes in a statement that takes no parameters."""
    return str(text).replace("'", "''")


def _definition(column: Column) -> str:
    return f"{column.name} {column.sql_type}{'' if column.nullable else ' NOT NULL'}"


def arrow_table(columns: Iterable[Column], rows: Collection[Any]) -> Any:
    """Rows (objects with the columns as attributes) as an Arrow table."""
    columns = tuple(columns)
    values = zip(*map(_getter(tuple(column.name for column in columns)), rows), strict=True)
    arrays = [
        pa.array(column_values, _ARROW_TYPES[column.sql_type])
        for column, column_values in zip(columns, values, strict=True)
    ]
    return pa.Table.from_arrays(arrays, names=[column.name for column in columns])


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda row: (only(row),)
    return attrgetter(*names)


def insert(connection: duckdb.DuckDBPyConnection, table: Table, rows: Collection[Any]) -> None:
    """Insert rows in bulk."""
    if rows:
        _with_batch(connection, arrow_table(table.columns, rows), f"INSERT INTO {table.name} SELECT * FROM batch")


def update(connection: duckdb.DuckDBPyConnection, table: Table, names: Sequence[str], rows: Collection[Any]) -> None:
    """Set the named columns of rows that are there, found by their key."""
    if rows:
        wanted = set(table.key) | set(names)
        batch = arrow_table((column for column in table.columns if column.name in wanted), rows)
        settings = ", ".join(f"{name} = batch.{name}" for name in names)
        found = " AND ".join(f"{table.name}.{name} = batch.{name}" for name in table.key)
        _with_batch(connection, batch, f"UPDATE {table.name} SET {settings} FROM batch WHERE {found}")


def _with_batch(connection: duckdb.DuckDBPyConnection, batch: Any, statement: str) -> None:
    """DuckDB finds the local variable ``batch`` by its name; a registered view would cost more than the statement."""
    connection.execute(statement)


def write_changes(connection: duckdb.DuckDBPyConnection, changes: Changes, *, analysts: bool) -> None:
    """Apply what a batch changed, within the caller's transaction."""
    insert(connection, SESSIONS, changes.new_sessions.values())
    update(connection, SESSIONS, SESSIONS.updated, changes.changed_sessions.values())
    update(connection, SESSIONS, SESSIONS.rarely_updated, changes.changed_profiles.values())
    insert(connection, TURNS, changes.new_turns.values())
    update(connection, TURNS, TURNS.updated, changes.changed_turns.values())
    update(connection, TURNS, TURNS.rarely_updated, changes.cancelled_turns.values())
    insert(connection, MESSAGES, changes.messages)
    insert(connection, TOOL_CALLS, changes.new_calls.values())
    update(connection, TOOL_CALLS, TOOL_CALLS.updated, changes.call_results)
    insert(connection, REFUSALS, changes.refusals)
    insert(connection, UNKNOWN_EVENTS, changes.unknown_events)
    insert(connection, DEAD_LETTERS, changes.dead_letters)
    insert(connection, FORWARDS, changes.new_forwards.values())
    update(connection, FORWARDS, FORWARDS.updated, changes.deliveries)
    insert(connection, CHANNEL_EVENTS, changes.channel_events)
    insert(connection, COMPACTION_REQUESTS, changes.history_compaction_requests)
    insert(connection, COMPACTIONS, changes.history_compactions)
    if analysts:
        insert(connection, USAGE, changes.usage)
        insert(connection, EVENTS, changes.events)
        insert(connection, CHANNELS, changes.new_channels.values())
        update(connection, CHANNELS, CHANNELS.updated, changes.changed_channels.values())


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


def table_hashes(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """A hash of each table's rows in key order: equal for equal log prefixes, however they came about."""
    there = {
        name
        for (name,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"
        ).fetchall()
    }
    return {table.name: _table_hash(connection, table) for table in TABLES if table.name in there}


def _table_hash(connection: duckdb.DuckDBPyConnection, table: Table) -> str:
    key = ", ".join(table.key)
    left_out = NOT_HASHED.get(table.name, ())
    # A moment's text depends on the connection's time zone.
    columns = ", ".join(
        f"epoch_ms({column.name}) AS {column.name}" if column.sql_type == MOMENT else column.name
        for column in table.columns
        if column.name not in left_out
    )
    # JSON text tells NULL from the empty text, and one column from the next.
    row = connection.execute(
        f"SELECT count(*), md5(coalesce(string_agg(md5(to_json(r)::VARCHAR), '' ORDER BY {key}), '')) "
        f"FROM (SELECT {columns} FROM {table.name}) r"
    ).fetchone()
    assert row is not None
    return f"{row[0]}:{row[1]}"
