"""The analysts' tables: made with comments, and written as the projection says."""

import inspect

import duckdb

from turnlog_streams.projection.history_row_types import COMPACTION_REQUESTS, COMPACTIONS
from turnlog_streams.projection.rows import (
    ATTEMPTS,
    CHANNEL_EVENTS,
    CHANNELS,
    DEAD_LETTERS,
    EVENTS,
    FORWARDS,
    HIDDEN_TURNS,
    MESSAGES,
    REFUSALS,
    SESSIONS,
    TABLES,
    TOOL_CALLS,
    TURNS,
    UNKNOWN_EVENTS,
    USAGE,
)
from turnlog_streams.projection.state import Changes
from turnlog_streams.table_types import MOMENT
from turnlog_workers.store.tables import create_tables, insert, quoted, update

_MOMENT_COMMENT = (
    "A moment, stored as UTC: the same for every reader, whatever their zone. It is shown, and cut to days, in the "
    "connection's time zone (SET TimeZone = 'UTC'). From a worker's clock: order by log_offset, not by this."
)


def create_analysts_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """All of them, empty, with their comments."""
    create_tables(connection, TABLES)
    for statement in comments():
        connection.execute(statement)


def comments() -> list[str]:
    """Statements for what analysts find with ``SELECT comment FROM duckdb_columns()``, in any tool."""
    statements = []
    for table in TABLES:
        about = inspect.cleandoc(table.row.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "")
        statements.append(f"COMMENT ON TABLE {table.name} IS '{quoted(about)}'")
        statements += [
            f"COMMENT ON COLUMN {table.name}.{column.name} IS '{quoted(_MOMENT_COMMENT)}'"
            for column in table.columns
            if column.sql_type == MOMENT
        ]
    return statements


def write_changes(connection: duckdb.DuckDBPyConnection, changes: Changes) -> None:
    """Apply what a batch changed, within the caller's transaction."""
    insert(connection, SESSIONS, changes.new_sessions.values())
    update(connection, SESSIONS, SESSIONS.updated, changes.changed_sessions.values())
    update(connection, SESSIONS, SESSIONS.rarely_updated, changes.changed_profiles.values())
    insert(connection, TURNS, changes.new_turns.values())
    update(connection, TURNS, TURNS.updated, changes.changed_turns.values())
    update(connection, TURNS, TURNS.rarely_updated, changes.cancelled_turns.values())
    update(connection, HIDDEN_TURNS, HIDDEN_TURNS.updated, changes.hidden_turns)
    insert(connection, ATTEMPTS, changes.attempts)
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
    insert(connection, USAGE, changes.usage)
    insert(connection, EVENTS, changes.events)
    insert(connection, CHANNELS, changes.new_channels.values())
    update(connection, CHANNELS, CHANNELS.updated, changes.changed_channels.values())
