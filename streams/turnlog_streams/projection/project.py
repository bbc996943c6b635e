"""The projection: accepted events of the log -> rows. Pure, one event after the other, so batch sizes do not matter.

``project`` folds a batch into the state of the streams it touches (loaded by the store, as the rows of everything
before the batch say) and tells which rows are new and which changed. Rows are a function of the log's prefix alone:
not of batches, restarts or the clock.

An event that this version cannot project is kept raw and marks its session. In a marked session, what refers to
something unseen is kept raw too; in any other it is an error, since a log prefix has no holes.
"""

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

from turnlog_schemas import events as ev
from turnlog_schemas.parts import Usage, added
from turnlog_streams.projection.attempt_row_type import AttemptRow
from turnlog_streams.projection.history_rows import HISTORY_COMPACTION
from turnlog_streams.projection.lifecycle_rows import SESSION_LIFECYCLE, project_channel
from turnlog_streams.projection.message_rows import await_outputs, stored
from turnlog_streams.projection.row_updates import HiddenTurnRow
from turnlog_streams.projection.rows import (
    DeadLetterRow,
    RefusalRow,
    SessionRow,
    TurnRow,
    UsageRow,
)
from turnlog_streams.projection.state import (
    Changes,
    ChannelState,
    OpenTurn,
    ProjectionError,
    SessionState,
    State,
    StreamKey,
    UnseenError,
    active_session,
    open_turn,
    session_row,
)
from turnlog_streams.projection.values import content_columns, json_column, json_records, unknown_row
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.table_types import Millis


def touched(events: Iterable[LoggedEvent]) -> set[StreamKey]:
    """The sessions and channels whose state :func:`project` needs for these events."""
    return {
        (logged.partition, header.stream_kind, header.stream_id)
        for logged in events
        if (header := logged.header).stream_kind in (ev.SESSION, ev.CHANNEL)
    }


def begun(events: Iterable[LoggedEvent]) -> set[StreamKey]:
    """The streams whose first event is one of these: no earlier event belongs to them."""
    return {_key(logged) for logged in events if logged.header.stream_version == 1}


def _key(logged: LoggedEvent) -> StreamKey:
    return logged.partition, logged.header.stream_kind, logged.header.stream_id


def project(
    events: Sequence[LoggedEvent],
    states: MutableMapping[StreamKey, State],
    *,
    tolerant: bool = False,
) -> Changes:
    """The changes that accepted events (in log order) make; brings ``states`` up to date.

    ``tolerant``: an event that refers to something unseen marks its stream, too, instead of being an error.

    ``states`` holds every touched stream that any earlier event belongs to. After an error it is worthless.
    Raises :class:`ProjectionError`.
    """
    changes = Changes()
    for logged in events:
        header = logged.header
        kind = header.stream_kind
        if kind == ev.SESSION:
            state = states.get(key := (logged.partition, kind, header.stream_id))
            if not isinstance(state, SessionState):
                state = states[key] = SessionState()
            _project_session(key, state, logged, changes, tolerant=tolerant)
        elif kind == ev.CHANNEL:
            state = states.get(key := _key(logged))
            if not isinstance(state, ChannelState):
                state = states[key] = ChannelState()
            project_channel(key, state, logged, changes, tolerant=tolerant)
        elif kind == ev.PARTITION:
            _project_partition(logged, changes)
        else:  # a stream kind of a newer version
            changes.unknown_events.append(unknown_row(logged))
    return changes


# ---- sessions


def _project_session(
    key: StreamKey, state: SessionState, logged: LoggedEvent, changes: Changes, *, tolerant: bool
) -> None:
    event = logged.payload
    handler = _HANDLERS.get(type(event))
    try:
        if handler is None:
            raise UnseenError(f"an event of type {type(event).__name__}")
        handler(key, state, logged, event, changes)
    except Exception as error:  # whatever an event makes fail is its own stream's problem
        if isinstance(error, UnseenError) and handler is not None and not (state.unknown_events or tolerant):
            raise ProjectionError(
                f"session {key[2]}, event {type(event).__name__} at events[{logged.partition}]@{logged.offset}: "
                f"{error} was never stored before it. Delete this DuckDB file to have it rebuilt; "
                "if that does not help, the log was written by something else than this program"
            ) from error
        state.unknown_events += 1
        changes.unknown_events.append(unknown_row(logged))
    row = state.row
    if row is not None:
        row.unknown_events = state.unknown_events
        row.stream_version = logged.header.stream_version
        row.last_offset = logged.offset
        if key not in changes.new_sessions:
            changes.changed_sessions[key] = row


def _created(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.SessionCreated, changes: Changes
) -> None:
    at, new = Millis(logged.header.recorded_at), event.new_session
    metadata = json_column(new.metadata or {})
    row = state.row
    if row is None:
        state.row = changes.new_sessions[key] = SessionRow(
            session_id=key[2],
            partition=key[0],
            session_offset=logged.offset,
            channel=new.channel,
            title=new.title or "",
            instructions=new.instructions,
            model=new.model,
            metadata=metadata,
            active=None if new.channel is None else True,
            history_max_tokens=new.history_max_tokens,
            history_keep_tail=new.history_keep_tail,
            created_at=at,
            last_active_at=at,
            stream_version=logged.header.stream_version,
            last_offset=logged.offset,
        )
        return
    row.channel, row.title, row.instructions, row.model = new.channel, new.title or "", new.instructions, new.model
    row.metadata, row.active = metadata, row.active is not False if new.channel is not None else None
    row.history_max_tokens, row.history_keep_tail = new.history_max_tokens, new.history_keep_tail
    row.last_active_at = at
    if key not in changes.new_sessions:
        changes.changed_profiles[key] = row


def _accepted(
    key: StreamKey,
    state: SessionState,
    logged: LoggedEvent,
    event: ev.TurnAccepted | ev.ToolOutputsAccepted,
    changes: Changes,
) -> None:
    session = active_session(state, logged)
    session.turns += 1
    text, parts = content_columns(event.content) if event.content else (None, None)
    outputs = event.outputs if isinstance(event, ev.ToolOutputsAccepted) else ()
    row = TurnRow(
        turn_id=logged.header.turn_id or "",
        session_id=key[2],
        partition=key[0],
        session_offset=session.session_offset,
        request_id=event.request_id,
        command_hash=event.command_hash,
        requested_model=event.model,
        text=text,
        content_parts=parts,
        tools=json_records(event.tools),
        tool_outputs=json_records(outputs),
        reply_to=event.reply.reply_to,
        framing=event.reply.framing,
        traceparent=event.reply.traceparent,
        tracestate=event.reply.tracestate,
        accepted_offset=logged.offset,
        accepted_at=Millis(logged.header.recorded_at),
    )
    state.turns[row.turn_id] = OpenTurn(row=row)
    changes.new_turns[row.partition, row.accepted_offset] = row


def _started(key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.TurnStarted, changes: Changes) -> None:
    header = logged.header
    turn = open_turn(key, state, header.turn_id, changes)
    session = active_session(state, logged)
    row = turn.row
    row.status = "started"
    row.attempt = header.attempt
    row.model = event.model
    row.attempt_started_at = Millis(header.recorded_at)
    changes.attempts.append(
        AttemptRow(
            *(key[2], key[0], session.session_offset, row.turn_id, header.attempt, event.cause, event.model),
            *(event.error, logged.offset, row.attempt_started_at),
        )
    )
    if row.started_offset is None:
        row.started_offset = logged.offset
        row.started_at = Millis(header.recorded_at)
    row.runner_failures += event.cause == "retry"
    row.takeovers_in_a_row += event.cause == "takeover"
    session.started_turns += event.cause == "first"
    if event.usage is not None:
        row.usage = added(row.usage, event.usage)
    session.running_turn_id = row.turn_id


def _completed(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.TurnCompleted, changes: Changes
) -> None:
    turn = open_turn(key, state, logged.header.turn_id, changes)
    status = "requires_action" if event.requires_action else "completed"
    _ended(key, state, logged, changes, status=status, code=None, reason=None)
    session = session_row(state)
    session.completed_turns += 1
    if event.requires_action:
        await_outputs(state, session, (call for call in turn.calls if call.client), turn.row.answer_seq or 0)


def _failed(key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.TurnFailed, changes: Changes) -> None:
    _ended(key, state, logged, changes, status="failed", code=event.code, reason=event.reason)
    session_row(state).failed_turns += 1


def _cancelled(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.TurnCancelled, changes: Changes
) -> None:
    row = _ended(key, state, logged, changes, status="cancelled", code="cancelled", reason=event.reason)
    session_row(state).cancelled_turns += 1
    if (by := event.by) is not None:
        row.by_request_id, row.by_command_hash = by.request_id, by.command_hash
        row.by_reply_to, row.by_framing = by.reply.reply_to, by.reply.framing
        row.by_traceparent, row.by_tracestate = by.reply.traceparent, by.reply.tracestate
        place = (row.partition, row.accepted_offset)
        if place not in changes.new_turns:
            changes.cancelled_turns[place] = row


def _hidden(key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.TurnHidden, changes: Changes) -> None:
    session = session_row(state)
    row = HiddenTurnRow(key[0], session.session_offset, logged.header.turn_id or "", hidden=True)
    changes.hidden_turns.append(row)


def _ended(
    key: StreamKey,
    state: SessionState,
    logged: LoggedEvent,
    changes: Changes,
    *,
    status: str,
    code: str | None,
    reason: str | None,
) -> TurnRow:
    header = logged.header
    usage: Usage = logged.payload.usage
    row = open_turn(key, state, header.turn_id, changes).row
    session = active_session(state, logged)
    del state.turns[row.turn_id]
    row.status, row.code, row.reason = status, code, reason
    row.attempt = header.attempt
    row.ended_offset = logged.offset
    row.ended_at = Millis(header.recorded_at)
    row.duration_ms, row.first_delta_ms = logged.payload.duration_ms, logged.payload.first_delta_ms
    row.usage = usage
    if session.running_turn_id == row.turn_id:
        session.running_turn_id = None
    measured = usage.last_input_tokens > 0 and status != "cancelled"
    if measured and row.answer_seq:  # as ``session.state`` measures
        session.measured_tokens, session.measured_through_seq = usage.last_input_tokens, row.answer_seq - 1
    session.input_tokens += usage.input_tokens
    session.output_tokens += usage.output_tokens
    changes.usage.append(
        UsageRow(
            *(key[0], logged.offset, key[2], row.turn_id, row.model, header.attempt, status),
            *(usage.input_tokens, usage.output_tokens, usage.model_calls, usage.last_input_tokens),
            *(row.duration_ms, row.ended_at),
        )
    )
    return row


def _refused(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.RequestRefused, changes: Changes
) -> None:
    reply = event.reply
    changes.refusals.append(
        RefusalRow(
            *(key[0], logged.offset, key[2], logged.header.stream_version),
            *(event.request_id, event.command_hash, event.code, event.reason),
            event.reused,
            reply.reply_to,
            reply.framing,
            reply.traceparent,
            reply.tracestate,
            Millis(logged.header.recorded_at),
        )
    )


_HANDLERS: dict[type, Any] = {
    ev.SessionCreated: _created,
    ev.TurnAccepted: _accepted,
    ev.ToolOutputsAccepted: _accepted,
    ev.TurnHidden: _hidden,
    ev.TurnStarted: _started,
    ev.MessageStored: stored,
    ev.TurnCompleted: _completed,
    ev.TurnFailed: _failed,
    ev.TurnCancelled: _cancelled,
    ev.RequestRefused: _refused,
    **SESSION_LIFECYCLE,
    **HISTORY_COMPACTION,
}


# ---- partitions


def _project_partition(logged: LoggedEvent, changes: Changes) -> None:
    event = logged.payload
    if isinstance(event, ev.RequestDeadLettered):
        place = logged.offset, Millis(logged.header.recorded_at)
        changes.dead_letters.append(DeadLetterRow(logged.partition, event.offset, event.code, event.reason, *place))
    elif not isinstance(event, ev.PartitionClaimed | ev.RequestsLost):
        changes.unknown_events.append(unknown_row(logged))
