"""The rows of history compactions. Part of ``projection.rows``."""

from typing import NamedTuple

from turnlog_streams.table_types import INTERNAL, Millis, Table


class CompactionRequestRow(NamedTuple):
    """A history compaction that somebody asked for; owed while ``compactions`` has no row of its request."""

    partition: int
    log_offset: int
    session_id: str
    session_offset: int
    request_id: str
    command_hash: str
    instructions: str | None
    reply_to: str | None
    framing: str
    traceparent: str | None
    tracestate: str | None
    recorded_at: Millis


class CompactionRow(NamedTuple):
    """How a run of history compaction ended: ``compacted``, ``failed`` or ``skipped`` (nothing to do)."""

    partition: int
    log_offset: int
    session_id: str
    session_offset: int
    stream_version: int
    status: str
    recorded_at: Millis
    trigger: str = ""  #: ``automatic`` or ``manual``
    history_compaction_id: str | None = None
    from_seq: int | None = None
    to_seq: int | None = None  #: both ends inclusive
    summary: str | None = None
    history_seq: int | None = None  #: the session's highest message_seq when the run read it
    method: str | None = None  #: ``model``, ``truncation`` or ``given``
    model: str | None = None
    code: str | None = None
    reason: str | None = None
    tokens_before: int | None = None
    tokens_after: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    model_calls: int | None = None
    last_input_tokens: int | None = None
    duration_ms: int | None = None
    request_id: str | None = None  #: of the request that it answered


COMPACTION_REQUESTS = Table(
    name="compaction_requests", schema=INTERNAL, row=CompactionRequestRow, key=("partition", "log_offset")
)
COMPACTIONS = Table(name="compactions", schema=INTERNAL, row=CompactionRow, key=("partition", "log_offset"))
