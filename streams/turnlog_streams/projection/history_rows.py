"""History compactions -> rows: what was asked for, and how every run ended. Part of ``projection.project``.

A request is owed while no run has its request id: rows are only ever added.
"""

from typing import Any

from turnlog_schemas import events as ev
from turnlog_schemas.parts import Usage
from turnlog_streams.projection.history_row_types import CompactionRequestRow, CompactionRow
from turnlog_streams.projection.rows import SessionRow, UsageRow
from turnlog_streams.projection.state import Changes, SessionState, StreamKey, session_row
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.table_types import Millis


def _requested(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.HistoryCompactionRequested, changes: Changes
) -> None:
    session = session_row(state)
    changes.history_compaction_requests.append(
        CompactionRequestRow(
            partition=key[0],
            log_offset=logged.offset,
            session_id=key[2],
            session_offset=session.session_offset,
            request_id=event.request_id,
            command_hash=event.command_hash,
            instructions=event.instructions,
            reply_to=event.reply.reply_to,
            framing=event.reply.framing,
            traceparent=event.reply.traceparent,
            tracestate=event.reply.tracestate,
            recorded_at=Millis(logged.header.recorded_at),
        )
    )


def _compacted(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.HistoryCompacted, changes: Changes
) -> None:
    session = session_row(state)
    session.covered_to = event.to_seq
    row = _row(key, session, logged, "compacted", event.request_id)._replace(
        trigger=event.trigger,
        history_compaction_id=event.history_compaction_id,
        from_seq=event.from_seq,
        to_seq=event.to_seq,
        summary=event.summary,
        history_seq=event.history_seq,
        method=event.method,
        model=event.model,
        tokens_before=event.tokens_before,
        tokens_after=event.tokens_after,
        duration_ms=event.duration_ms,
    )
    _ended(row, event.usage, changes)


def _failed(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.HistoryCompactionFailed, changes: Changes
) -> None:
    row = _row(key, session_row(state), logged, "failed", event.request_id)._replace(
        trigger=event.trigger,
        history_seq=event.history_seq,
        model=event.model,
        code=event.code,
        reason=event.reason,
        duration_ms=event.duration_ms,
    )
    _ended(row, event.usage, changes)


def _skipped(
    key: StreamKey, state: SessionState, logged: LoggedEvent, event: ev.HistoryCompactionSkipped, changes: Changes
) -> None:
    row = _row(key, session_row(state), logged, "skipped", event.request_id)
    changes.history_compactions.append(row._replace(trigger="manual"))


def _row(
    key: StreamKey, session: SessionRow, logged: LoggedEvent, status: str, request_id: str | None
) -> CompactionRow:
    return CompactionRow(
        partition=key[0],
        log_offset=logged.offset,
        session_id=key[2],
        session_offset=session.session_offset,
        stream_version=logged.header.stream_version,
        status=status,
        request_id=request_id,
        recorded_at=Millis(logged.header.recorded_at),
    )


def _ended(row: CompactionRow, usage: Usage, changes: Changes) -> None:
    """A run that called a model: what that cost is in the usage, beside the turns'."""
    changes.history_compactions.append(
        row._replace(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            model_calls=usage.model_calls,
            last_input_tokens=usage.last_input_tokens,
        )
    )
    if row.model is not None:
        changes.usage.append(
            UsageRow(
                *(row.partition, row.log_offset, row.session_id, None, row.model, 0, row.status),
                *(usage.input_tokens, usage.output_tokens, usage.model_calls, usage.last_input_tokens),
                *(row.duration_ms or 0, row.recorded_at),
            )
        )


HISTORY_COMPACTION: dict[type, Any] = {
    ev.HistoryCompactionRequested: _requested,
    ev.HistoryCompacted: _compacted,
    ev.HistoryCompactionFailed: _failed,
    ev.HistoryCompactionSkipped: _skipped,
}
