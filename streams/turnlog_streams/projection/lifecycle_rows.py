"""Lifecycle events -> rows: what sessions hear of their channels, channels as a whole, and the forwards between them.

A channel's events are kept whole, for analysts; its row is all that its next event goes on from, however many
sessions it has. Part of ``projection.project``.
"""

import json
from typing import Any

from turnlog_schemas import events as ev
from turnlog_schemas.mapping import to_dict
from turnlog_schemas.parts import NewSession
from turnlog_streams.forwarding import source_key
from turnlog_streams.projection.row_updates import DeliveryRow, ErasedInChannel, ErasedSession
from turnlog_streams.projection.rows import ChannelEventRow, ChannelRow, ForwardRow, SessionRow, UsageRow
from turnlog_streams.projection.state import (
    Changes,
    ChannelState,
    ProjectionError,
    SessionState,
    StreamKey,
    UnseenError,
    session_row,
)
from turnlog_streams.projection.values import channel_event_row, json_column, unknown_row
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.table_types import Millis

_NEW_SESSION_DICT = to_dict(NewSession)
_KNOWN = frozenset(ev.EVENTS)


# ---- forwards, of either kind of stream


def _forwarded(key: StreamKey, logged: LoggedEvent, event: ev.CommandForwarded, changes: Changes) -> None:
    new = None if event.new_session is None else json_column(_NEW_SESSION_DICT(event.new_session))
    changes.new_forwards[*key, event.seq] = ForwardRow(
        partition=key[0],
        source_kind=key[1],
        source_id=key[2],
        seq=event.seq,
        target_kind=event.target_kind,
        target_id=event.target_id,
        what=event.what,
        new_session=new,
        request_id_of_origin=event.request_id_of_origin,
        log_offset=logged.offset,
        recorded_at=Millis(logged.header.recorded_at),
    )


def _delivered(key: StreamKey, logged: LoggedEvent, event: ev.ForwardDelivered, changes: Changes) -> None:
    new = changes.new_forwards.get((*key, event.seq))
    if new is not None:
        new.delivered_offset = logged.offset
    else:
        changes.deliveries.append(DeliveryRow(*key, event.seq, logged.offset))


# ---- sessions


def _profile(key: StreamKey, state: SessionState, changes: Changes) -> SessionRow:
    """The row of a session of which something changes that seldom does."""
    row = session_row(state)
    if key not in changes.new_sessions:
        changes.changed_profiles[key] = row
    return row


def _titled(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.SessionTitled, changes: Changes
) -> None:
    _profile(key, state, changes).title = event.title
    usage = event.usage
    if usage is not None:
        changes.usage.append(
            UsageRow(
                *(key[0], logged.offset, key[2], None, event.model, 0, "titled"),
                *(usage.input_tokens, usage.output_tokens, usage.model_calls, usage.last_input_tokens),
                *(0, Millis(logged.header.recorded_at)),
            )
        )


def _updated(key: StreamKey, state: SessionState, _: LoggedEvent, event: ev.SessionUpdated, changes: Changes) -> None:
    row = _profile(key, state, changes)
    row.title, row.model, row.instructions = event.title, event.model, event.instructions
    row.metadata = json_column(event.metadata)


def _archived(
    key: StreamKey, state: SessionState, logged: LoggedEvent, _: ev.SessionArchived, changes: Changes
) -> None:
    row = _profile(key, state, changes)
    row.archived, row.archived_at = True, Millis(logged.header.recorded_at)


def _erased(key: StreamKey, state: SessionState, logged: LoggedEvent, _: ev.SessionErased, changes: Changes) -> None:
    """Its row has no text any more; those of its other rows go behind the batch."""
    row = _profile(key, state, changes)
    row.archived, row.erased_at = True, Millis(logged.header.recorded_at)
    row.title, row.instructions, row.metadata = "", None, json_column({})
    row.archived_at = row.archived_at or row.erased_at
    state.awaited, row.awaited_seq = [], 0
    row.measured_tokens = row.measured_through_seq = None
    changes.erased_sessions.append(ErasedSession(key[0], row.session_offset, key[2], logged.offset))


def _activated(key: StreamKey, state: SessionState, _: LoggedEvent, __: ev.SessionActivated, changes: Changes) -> None:
    _profile(key, state, changes).active = True


def _deactivated(
    key: StreamKey, state: SessionState, _: LoggedEvent, __: ev.SessionDeactivated, changes: Changes
) -> None:
    _profile(key, state, changes).active = False


def _heard(key: StreamKey, state: SessionState, _: LoggedEvent, event: ev.ForwardReceived, changes: Changes) -> None:
    row = _profile(key, state, changes)
    marks = json.loads(row.marks) | {source_key(event.source_kind, event.source_id): event.seq}
    row.marks = json_column(marks)


def _session_forwarded(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.CommandForwarded, changes: Changes
) -> None:
    _profile(key, state, changes).forward_seq = event.seq
    _forwarded(key, logged, event, changes)


def _session_delivered(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.ForwardDelivered, changes: Changes
) -> None:
    session_row(state)
    _delivered(key, logged, event, changes)


def _decided(_: StreamKey, state: SessionState, __: LoggedEvent, ___: ev.RequestDecided, ____: Changes) -> None:
    session_row(state)  # what it changed, other events say


SESSION_LIFECYCLE: dict[type, Any] = {
    ev.SessionTitled: _titled,
    ev.SessionUpdated: _updated,
    ev.SessionArchived: _archived,
    ev.SessionErased: _erased,
    ev.SessionActivated: _activated,
    ev.SessionDeactivated: _deactivated,
    ev.ForwardReceived: _heard,
    ev.CommandForwarded: _session_forwarded,
    ev.ForwardDelivered: _session_delivered,
    ev.RequestDecided: _decided,
}


# ---- channels


def project_channel(
    key: StreamKey, state: ChannelState, logged: LoggedEvent, changes: Changes, *, tolerant: bool = False
) -> None:
    """One event of a channel further. Raises :class:`ProjectionError`."""
    event = logged.payload
    try:
        if type(event) not in _KNOWN:
            raise UnseenError(f"an event of type {type(event).__name__}")
        known = state.row is not None
        row = channel_event_row(logged)
        _fold_channel_event(state, row, event)
    except Exception as error:  # whatever an event makes fail is its own stream's problem
        if isinstance(error, UnseenError) and type(event) in _KNOWN and not (state.unknown_events or tolerant):
            raise ProjectionError(
                f"channel {key[2]}, event {type(event).__name__} at events[{logged.partition}]@{logged.offset}: "
                f"{error} was never stored before it. Delete this DuckDB file to have it rebuilt; "
                "if that does not help, the log was written by something else than this program"
            ) from error
        _skip_channel_event(state, logged.offset, logged.header.stream_version)
        changes.unknown_events.append(unknown_row(logged))
    else:
        changes.channel_events.append(row)
        if isinstance(event, ev.CommandForwarded):
            _forwarded(key, logged, event, changes)
        elif isinstance(event, ev.ForwardDelivered):
            _delivered(key, logged, event, changes)
        elif isinstance(event, ev.ChannelSessionErased):
            changes.erased_in_channels.append(ErasedInChannel(key[0], key[2], event.session_id, logged.offset))
        if state.row is not None and not known:
            changes.new_channels[key] = state.row
    if state.row is not None and key not in changes.new_channels:
        changes.changed_channels[key] = state.row


def _fold_channel_event(state: ChannelState, place: ChannelEventRow, event: ev.Event) -> None:
    """The channel's row after an event. Raises :class:`UnseenError` when one before it, or its session, is missing."""
    if place.stream_version != state.version + 1 and not state.unknown_events:
        raise UnseenError(f"event {state.version + 1} of the channel")
    if isinstance(event, ev.ChannelSessionOpened):
        row = state.row = state.row or _new_channel_row(state, place)
        row.sessions += 1
        _activate(row, place, event.session_id)
    elif isinstance(event, ev.ChannelSessionArchived):
        if state.row is None:
            raise UnseenError(f"session {event.session_id}")
        state.row.archived_sessions += 1
        _activate(state.row, place, event.active)
    state.version = place.stream_version
    if state.row is not None:
        state.row.stream_version = place.stream_version
        state.row.last_offset = place.log_offset


def _new_channel_row(state: ChannelState, place: ChannelEventRow) -> ChannelRow:
    return ChannelRow(
        channel=place.channel,
        partition=place.partition,
        opened_at=place.recorded_at,
        last_active_at=place.recorded_at,
        unknown_events=state.unknown_events,
        stream_version=place.stream_version,
        last_offset=place.log_offset,
    )


def _activate(row: ChannelRow, place: ChannelEventRow, session_id: str | None) -> None:
    if row.active_session_id != session_id:
        row.active_session_id, row.last_active_at = session_id, place.recorded_at


def _skip_channel_event(state: ChannelState, log_offset: int, stream_version: int) -> None:
    """An event that is kept raw only counts."""
    state.unknown_events += 1
    state.version = stream_version
    if state.row is not None:
        state.row.unknown_events = state.unknown_events
        state.row.stream_version = stream_version
        state.row.last_offset = log_offset
