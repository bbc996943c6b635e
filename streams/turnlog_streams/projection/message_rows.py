"""Messages and calls as rows, and which result answers which call. Part of ``projection.project``."""

from collections.abc import Iterable

from turnlog_schemas import events as ev
from turnlog_schemas.parts import added
from turnlog_streams.projection.row_updates import CallResultRow
from turnlog_streams.projection.rows import MessageRow, SessionRow, ToolCallRow
from turnlog_streams.projection.state import (
    Changes,
    OpenCall,
    OpenTurn,
    SessionState,
    StreamKey,
    active_session,
    turn_changes,
)
from turnlog_streams.projection.values import content_columns
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.table_types import Millis


def stored(key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.MessageStored, changes: Changes) -> None:
    """A message of the history."""
    session = active_session(state, logged)
    session.messages = event.message_seq
    turn_id = logged.header.turn_id or ""
    at = Millis(logged.header.recorded_at)
    text, parts = (None, None) if event.content is None else content_columns(event.content)
    changes.messages.append(
        MessageRow(
            *(key[2], key[0], session.session_offset, event.message_seq, turn_id, event.role, text, parts),
            *(event.tool_call_id, event.name, event.interrupted, event.truncated, event.outcome, event.imported),
            *(logged.offset, at),
        )
    )
    for position, call in enumerate(event.tool_calls):
        changes.new_calls[key[0], logged.offset, position] = ToolCallRow(
            session_id=key[2],
            partition=key[0],
            session_offset=session.session_offset,
            message_seq=event.message_seq,
            position=position,
            turn_id=turn_id,
            call_id=call.call_id,
            name=call.name,
            arguments=call.arguments,
            idempotent=call.idempotent,
            idempotency_key=call.idempotency_key,
            client=call.client,
            log_offset=logged.offset,
            recorded_at=at,
        )
    turn = state.turns.get(turn_id)
    if state.awaited and event.role == "tool":
        _pair(key[0], state.awaited, event, at, changes)
        await_outputs(state, session)
        return
    if state.awaited:  # what closes them was left out by an owner of an older version
        await_outputs(state, session, ())
    if turn is not None:
        _stored_in_turn(turn, logged, event, changes)
    elif event.role == "assistant" and event.tool_calls:  # of a history that the session was opened with
        await_outputs(state, session, _open_calls(event, logged), event.message_seq)


def _open_calls(event: ev.MessageStored, logged: LoggedEvent) -> list[OpenCall]:
    return [OpenCall(call.call_id, logged.offset, index, call.client) for index, call in enumerate(event.tool_calls)]


def await_outputs(
    state: SessionState, session: SessionRow, calls: Iterable[OpenCall] | None = None, message_seq: int = 0
) -> None:
    """The client owes the outputs of these calls of a message; without an argument: of those that are left."""
    if calls is not None:
        state.awaited, session.awaited_seq = list(calls), message_seq
    if not state.awaited:
        session.awaited_seq = 0


def _stored_in_turn(turn: OpenTurn, logged: LoggedEvent, event: ev.MessageStored, changes: Changes) -> None:
    """The same steps as ``session.state`` takes: pairing of calls and results, and the count of takeovers."""
    row = turn.row
    if event.role == "tool":
        _pair(row.partition, turn.calls, event, Millis(logged.header.recorded_at), changes)
    elif event.role == "assistant":
        row.answer_seq = event.message_seq
        turn.calls = _open_calls(event, logged)
        turn_changes(row, changes)
    if event.role != "user" and not event.interrupted and row.takeovers_in_a_row:
        row.takeovers_in_a_row = 0
        turn_changes(row, changes)
    if event.usage is not None:
        row.usage = added(row.usage, event.usage)
        turn_changes(row, changes)


def _pair(partition: int, calls: list[OpenCall], event: ev.MessageStored, at: Millis, changes: Changes) -> None:
    """The first open call with the result's id is answered, else the first of all (``turn.without_result``)."""
    if not calls:
        return
    found = next((i for i, call in enumerate(calls) if call.call_id == event.tool_call_id), 0)
    call = calls.pop(found)
    new = changes.new_calls.get((partition, call.log_offset, call.position))
    if new is not None:
        new.result_message_seq, new.outcome, new.result_at = event.message_seq, event.outcome, at
    else:
        changes.call_results.append(
            CallResultRow(partition, call.log_offset, call.position, event.message_seq, event.outcome, at)
        )
