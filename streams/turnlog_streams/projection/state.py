"""What projecting an event depends on, and what a batch of events changes. Part of ``projection.project``."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

from turnlog_streams.projection.attempt_row_type import AttemptRow
from turnlog_streams.projection.history_row_types import CompactionRequestRow, CompactionRow
from turnlog_streams.projection.row_updates import (
    CallResultRow,
    DeliveryRow,
    ErasedInChannel,
    ErasedSession,
    HiddenTurnRow,
)
from turnlog_streams.projection.rows import (
    ChannelEventRow,
    ChannelRow,
    DeadLetterRow,
    ForwardRow,
    MessageRow,
    RefusalRow,
    SessionRow,
    ToolCallRow,
    TurnRow,
    UnknownEventRow,
    UsageRow,
)
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.table_types import Millis

StreamKey = tuple[int, str, str]  #: partition, stream kind and id (a channel may have a session's name)
ForwardKey = tuple[int, str, str, int]  #: partition, kind and id of the source, seq


class ProjectionError(RuntimeError):
    """An event refers to something that no event before it made."""


class UnseenError(Exception):
    """What an event refers to is missing."""


class OpenCall(NamedTuple):
    """A stored tool call without a stored result: its id and its place."""

    call_id: str
    log_offset: int
    position: int
    client: bool = False


@dataclass(slots=True, kw_only=True)
class OpenTurn:
    """A turn without a terminal event, and its calls without a result, in order."""

    row: TurnRow
    calls: list[OpenCall] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class SessionState:
    """What projecting a session's next event depends on. Changed in place by :func:`project`."""

    row: SessionRow | None = None  #: ``None``: not created
    unknown_events: int = 0
    turns: dict[str, OpenTurn] = field(default_factory=dict)
    awaited: list[OpenCall] = field(default_factory=list)  #: of its client


def session_row(state: SessionState) -> SessionRow:
    """The row of a session that must exist. Raises :class:`UnseenError`."""
    if state.row is None:
        raise UnseenError("the session")
    return state.row


@dataclass(slots=True, kw_only=True)
class ChannelState:
    """What projecting a channel's next event depends on. Changed in place by :func:`project`."""

    row: ChannelRow | None = None  #: ``None``: it never had a session
    version: int = 0  #: of its newest event
    unknown_events: int = 0


State = SessionState | ChannelState


@dataclass(slots=True, kw_only=True)
class Changes:
    """What a batch does to the tables. A row is in one of new and changed, never in both."""

    new_sessions: dict[StreamKey, SessionRow] = field(default_factory=dict)
    changed_sessions: dict[StreamKey, SessionRow] = field(default_factory=dict)
    changed_profiles: dict[StreamKey, SessionRow] = field(default_factory=dict)  #: what seldom changes changed
    new_turns: dict[tuple[int, int], TurnRow] = field(default_factory=dict)
    changed_turns: dict[tuple[int, int], TurnRow] = field(default_factory=dict)
    cancelled_turns: dict[tuple[int, int], TurnRow] = field(default_factory=dict)  #: on request, of earlier batches
    hidden_turns: list[HiddenTurnRow] = field(default_factory=list)
    new_forwards: dict[ForwardKey, ForwardRow] = field(default_factory=dict)
    deliveries: list[DeliveryRow] = field(default_factory=list)
    new_channels: dict[StreamKey, ChannelRow] = field(default_factory=dict)
    changed_channels: dict[StreamKey, ChannelRow] = field(default_factory=dict)
    channel_events: list[ChannelEventRow] = field(default_factory=list)
    new_calls: dict[tuple[int, int, int], ToolCallRow] = field(default_factory=dict)
    call_results: list[CallResultRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    history_compaction_requests: list[CompactionRequestRow] = field(default_factory=list)
    history_compactions: list[CompactionRow] = field(default_factory=list)
    usage: list[UsageRow] = field(default_factory=list)
    refusals: list[RefusalRow] = field(default_factory=list)
    unknown_events: list[UnknownEventRow] = field(default_factory=list)
    dead_letters: list[DeadLetterRow] = field(default_factory=list)
    erased_sessions: list[ErasedSession] = field(default_factory=list)  #: in rows of this batch, too
    erased_in_channels: list[ErasedInChannel] = field(default_factory=list)

    def rows(self) -> int:
        """How many rows are written, new and changed."""
        return sum(len(getattr(self, each.name)) for each in fields(self))


def active_session(state: SessionState, logged: LoggedEvent) -> SessionRow:
    """The row of a session that must exist, which one of its turns just used. Raises :class:`UnseenError`."""
    row = session_row(state)
    row.last_active_at = Millis(logged.header.recorded_at)
    return row


def open_turn(key: StreamKey, state: SessionState, turn_id: str | None, changes: Changes) -> OpenTurn:
    """A turn that must be open; its row is about to change. Raises :class:`UnseenError`."""
    turn = state.turns.get(turn_id or "")
    if turn is None:
        raise UnseenError(f"turn {turn_id}")
    turn_changes(turn.row, changes)
    return turn


def turn_changes(row: TurnRow, changes: Changes) -> None:
    """The turn's row is one that this batch changes."""
    key = (row.partition, row.accepted_offset)
    if key not in changes.new_turns:
        changes.changed_turns[key] = row
