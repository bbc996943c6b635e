"""The rows of folded streams in a worker's DuckDB file: written as batches of events lead to them, and read back."""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import duckdb

from turnlog_schemas.events import SESSION
from turnlog_streams.folding.canonical import decode
from turnlog_streams.folding.fold import (
    Folded,
    FoldedStream,
    StreamName,
    begun,
    channel_session,
    fold,
    folded,
    stored_message,
    touched,
    window,
)
from turnlog_streams.folding.rows import (
    ANSWERS,
    CHANNEL_SESSIONS,
    MARKS,
    MESSAGES,
    STREAMS,
    UNANSWERED,
    AnswerRow,
    ChannelSessionRow,
    MarkRow,
    StoredMessage,
    StreamRow,
    Unanswered,
    slot_of,
)
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.window import Window
from turnlog_streams.lookups import ChannelSession
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_streams.table_types import Table
from turnlog_streams.turn import Answer
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.store import tables
from turnlog_workers.store.port import FoundRows, LoadedStream, Saved, WantedRows

#: Names in one statement: an index finds each of them.
_NAMES = 200
_PAGE_CHARACTERS = 2 * 1024 * 1024  #: more than a frame takes
_FETCHED_TOGETHER = 50


class StreamWriter:
    """The one writer of a worker's file. Keeps the streams that it wrote last, to save reading them back."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, partition: int, *, max_cached_streams: int) -> None:
        """``connection`` uses the file as its current database."""
        self._connection = connection
        self._partition = partition
        self._max_cached_streams = max_cached_streams
        self._streams: OrderedDict[StreamName, FoldedStream] = OrderedDict()
        self.tolerant = False  #: of holes: the log itself has them
        self.position = tables.read_positions(connection)[partition]  #: committed

    def commit(self, events: Sequence[LoggedEvent], position: LogPosition) -> dict[StreamName, Saved]:
        """Write what accepted events, in log order, lead to, and where their reader stands behind them.

        Events below the checkpoint are ignored. Raises ``duckdb.Error`` or ``FoldError``.
        """
        start = self.position.next_offset
        if position.next_offset <= start:
            return {}
        events = [logged for logged in events if logged.offset >= start]
        try:
            saved = self._commit(events, position)
        except BaseException:
            self._streams.clear()  # the fold ran ahead of what is stored
            raise
        self.position = position
        while len(self._streams) > self._max_cached_streams:
            self._streams.popitem(last=False)
        return saved

    def forget(self, streams: Collection[StreamName] | None = None) -> None:
        """Drop streams that were kept, all of them if none are named; the next batch reads what it needs."""
        if streams is None:
            self._streams.clear()
            return
        for name in streams:
            self._streams.pop(name, None)

    def _commit(self, events: Sequence[LoggedEvent], position: LogPosition) -> dict[StreamName, Saved]:
        names = touched(events)
        for name in names & self._streams.keys():
            self._streams.move_to_end(name)
        self._streams.update(load_streams(self._connection, names - self._streams.keys() - begun(events)))
        made = fold(events, self._streams, replied=position.replied, tolerant=self.tolerant)
        with tables.transaction(self._connection):
            write_rows(self._connection, made, position.replied)
            crash_point("store.mid_commit")
            tables.write_positions(self._connection, {self._partition: position})
        return saved_of(made)


class _Archived(NamedTuple):
    stream_offset: int
    session_id: str
    archived: bool


def write_rows(connection: duckdb.DuckDBPyConnection, made: Folded, replied: int) -> None:
    """What a batch of events leads to, within the caller's transaction."""
    new: list[StreamRow] = []
    changed: list[StreamRow] = []
    for name, stream in made.touched.items():
        (new if name in made.begun else changed).append(stream.row())
    tables.insert(connection, STREAMS, new)
    tables.update(connection, STREAMS, STREAMS.updated, changed)
    for stream_offset, gone in made.erased.items():
        connection.execute("DELETE FROM answers WHERE stream_offset = $1", [stream_offset])
        connection.execute("DELETE FROM messages WHERE stream_offset = $1", [stream_offset])
        of_it, told = "kind = 'session' AND stream_id = $1", sorted(gone.answered)
        connection.execute(
            f"DELETE FROM unanswered WHERE {of_it} AND NOT list_contains($2, request_id)", [gone.session_id, told]
        )
        connection.execute(f"UPDATE unanswered SET command_hash = '' WHERE {of_it}", [gone.session_id])
    tables.insert(connection, ANSWERS, made.answers)
    tables.replace(connection, MARKS, made.marks.values())
    tables.insert(connection, CHANNEL_SESSIONS, made.channel_sessions.values())
    archived = [_Archived(*name, archived=True) for name in made.archived]
    tables.update(connection, CHANNEL_SESSIONS, ("archived",), archived)
    tables.replace(connection, CHANNEL_SESSIONS, made.erased_sessions.values())
    tables.insert(connection, MESSAGES, made.messages)
    connection.execute("DELETE FROM unanswered WHERE log_offset <= $1", [replied])
    tables.insert(connection, UNANSWERED, made.unanswered)


def load_streams(
    connection: duckdb.DuckDBPyConnection, names: Collection[StreamName]
) -> dict[StreamName, FoldedStream]:
    """Streams as of the checkpoint; those without any event are left out."""
    found: dict[StreamName, FoldedStream] = {}
    ids = sorted({stream_id for _, stream_id in names})
    for values in _select_in(connection, STREAMS, "stream_id", ids):
        row = StreamRow._make(values)
        if (row.kind, row.stream_id) in names:
            found[row.kind, row.stream_id] = folded(row)
    return found


def load_messages(
    connection: duckdb.DuckDBPyConnection, streams: Collection[FoldedStream]
) -> Mapping[int, list[HistoryMessage]]:
    """The messages of sessions that are held, by stream_offset."""
    found: dict[int, list[HistoryMessage]] = {stream.stream_offset: [] for stream in streams}
    windows = {stream.stream_offset: window(stream.state) for stream in streams}
    whole = sorted(stream_offset for stream_offset, held in windows.items() if held.is_whole)
    rows = _select_in(connection, MESSAGES, "stream_offset", whole)
    for stream_offset, held in windows.items():
        if not held.is_whole:
            rows += _select_window(connection, stream_offset, held)
    for row in map(StoredMessage._make, rows):
        message = stored_message(row)
        if windows[row.stream_offset].holds(message):
            found[row.stream_offset].append(message)
    return found


def load_whole(connection: duckdb.DuckDBPyConnection, names: Collection[StreamName]) -> dict[StreamName, LoadedStream]:
    """Streams with the messages that are held of them."""
    streams = load_streams(connection, set(names))
    histories = load_messages(connection, [stream for (kind, _), stream in streams.items() if kind == SESSION])
    return {
        name: LoadedStream(
            state=stream.state,
            history=histories.get(stream.stream_offset, []),
            stream_offset=stream.stream_offset,
            last_offset=stream.last_offset,
            unknown_events=stream.unknown_events,
        )
        for name, stream in streams.items()
    }


def _select_window(connection: duckdb.DuckDBPyConnection, stream_offset: int, held: Window) -> list[tuple[Any, ...]]:
    columns = ", ".join(StoredMessage._fields)
    return connection.execute(
        f"SELECT {columns} FROM messages WHERE stream_offset = $1 AND (message_seq < $2 OR message_seq > $3 OR "
        "message_seq >= $4 OR (message_seq >= $5 AND more IS NOT NULL)) ORDER BY message_seq",
        [stream_offset, held.from_seq, held.to_seq, held.question_seq, held.calls_from],
    ).fetchall()


def look_up(connection: duckdb.DuckDBPyConnection, wanted: Sequence[WantedRows]) -> list[FoundRows]:
    """Rows of streams, in the order in which they are wanted."""
    found = {rows.stream_offset: FoundRows() for rows in wanted}
    slots = [slot_of(rows.stream_offset, name) for rows in wanted for name in rows.answers]
    for values in _select_in(connection, ANSWERS, "slot", slots):
        answer = AnswerRow._make(values)
        found[answer.stream_offset].answers[answer.key] = decode(Answer, answer.answer)
    slots = [slot_of(rows.stream_offset, name) for rows in wanted for name in rows.marks]
    for values in _select_in(connection, MARKS, "slot", slots):
        mark = MarkRow._make(values)
        found[mark.stream_offset].marks[mark.source] = mark.seq
    slots = [slot_of(rows.stream_offset, name) for rows in wanted for name in rows.sessions]
    for values in _select_in(connection, CHANNEL_SESSIONS, "slot", slots):
        session = ChannelSessionRow._make(values)
        found[session.stream_offset].sessions[session.session_id] = channel_session(session)
    for rows in wanted:
        for after, limit, upto in rows.messages:
            found[rows.stream_offset].messages[after, limit] = _page(connection, rows.stream_offset, after, limit, upto)
        if rows.latest:
            found[rows.stream_offset].latest = _latest(connection, rows)
        for turn_id in rows.turns:
            found[rows.stream_offset].turns[turn_id] = _has_turn(connection, rows.stream_offset, turn_id)
    return [found[rows.stream_offset] for rows in wanted]


def _page(
    connection: duckdb.DuckDBPyConnection, stream_offset: int, after: int, limit: int, upto: int
) -> list[HistoryMessage]:
    """Messages in order; no more than so many characters of them, and one."""
    columns = ", ".join(StoredMessage._fields)
    rows = connection.execute(
        f"SELECT {columns} FROM messages WHERE stream_offset = $1 AND message_seq > $2 AND message_seq <= $3 "
        "ORDER BY message_seq LIMIT $4",
        [stream_offset, after, upto, limit],
    )
    page: list[HistoryMessage] = []
    characters = 0
    while characters < _PAGE_CHARACTERS and (some := rows.fetchmany(_FETCHED_TOGETHER)):
        for row in map(StoredMessage._make, some):
            characters += len(row.text or "") + len(row.more or "")
            page.append(stored_message(row))
    return page


def _has_turn(connection: duckdb.DuckDBPyConnection, stream_offset: int, turn_id: str) -> bool:
    """Seldom asked: no index finds it."""
    found = connection.execute(
        "SELECT count(*) FROM answers WHERE stream_offset = $1 AND json_extract_string(answer, '$.turn_id') = $2",
        [stream_offset, turn_id],
    ).fetchone()
    return bool(found and found[0])


def _latest(connection: duckdb.DuckDBPyConnection, wanted: WantedRows) -> list[ChannelSession]:
    columns = ", ".join(ChannelSessionRow._fields)
    rows = connection.execute(
        f"SELECT {columns} FROM channel_sessions WHERE stream_offset = $1 AND NOT archived ORDER BY rank DESC LIMIT $2",
        [wanted.stream_offset, wanted.latest],
    ).fetchall()
    return [channel_session(ChannelSessionRow._make(row)) for row in rows]


def saved_of(made: Folded) -> dict[StreamName, Saved]:
    """How far the streams of a batch are saved."""
    return {
        name: Saved(stream.stream_offset, stream.state.version, getattr(stream.state, "messages", 0))
        for name, stream in made.touched.items()
    }


def unfinished(connection: duckdb.DuckDBPyConnection) -> list[StreamName]:
    """Streams that wait for something, the longest waiting first."""
    return connection.execute(
        "SELECT kind, stream_id FROM streams WHERE waits_since IS NOT NULL ORDER BY waits_since"
    ).fetchall()


def unanswered(connection: duckdb.DuckDBPyConnection) -> list[Unanswered]:
    """Requests whose answers may not have been sent, in log order."""
    rows = connection.execute("SELECT * FROM unanswered ORDER BY log_offset, place").fetchall()
    return [Unanswered._make(row) for row in rows]


def _select_in(
    connection: duckdb.DuckDBPyConnection, table: Table, column: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """Rows in the order of the table's key."""
    names = [each.name for each in table.columns]
    columns, in_order = ", ".join(names), itemgetter(*map(names.index, table.key))
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(values), _NAMES):
        some = values[start : start + _NAMES]
        marks = ", ".join(["?"] * len(some))
        statement = f"SELECT {columns} FROM {table.name} WHERE {column} IN ({marks})"
        # Sorted here: to plan it costs DuckDB a third of such a statement's time, of which each new session takes one.
        rows += sorted(connection.execute(statement, list(some)).fetchall(), key=in_order)
    return rows
