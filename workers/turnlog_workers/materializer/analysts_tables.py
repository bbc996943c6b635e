"""The analysts' tables: made with comments, and written as the projection says."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from turnlog_streams.projection.attempt_row_type import ATTEMPTS
from turnlog_streams.projection.history_row_types import COMPACTION_REQUESTS, COMPACTIONS
from turnlog_streams.projection.rows import (
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
from turnlog_streams.projection.values import raw_columns
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.table_types import MOMENT
from turnlog_workers.base.config import Settings
from turnlog_workers.materializer.erasing import erase_texts
from turnlog_workers.materializer.macros import MACROS
from turnlog_workers.materializer.prices import PRICES_TABLE, Price, read_prices, store_prices
from turnlog_workers.materializer.question_views import HISTORY, QUESTION_VIEWS, SEARCH
from turnlog_workers.materializer.row_views import DEFAULT_USER_KEY, row_views
from turnlog_workers.materializer.views import View, ensure_views
from turnlog_workers.store.tables import create_tables, insert, insert_columns, quoted, update

_MOMENT_COMMENT = (
    "A moment, stored as UTC: the same for every reader, whatever their zone. It is shown, and cut to days, in the "
    "connection's time zone (SET TimeZone = 'UTC'). From a worker's clock: order by log_offset, not by this."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForReaders:
    """What a file has for its readers beside the log's rows."""

    prices: tuple[Price, ...] = ()
    user_key: str = DEFAULT_USER_KEY  #: of sessions' metadata: where it has the user's id


PLAIN = ForReaders()  #: no prices, and the usual key


def for_readers(settings: Settings) -> ForReaders:
    """As the settings say. Raises ``SettingsError``."""
    return ForReaders(prices=read_prices(settings.prices), user_key=settings.user_metadata_key)


def create_analysts_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """All of them, empty, with their comments."""
    create_tables(connection, TABLES)
    for statement in (*table_statements(), *view_statements()):
        connection.execute(statement)


def view_statements(user_key: str = DEFAULT_USER_KEY) -> list[str]:
    """All that makes the views, their comments and the search."""
    return [*(statement for view in all_views(user_key) for statement in view.statements()), SEARCH, HISTORY, *MACROS]


def all_views(user_key: str = DEFAULT_USER_KEY) -> tuple[View, ...]:
    """The public tables."""
    return (*row_views(user_key), *QUESTION_VIEWS)


def bring_up_to_date(connection: duckdb.DuckDBPyConnection, readers: ForReaders) -> None:
    """Views and prices of a file that ``connection`` uses, where they are others. Raises ``duckdb.Error``."""
    ensure_views(connection, view_statements(readers.user_key))
    store_prices(connection, readers.prices)


def table_statements() -> list[str]:
    """What there is beside the projection's tables, and comments on those: most readers want the views of them."""
    statements = [PRICES_TABLE]
    for table in TABLES:
        about = inspect.cleandoc(table.row.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "")
        statements.append(f"COMMENT ON TABLE {table.place} IS '{quoted(about)}'")
        statements += [
            f"COMMENT ON COLUMN {table.place}.{column.name} IS '{quoted(_MOMENT_COMMENT)}'"
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
    insert(connection, CHANNELS, changes.new_channels.values())
    update(connection, CHANNELS, CHANNELS.updated, changes.changed_channels.values())


def write_events(connection: duckdb.DuckDBPyConnection, events: Sequence[LoggedEvent]) -> None:
    """The events of a batch as they stand in the log, within the caller's transaction."""
    if events:
        insert_columns(connection, EVENTS, raw_columns(events))


def write_erasures(connection: duckdb.DuckDBPyConnection, changes: Changes) -> None:
    """What was erased, within the caller's transaction, once everything else of the batch is written."""
    if changes.erased_sessions or changes.erased_in_channels:
        erase_texts(connection, changes.erased_sessions, changes.erased_in_channels)
