"""Stores in memory, for tests and the simulation: the same fold and the same rows, without DuckDB."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from turnlog_schemas.events import SESSION
from turnlog_streams.folding.canonical import decode
from turnlog_streams.folding.fold import (
    RowName,
    StreamName,
    channel_session,
    fold,
    folded,
    stored_message,
    touched,
    window,
)
from turnlog_streams.folding.rows import AnswerRow, ChannelSessionRow, MarkRow, StoredMessage, StreamRow, Unanswered
from turnlog_streams.lookups import has_turn
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_streams.turn import Answer
from turnlog_workers.store.port import FoundRows, LoadedStream, Saved, StoreError, WantedRows


@dataclass(slots=True, kw_only=True)
class _Data:
    """The rows of one partition; they outlive the store that is open on them, as a file does."""

    position: LogPosition = field(default_factory=LogPosition)
    streams: dict[StreamName, StreamRow] = field(default_factory=dict)
    messages: dict[int, list[StoredMessage]] = field(default_factory=dict)  #: by stream_offset
    answers: dict[RowName, AnswerRow] = field(default_factory=dict)
    marks: dict[RowName, MarkRow] = field(default_factory=dict)
    channel_sessions: dict[RowName, ChannelSessionRow] = field(default_factory=dict)
    unanswered: list[Unanswered] = field(default_factory=list)


class MemoryStores:
    """The stores of one worker. Closing one keeps its rows, as the disk would."""

    def __init__(self) -> None:
        self._data: dict[int, _Data] = {}
        self._open: dict[int, MemoryStore] = {}

    async def open(self, partition: int) -> "MemoryStore":
        """The partition's store, where it stands."""
        if partition in self._open:
            raise ValueError(f"the store of partition {partition} is open already: close it first")
        data = self._data.setdefault(partition, _Data())
        self._open[partition] = MemoryStore(partition, data, lambda: self._open.pop(partition, None))
        return self._open[partition]

    async def open_fresh(self, partition: int, reason: str) -> "MemoryStore":
        """Throw the partition's rows away."""
        if partition not in self._open:
            self._data.pop(partition, None)
        store = await self.open(partition)
        store.tolerant = True
        return store

    async def close(self) -> None:
        """Close every store."""
        for store in list(self._open.values()):
            await store.close()


class MemoryStore:
    """One partition's rows in memory."""

    def __init__(self, partition: int, data: _Data, on_close: Callable[[], object]) -> None:
        self._partition = partition
        self._data = data
        self._on_close = on_close
        self._closed = False
        self.tolerant = False
        self.outworn = False  #: never: nothing of it is a file

    @property
    def position(self) -> LogPosition:
        """The committed checkpoint."""
        return self._data.position

    async def write(self, events: Sequence[LoggedEvent], position: LogPosition) -> Mapping[StreamName, Saved]:
        """Rows and checkpoint, both or neither."""
        self._check_open()
        data, start = self._data, self._data.position.next_offset
        if position.next_offset <= start:
            return {}
        events = [logged for logged in events if logged.offset >= start]
        streams = {name: folded(data.streams[name]) for name in touched(events) & data.streams.keys()}
        made = fold(events, streams, replied=position.replied, tolerant=self.tolerant)
        data.streams |= {name: stream.row() for name, stream in made.touched.items()}
        gone = {(SESSION, each.session_id): each.answered for each in made.erased.values()}
        data.unanswered = [
            row if (row.kind, row.stream_id) not in gone else row._replace(command_hash="")
            for row in data.unanswered
            if row.request_id in gone.get((row.kind, row.stream_id), (row.request_id,))
        ]
        for stream_offset in made.erased:
            data.messages.pop(stream_offset, None)
            data.answers = {name: row for name, row in data.answers.items() if name[0] != stream_offset}
        for message in made.messages:
            data.messages.setdefault(message.stream_offset, []).append(message)
        data.unanswered = [row for row in data.unanswered if row.log_offset > position.replied] + made.unanswered
        data.answers |= {(row.stream_offset, row.key): row for row in made.answers}
        data.marks |= made.marks
        data.channel_sessions |= made.channel_sessions
        for name in made.archived:
            data.channel_sessions[name] = data.channel_sessions[name]._replace(archived=True)
        data.channel_sessions |= made.erased_sessions
        data.position = position
        return {
            name: Saved(stream.stream_offset, stream.state.version, getattr(stream.state, "messages", 0))
            for name, stream in made.touched.items()
        }

    async def load(self, names: Collection[StreamName]) -> dict[StreamName, LoadedStream]:
        """Whole streams."""
        self._check_open()
        return {name: self._loaded(self._data.streams[name]) for name in names if name in self._data.streams}

    def _loaded(self, row: StreamRow) -> LoadedStream:
        stream = folded(row)
        messages = self._data.messages.get(row.stream_offset, []) if row.kind == SESSION else []
        return LoadedStream(
            state=stream.state,
            history=window(stream.state).of([stored_message(message) for message in messages]),
            stream_offset=stream.stream_offset,
            last_offset=stream.last_offset,
            unknown_events=stream.unknown_events,
        )

    async def look_up(self, wanted: Sequence[WantedRows]) -> list[FoundRows]:
        """Rows of streams."""
        self._check_open()
        return [self._found(rows) for rows in wanted]

    def _found(self, wanted: WantedRows) -> FoundRows:
        data, stream = self._data, wanted.stream_offset
        answers = [data.answers[stream, name] for name in wanted.answers if (stream, name) in data.answers]
        marks = [data.marks[stream, name] for name in wanted.marks if (stream, name) in data.marks]
        sessions = [row for row in data.channel_sessions.values() if row.stream_offset == stream]
        latest = sorted((row for row in sessions if not row.archived), key=lambda row: -row.rank)[: wanted.latest]
        return FoundRows(
            answers={row.key: decode(Answer, row.answer) for row in answers},
            marks={row.source: row.seq for row in marks},
            sessions={row.session_id: channel_session(row) for row in sessions if row.session_id in wanted.sessions},
            latest=[channel_session(row) for row in latest],
            messages={
                (after, limit): [
                    stored_message(row) for row in data.messages.get(stream, ()) if after < row.message_seq <= upto
                ][:limit]
                for after, limit, upto in wanted.messages
            },
            turns={turn_id: self._has_turn(stream, turn_id) for turn_id in wanted.turns},
        )

    def _has_turn(self, stream: int, turn_id: str) -> bool:
        rows = (row for (owner, _), row in self._data.answers.items() if owner == stream)
        return has_turn((decode(Answer, row.answer) for row in rows), turn_id)

    async def unfinished(self) -> list[StreamName]:
        """Streams that wait for something, the longest waiting first."""
        self._check_open()
        waiting = [row for row in self._data.streams.values() if row.waits_since is not None]
        return [(row.kind, row.stream_id) for row in sorted(waiting, key=lambda row: row.waits_since or 0)]

    async def unanswered(self) -> list[Unanswered]:
        """Requests whose answers may not have been sent, in log order."""
        self._check_open()
        return list(self._data.unanswered)

    async def forget(self, streams: Collection[StreamName]) -> None:
        """Nothing to do: rows are all that is kept."""
        self._check_open()

    async def rest(self) -> None:
        """Nothing to do: there is no file."""
        self._check_open()

    async def close(self) -> None:
        """Let the next owner open it."""
        if not self._closed:
            self._closed = True
            self._on_close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store of partition {self._partition} is closed")
