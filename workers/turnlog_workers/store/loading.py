"""Reading rows back: what the projection needs to go on, and whole sessions for their owners."""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from turnlog_schemas.events import CHANNEL, SESSION
from turnlog_streams.projection.columns import MOMENT, Table
from turnlog_streams.projection.history_row_types import (
    COMPACTION_REQUESTS,
    COMPACTIONS,
    CompactionRequestRow,
    CompactionRow,
)
from turnlog_streams.projection.rehydration import (
    ChannelRows,
    LoadedChannel,
    LoadedSession,
    SessionRows,
    Unanswered,
    UnknownMark,
    channel_state,
    rehydrate,
    rehydrate_channel,
    unanswered_of_channel,
)
from turnlog_streams.projection.rows import (
    CHANNEL_EVENTS,
    FORWARDS,
    MESSAGES,
    REFUSALS,
    SESSIONS,
    TOOL_CALLS,
    TURNS,
    UNKNOWN_EVENTS,
    ChannelEventRow,
    ForwardRow,
    MessageRow,
    RefusalRow,
    SessionRow,
    ToolCallRow,
    TurnRow,
    UnknownEventRow,
)
from turnlog_streams.projection.state import OpenCall, OpenTurn, SessionState, State, StreamKey

log = logging.getLogger(__name__)
SessionNumber = tuple[int, int]  #: partition and session_offset
Name = tuple[int, str]  #: partition, and session id or channel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Which rows to select: those whose ``partition`` and one other column are among the keys."""

    column: str
    keys: Collection[tuple[int, Any]]
    lifetime: tuple[int, int] | None = None  #: log offsets that hold all of them: most of a big table is passed over


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
    for (partition, name), rows in _channel_rows(connection, channels).items() if channels else ():
        states[partition, CHANNEL, name] = channel_state(name, rows)
    return states


def _session_states(connection: duckdb.DuckDBPyConnection, names: set[Name]) -> dict[Name, SessionState]:
    states: dict[Name, SessionState] = {}
    by_number: dict[SessionNumber, SessionState] = {}
    for session in _sessions(connection, names):
        state = SessionState(row=session, unknown_events=session.unknown_events)
        states[session.partition, session.session_id] = state
        by_number[session.partition, session.session_offset] = state
    for name, marks in _unknown(connection, SESSION, names - states.keys()).items():
        states[name] = SessionState(unknown_events=len(marks))
    if by_number:
        sessions = [state.row for state in by_number.values() if state.row is not None]
        _load_open_turns(connection, _of_sessions(sessions), by_number)
    return states


def _load_open_turns(
    connection: duckdb.DuckDBPyConnection, wanted: _Wanted, states: Mapping[SessionNumber, SessionState]
) -> None:
    open_at: dict[tuple[int, int, int], OpenTurn] = {}  #: by the session's number and the turn's answer_seq
    for turn in _turns(connection, wanted, "ended_offset IS NULL"):
        number = (turn.partition, turn.session_offset)
        states[number].turns[turn.turn_id] = opened = OpenTurn(row=turn)
        if turn.answer_seq is not None:
            open_at[*number, turn.answer_seq] = opened
    if not open_at:
        return
    for call in _calls(connection, wanted, "result_message_seq IS NULL"):
        found = open_at.get((call.partition, call.session_offset, call.message_seq))
        if found is not None:
            found.calls.append(OpenCall(call.call_id, call.log_offset, call.position))


def load_sessions(
    connection: duckdb.DuckDBPyConnection, partition: int, session_ids: Collection[str]
) -> dict[str, LoadedSession]:
    """Whole sessions; those without any event are left out."""
    if not session_ids:
        return {}
    rows = {session_id: SessionRows() for session_id in session_ids}
    keys = {(partition, session_id) for session_id in rows}
    numbers: dict[SessionNumber, SessionRows] = {}
    for session in _sessions(connection, keys):
        found = rows[session.session_id]
        found.session = session
        numbers[partition, session.session_offset] = found
        if not session.unknown_events:
            keys.discard((partition, session.session_id))
    for (_, session_id), marks in _unknown(connection, SESSION, keys).items():
        rows[session_id].unknown = marks
    by_id = _Wanted(column="session_id", keys=[(partition, session_id) for session_id in rows])
    for values in _select(connection, REFUSALS, by_id, "true", "log_offset"):
        refusal = RefusalRow._make(values)
        rows[refusal.session_id].refusals.append(refusal)
    pending = "source_kind = 'session' AND delivered_offset IS NULL"
    for values in _select(connection, FORWARDS, _Wanted(column="source_id", keys=by_id.keys), pending, "log_offset"):
        forward = ForwardRow(**_named(FORWARDS, values))
        rows[forward.source_id].outbox.append(forward)
    if numbers:
        sessions = [found.session for found in numbers.values() if found.session is not None]
        _load_histories(connection, _of_sessions(sessions), numbers)
    loaded = {session_id: rehydrate(session_id, found) for session_id, found in rows.items()}
    return {session_id: session for session_id, session in loaded.items() if session is not None}


def _load_histories(
    connection: duckdb.DuckDBPyConnection, wanted: _Wanted, numbers: Mapping[SessionNumber, SessionRows]
) -> None:
    for turn in _turns(connection, wanted, "true"):
        numbers[turn.partition, turn.session_offset].turns.append(turn)
    for values in _select(connection, MESSAGES, wanted, "true", "log_offset"):
        message = MessageRow._make(values)
        numbers[message.partition, message.session_offset].messages.append(message)
    for call in _calls(connection, wanted, "true"):
        numbers[call.partition, call.session_offset].calls.append(call)
    for values in _select(connection, COMPACTION_REQUESTS, wanted, "true", "log_offset"):
        asked = CompactionRequestRow._make(values)
        numbers[asked.partition, asked.session_offset].history_compaction_requests.append(asked)
    for values in _select(connection, COMPACTIONS, wanted, "true", "log_offset"):
        run = CompactionRow._make(values)
        numbers[run.partition, run.session_offset].history_compactions.append(run)


def load_channels(
    connection: duckdb.DuckDBPyConnection, partition: int, channels: Collection[str]
) -> dict[str, LoadedChannel]:
    """Whole channels; those without any event are left out."""
    if not channels:
        return {}
    found = _channel_rows(connection, {(partition, channel) for channel in channels})
    loaded = {channel: rehydrate_channel(channel, rows) for (_, channel), rows in found.items()}
    return {name: channel for name, channel in loaded.items() if channel is not None}


def _channel_rows(connection: duckdb.DuckDBPyConnection, names: Collection[Name]) -> dict[Name, ChannelRows]:
    found: dict[Name, ChannelRows] = {}
    wanted = _Wanted(column="channel", keys=names)
    for values in _select(connection, CHANNEL_EVENTS, wanted, "true", "log_offset"):
        event = ChannelEventRow._make(values)
        found.setdefault((event.partition, event.channel), ChannelRows()).events.append(event)
    for name, marks in _unknown(connection, CHANNEL, names).items():
        found.setdefault(name, ChannelRows()).unknown = marks
    return found


def unfinished(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Sessions with open turns, owed history compactions or pending forwards, the longest waiting first."""
    rows = connection.execute(
        "SELECT session_id FROM ("
        "SELECT session_id, accepted_offset AS log_offset FROM turns WHERE ended_offset IS NULL UNION ALL "
        "SELECT source_id, log_offset FROM forwards WHERE source_kind = 'session' AND delivered_offset IS NULL "
        "UNION ALL SELECT session_id, log_offset FROM compaction_requests "
        "ANTI JOIN compactions USING (session_id, request_id)"
        ") GROUP BY session_id ORDER BY min(log_offset)"
    ).fetchall()
    return [session_id for (session_id,) in rows]


def unfinished_channels(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Channels with pending forwards, the one that waits longest first."""
    rows = connection.execute(
        "SELECT source_id FROM forwards WHERE source_kind = 'channel' AND delivered_offset IS NULL "
        "GROUP BY source_id ORDER BY min(log_offset)"
    ).fetchall()
    return [channel for (channel,) in rows]


def unanswered(connection: duckdb.DuckDBPyConnection, partition: int, replied: int) -> list[Unanswered]:
    """Decided requests whose answer follows from an event above an offset, in log order."""
    rows = connection.execute(
        "SELECT session_id, request_id, command_hash, log_offset FROM ("
        "SELECT session_id, request_id, command_hash, ended_offset AS log_offset, 0 AS place FROM turns UNION ALL "
        "SELECT session_id, by_request_id, by_command_hash, ended_offset, 1 FROM turns "
        "WHERE by_request_id IS NOT NULL UNION ALL "
        "SELECT session_id, request_id, command_hash, log_offset, 0 FROM refusals UNION ALL "
        "SELECT session_id, request_id, a.command_hash, r.log_offset, 0 "
        "FROM compaction_requests a JOIN compactions r USING (session_id, request_id)"
        ") WHERE log_offset > $1 ORDER BY log_offset, place",
        [replied],
    ).fetchall()
    found = [Unanswered(*row) for row in rows]
    channels = connection.execute(
        "SELECT DISTINCT channel FROM channel_events WHERE log_offset > $1", [replied]
    ).fetchall()
    if channels:
        names = {(partition, channel) for (channel,) in channels}
        for (_, channel), channel_rows in _channel_rows(connection, names).items():
            try:
                found += unanswered_of_channel(channel, channel_rows, replied)
            except Exception as error:  # its own problem: it is set aside when it is loaded
                log.error("channel %s: its answers cannot be found (%s)", channel, type(error).__name__)
        found.sort(key=lambda waiting: waiting.log_offset)
    return found


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


def _unknown(connection: duckdb.DuckDBPyConnection, kind: str, keys: Collection[Name]) -> dict[Name, list[UnknownMark]]:
    if not keys:
        return {}
    found: dict[Name, list[UnknownMark]] = {}
    wanted = _Wanted(column="stream_id", keys=keys)
    for values in _select(connection, UNKNOWN_EVENTS, wanted, f"stream_kind = '{kind}'", "log_offset"):
        event = UnknownEventRow._make(values)
        marks = found.setdefault((event.partition, event.stream_id), [])
        marks.append(UnknownMark(event.log_offset, event.stream_version))
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
    select = f"SELECT {columns} FROM {table.name} t"
    if wanted.lifetime is not None:
        condition = f"{condition} AND t.{table.key[1]} BETWEEN {wanted.lifetime[0]} AND {wanted.lifetime[1]}"
    if len(wanted.keys) == 1:  # a comparison with a constant can use the index and the zone maps
        (key,) = wanted.keys
        statement = f"{select} WHERE t.partition = $1 AND t.{wanted.column} = $2 AND {condition} ORDER BY {order}"
        return connection.execute(statement, list(key)).fetchall()
    matching = f"{select} SEMI JOIN batch USING (partition, {wanted.column}) WHERE {condition} ORDER BY {order}"
    partitions, values = zip(*wanted.keys, strict=True)
    return _with_batch(connection, matching, pa.table({"partition": partitions, wanted.column: values}))


def _with_batch(connection: duckdb.DuckDBPyConnection, statement: str, batch: Any) -> list[tuple[Any, ...]]:
    """DuckDB finds ``batch`` by its name, as in ``store.tables``."""
    return connection.execute(statement).fetchall()
