"""Stores in memory, for tests and the simulation: the same projection and the same way back, without DuckDB."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

from turnlog_schemas.events import CHANNEL, SESSION
from turnlog_streams.projection.history_row_types import CompactionRequestRow, CompactionRow
from turnlog_streams.projection.project import project, touched
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
from turnlog_streams.projection.rows import ForwardRow, TurnRow
from turnlog_streams.projection.state import Changes, ForwardKey, OpenCall, OpenTurn, SessionState, State, StreamKey
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_workers.store.port import StoreError

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class _Data:
    """The rows of one partition, by stream; they outlive the store that is open on them, as a file does."""

    position: LogPosition = field(default_factory=LogPosition)
    sessions: dict[str, SessionRows] = field(default_factory=dict)
    channels: dict[str, ChannelRows] = field(default_factory=dict)
    forwards: dict[ForwardKey, ForwardRow] = field(default_factory=dict)

    def pending(self, kind: str) -> list[ForwardRow]:
        """Forwards of sessions or of channels that are not delivered."""
        rows = (row for row in self.forwards.values() if row.source_kind == kind and row.delivered_offset is None)
        return sorted(rows, key=lambda row: row.log_offset)


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

    @property
    def position(self) -> LogPosition:
        """The committed checkpoint."""
        return self._data.position

    async def write(self, events: Sequence[LoggedEvent], position: LogPosition) -> None:
        """Rows and checkpoint, both or neither."""
        self._check_open()
        start = self._data.position.next_offset
        if position.next_offset <= start:
            return
        events = [logged for logged in events if logged.offset >= start]
        states = {key: state for key in touched(events) if (state := self._state(key)) is not None}
        self._apply(project(events, states, tolerant=self.tolerant))
        self._data.position = position

    def _state(self, key: StreamKey) -> State | None:
        _, kind, name = key
        if kind == SESSION:
            return _state(self._data.sessions[name]) if name in self._data.sessions else None
        return channel_state(name, self._data.channels[name]) if name in self._data.channels else None

    def _rows(self, session_id: str) -> SessionRows:
        return self._data.sessions.setdefault(session_id, SessionRows())

    def _apply(self, changes: Changes) -> None:
        for session in _values(changes.new_sessions, changes.changed_sessions, changes.changed_profiles):
            self._rows(session.session_id).session = session
        self._changed_turns(_values(changes.new_turns, changes.changed_turns, changes.cancelled_turns))
        for call in changes.new_calls.values():
            self._rows(call.session_id).calls.append(call)
        places = {
            (call.log_offset, call.position): call
            for rows in (self._data.sessions.values() if changes.call_results else ())
            for call in rows.calls
        }
        for result in changes.call_results:
            call = places[result.log_offset, result.position]
            call.result_message_seq, call.outcome = result.result_message_seq, result.outcome
        for message in changes.messages:
            self._rows(message.session_id).messages.append(message)
        for refusal in changes.refusals:
            self._rows(refusal.session_id).refusals.append(refusal)
        for asked in changes.history_compaction_requests:
            self._rows(asked.session_id).history_compaction_requests.append(asked)
        for run in changes.history_compactions:
            self._rows(run.session_id).history_compactions.append(run)
        for event in changes.unknown_events:
            mark = UnknownMark(event.log_offset, event.stream_version)
            if event.stream_kind == SESSION:
                self._rows(event.stream_id).unknown.append(mark)
            elif event.stream_kind == CHANNEL:
                self._channel_rows(event.stream_id).unknown.append(mark)
        for channel_event in changes.channel_events:
            self._channel_rows(channel_event.channel).events.append(channel_event)
        self._data.forwards |= changes.new_forwards
        for delivery in changes.deliveries:
            forward = self._data.forwards.get(delivery[:4])
            if forward is not None:
                forward.delivered_offset = delivery.delivered_offset

    def _changed_turns(self, turns: Iterable[TurnRow]) -> None:
        for turn in turns:
            stored = self._rows(turn.session_id).turns
            known = [index for index, other in enumerate(stored) if other.accepted_offset == turn.accepted_offset]
            if known:
                stored[known[0]] = turn
            else:
                stored.append(turn)

    async def load(self, session_ids: Collection[str]) -> dict[str, LoadedSession]:
        """Whole sessions."""
        self._check_open()
        found = {name: self._data.sessions[name] for name in session_ids if name in self._data.sessions}
        pending = self._data.pending(SESSION)
        for name, rows in found.items():
            rows.outbox = [forward for forward in pending if forward.source_id == name]
        loaded = {session_id: rehydrate(session_id, rows) for session_id, rows in found.items()}
        return {session_id: session for session_id, session in loaded.items() if session is not None}

    def _turns(self) -> list[TurnRow]:
        turns = [turn for rows in self._data.sessions.values() for turn in rows.turns]
        return sorted(turns, key=lambda turn: turn.accepted_offset)

    def _channel_rows(self, channel: str) -> ChannelRows:
        return self._data.channels.setdefault(channel, ChannelRows())

    async def load_channels(self, channels: Collection[str]) -> dict[str, LoadedChannel]:
        """Whole channels."""
        self._check_open()
        found = {name: self._data.channels[name] for name in channels if name in self._data.channels}
        loaded = {name: rehydrate_channel(name, rows) for name, rows in found.items()}
        return {name: channel for name, channel in loaded.items() if channel is not None}

    async def unfinished(self) -> list[str]:
        """Sessions with open turns, owed history compactions or pending forwards."""
        self._check_open()
        waiting = [(turn.accepted_offset, turn.session_id) for turn in self._turns() if turn.ended_offset is None]
        waiting += [(asked.log_offset, asked.session_id) for asked, run in self._asked() if run is None]
        waiting += [(forward.log_offset, forward.source_id) for forward in self._data.pending(SESSION)]
        return list(dict.fromkeys(session_id for _, session_id in sorted(waiting)))

    def _asked(self) -> list[tuple[CompactionRequestRow, CompactionRow | None]]:
        """History compactions on request, and how they ended."""
        return [
            (asked, next((run for run in rows.history_compactions if run.request_id == asked.request_id), None))
            for rows in self._data.sessions.values()
            for asked in rows.history_compaction_requests
        ]

    async def unfinished_channels(self) -> list[str]:
        """Channels with pending forwards."""
        self._check_open()
        return list(dict.fromkeys(forward.source_id for forward in self._data.pending(CHANNEL)))

    async def unanswered(self, replied: int) -> list[Unanswered]:
        """Requests whose answer follows from an event above ``replied``."""
        self._check_open()
        ended: list[Unanswered] = []
        for turn in self._turns():
            if turn.ended_offset is None or turn.ended_offset <= replied:
                continue
            ended.append(Unanswered(turn.session_id, turn.request_id, turn.command_hash, turn.ended_offset))
            if turn.by_request_id is not None:
                by = Unanswered(turn.session_id, turn.by_request_id, turn.by_command_hash or "", turn.ended_offset)
                ended.append(by)
        refused = [
            Unanswered(refusal.session_id, refusal.request_id, refusal.command_hash, refusal.log_offset)
            for rows in self._data.sessions.values()
            for refusal in rows.refusals
            if refusal.log_offset > replied
        ]
        ended += [
            Unanswered(asked.session_id, asked.request_id, asked.command_hash, run.log_offset)
            for asked, run in self._asked()
            if run is not None and run.log_offset > replied
        ]
        lifecycle = [
            waiting
            for name, channel_rows in self._data.channels.items()
            for waiting in unanswered_of_channel(name, channel_rows, replied)
        ]
        return sorted(ended + refused + lifecycle, key=lambda request: request.log_offset)

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


def _state(rows: SessionRows) -> SessionState:
    """Copies: a batch that fails leaves the rows as they were."""
    state = SessionState(unknown_events=len(rows.unknown))
    if rows.session is not None:
        state.row = replace(rows.session)
    for turn in rows.turns:
        if turn.ended_offset is None:
            calls = [
                OpenCall(call.call_id, call.log_offset, call.position)
                for call in rows.calls
                if call.message_seq == turn.answer_seq and call.result_message_seq is None
            ]
            state.turns[turn.turn_id] = OpenTurn(row=replace(turn), calls=calls)
    return state


def _values(*maps: Mapping[Any, T]) -> Iterable[T]:
    return chain.from_iterable(part.values() for part in maps)
