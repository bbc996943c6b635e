"""The state of streams as the analysts' tables say: what the projection of their next events goes on from."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from turnlog_schemas.events import CHANNEL, SESSION
from turnlog_streams.projection.rows import (
    CHANNEL_EVENTS,
    CHANNELS,
    SESSIONS,
    TOOL_CALLS,
    TURNS,
    UNKNOWN_EVENTS,
    ChannelEventRow,
    ChannelRow,
    SessionRow,
    ToolCallRow,
    TurnRow,
    UnknownEventRow,
)
from turnlog_streams.projection.state import ChannelState, OpenCall, OpenTurn, SessionState, State, StreamKey
from turnlog_streams.table_types import MOMENT, Table
from turnlog_workers.store.tables import arrow_columns, with_batch

SessionNumber = tuple[int, int]  #: partition and session_offset
Name = tuple[int, str]  #: partition, and session id or channel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Which rows to select: those whose ``partition`` and one other column are among the keys."""

    column: str
    keys: Collection[tuple[int, Any]]
    lifetime: tuple[int, int] | None = None  #: log offsets that hold all of them: most of a big table is ignored


def _of_sessions(sessions: Collection[SessionRow]) -> _Wanted:
    """What belongs to these sessions (at least one)."""
    return _Wanted(
        column="session_offset",
        keys=[(session.partition, session.session_offset) for session in sessions],
        lifetime=(
            min(session.session_offset for session in sessions),
            max(session.last_offset for session in sessions),
        ),
    )


def load_states(connection: duckdb.DuckDBPyConnection, keys: Collection[StreamKey]) -> dict[StreamKey, State]:
    """The state of these streams for ``projection.project.project``; those without any event are left out."""
    sessions = {(partition, name) for partition, kind, name in keys if kind == SESSION}
    channels = {(partition, name) for partition, kind, name in keys if kind == CHANNEL}
    states: dict[StreamKey, State] = {}
    for (partition, name), state in _session_states(connection, sessions).items() if sessions else ():
        states[partition, SESSION, name] = state
    for (partition, name), channel in _channel_states(connection, channels).items() if channels else ():
        states[partition, CHANNEL, name] = channel
    return states


def _session_states(connection: duckdb.DuckDBPyConnection, names: set[Name]) -> dict[Name, SessionState]:
    states: dict[Name, SessionState] = {}
    by_number: dict[SessionNumber, SessionState] = {}
    for session in _sessions(connection, names):
        state = SessionState(row=session, unknown_events=session.unknown_events)
        states[session.partition, session.session_id] = state
        by_number[session.partition, session.session_offset] = state
    for name, unknown in _unknown(connection, SESSION, names - states.keys()).items():
        states[name] = SessionState(unknown_events=len(unknown))
    if by_number:
        sessions = [state.row for state in by_number.values() if state.row is not None]
        _load_open_turns(connection, _of_sessions(sessions), by_number)
    return states


def _load_open_turns(
    connection: duckdb.DuckDBPyConnection, wanted: _Wanted, states: Mapping[SessionNumber, SessionState]
) -> None:
    open_at: dict[tuple[int, int, int], list[OpenCall]] = {}  #: by the session's number and a message_seq
    for number, state in states.items():
        if state.row is not None and state.row.awaited_seq:
            open_at[*number, state.row.awaited_seq] = state.awaited
    for turn in _turns(connection, wanted, "ended_offset IS NULL"):
        number = (turn.partition, turn.session_offset)
        states[number].turns[turn.turn_id] = opened = OpenTurn(row=turn)
        if turn.answer_seq is not None:
            open_at[*number, turn.answer_seq] = opened.calls
    if not open_at:
        return
    for call in _calls(connection, wanted, "result_message_seq IS NULL"):
        found = open_at.get((call.partition, call.session_offset, call.message_seq))
        if found is not None and (call.client or call.turn_id in states[call.partition, call.session_offset].turns):
            found.append(_open_call(call))


def _open_call(call: ToolCallRow) -> OpenCall:
    return OpenCall(call.call_id, call.log_offset, call.position, call.client)


def _channel_states(connection: duckdb.DuckDBPyConnection, names: Collection[Name]) -> dict[Name, ChannelState]:
    """A channel's row says it all. One that never had a session has no row: some requests at most were decided."""
    states: dict[Name, ChannelState] = {}
    for values in _select(connection, CHANNELS, _Wanted(column="channel", keys=names), "true", "channel"):
        row = ChannelRow(**_named(CHANNELS, values))
        state = ChannelState(row=row, version=row.stream_version, unknown_events=row.unknown_events)
        states[row.partition, row.channel] = state
    without = [name for name in names if name not in states]
    if not without:
        return states
    for name, unknown in _unknown(connection, CHANNEL, without).items():
        states[name] = ChannelState(version=unknown[-1].stream_version, unknown_events=len(unknown))
    for values in _select(connection, CHANNEL_EVENTS, _Wanted(column="channel", keys=without), "true", "log_offset"):
        event = ChannelEventRow._make(values)
        state = states.setdefault((event.partition, event.channel), ChannelState())
        state.version = max(state.version, event.stream_version)
    return states


# ---- statements


def _sessions(connection: duckdb.DuckDBPyConnection, keys: Collection[Name]) -> Iterator[SessionRow]:
    wanted = _Wanted(column="session_id", keys=keys)
    for values in _select(connection, SESSIONS, wanted, "true", "session_offset"):
        yield SessionRow(**_named(SESSIONS, values))


def _turns(connection: duckdb.DuckDBPyConnection, wanted: _Wanted, condition: str) -> Iterator[TurnRow]:
    for values in _select(connection, TURNS, wanted, condition, "accepted_offset"):
        yield TurnRow(**_named(TURNS, values))


def _calls(connection: duckdb.DuckDBPyConnection, wanted: _Wanted, condition: str) -> Iterator[ToolCallRow]:
    for values in _select(connection, TOOL_CALLS, wanted, condition, "log_offset, position"):
        yield ToolCallRow(**_named(TOOL_CALLS, values))


def _unknown(
    connection: duckdb.DuckDBPyConnection, kind: str, keys: Collection[Name]
) -> dict[Name, list[UnknownEventRow]]:
    if not keys:
        return {}
    found: dict[Name, list[UnknownEventRow]] = {}
    wanted = _Wanted(column="stream_id", keys=keys)
    for values in _select(connection, UNKNOWN_EVENTS, wanted, f"stream_kind = '{kind}'", "log_offset"):
        event = UnknownEventRow._make(values)
        found.setdefault((event.partition, event.stream_id), []).append(event)
    return found


def _named(table: Table, values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip([column.name for column in table.columns], values, strict=True))


def _select(
    connection: duckdb.DuckDBPyConnection, table: Table, wanted: _Wanted, condition: str, order: str
) -> list[tuple[Any, ...]]:
    """Rows as tuples in the order of the table's columns, times in milliseconds."""
    columns = ", ".join(
        f"epoch_ms(t.{column.name})" if column.sql_type == MOMENT else f"t.{column.name}" for column in table.columns
    )
    select = f"SELECT {columns} FROM {table.place} t"
    if wanted.lifetime is not None:
        condition = f"{condition} AND t.{table.key[1]} BETWEEN {wanted.lifetime[0]} AND {wanted.lifetime[1]}"
    if len(wanted.keys) == 1:  # a comparison with a constant can use the index and the zone maps
        (key,) = wanted.keys
        statement = f"{select} WHERE t.partition = $1 AND t.{wanted.column} = $2 AND {condition} ORDER BY {order}"
        return connection.execute(statement, list(key)).fetchall()
    matching = f"{select} SEMI JOIN batch USING (partition, {wanted.column}) WHERE {condition} ORDER BY {order}"
    partitions, values = zip(*wanted.keys, strict=True)
    sql_type = next(column.sql_type for column in table.columns if column.name == wanted.column)
    batch = arrow_columns([("partition", "BIGINT", partitions), (wanted.column, sql_type, values)])
    return with_batch(connection, batch, matching).fetchall()
