"""The rows of the materialization: one declaration gives the tables, the writers and the readers their columns.

``log_offset`` is always an offset of the partition's event log. ``session_offset`` is the log offset of the session's
first SessionCreated: with ``partition`` a number for the session that joins faster than its id. Times are the
owners' clocks (milliseconds since 1970, UTC): shown, never ordered by.

Rows that change while a batch is folded (sessions, turns, tool calls) are mutable on purpose: copying 30 fields for
each event would cost more than the fold itself. All others are written once.
"""

import types
import typing
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any, NamedTuple, NewType

Millis = NewType("Millis", int)  #: milliseconds since 1970; a TIMESTAMP (UTC) in tables
Json = NewType("Json", str)  #: JSON text
Blob = NewType("Blob", bytes)

#: Raised whenever the same log leads to other rows: files of another version are rebuilt.
PROJECTION_VERSION = 1


@dataclass(slots=True, kw_only=True)
class SessionRow:
    """A session that was created. ``last_active_at``: the newest event that is not a refusal."""

    session_id: str
    partition: int
    session_offset: int
    channel: str
    title: str
    instructions: str | None
    model: str | None  #: the session's own; NULL: the default at each turn
    metadata: Json  #: object of strings
    archived: bool = False
    created_at: Millis
    last_active_at: Millis
    turns: int = 0  #: accepted
    started_turns: int = 0
    completed_turns: int = 0
    failed_turns: int = 0
    cancelled_turns: int = 0
    running_turn_id: str | None = None
    messages: int = 0  #: the highest message_seq
    input_tokens: int = 0  #: of ended turns
    output_tokens: int = 0
    unknown_events: int = 0  #: written by a newer version: this row may say too little
    stream_version: int
    last_offset: int  #: log offset of the session's newest event


@dataclass(slots=True, kw_only=True)
class TurnRow:
    """A turn. Open while ``ended_offset`` is NULL."""

    turn_id: str
    session_id: str
    partition: int
    session_offset: int
    request_id: str
    command_hash: str
    status: str = "accepted"  #: ``accepted``, ``started``, ``completed``, ``failed`` or ``cancelled``
    requested_model: str | None
    model: str | None = None  #: the effective one, once started
    attempt: int = 0  #: the newest; of an ended turn the one that ended it
    runner_failures: int = 0
    takeovers_in_a_row: int = 0
    answer_seq: int | None = None  #: message_seq of the newest assistant message
    text: str | None  #: what the user said
    content_parts: Json | None  #: set only when ``text`` does not say it all
    reply_to: str | None
    framing: str
    traceparent: str | None
    tracestate: str | None
    accepted_offset: int
    started_offset: int | None = None  #: of the first attempt
    ended_offset: int | None = None
    accepted_at: Millis
    started_at: Millis | None = None
    ended_at: Millis | None = None
    duration_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    model_calls: int | None = None
    last_input_tokens: int | None = None
    code: str | None = None  #: why it failed or was cancelled
    reason: str | None = None


@dataclass(slots=True, kw_only=True)
class ToolCallRow:
    """A stored tool call; ``result_message_seq`` is paired by position, since call ids repeat."""

    session_id: str
    partition: int
    session_offset: int
    message_seq: int
    position: int  #: in its message, from 0
    turn_id: str
    call_id: str
    name: str
    arguments: str  #: as the model wrote them, not necessarily JSON
    idempotent: bool
    idempotency_key: str
    result_message_seq: int | None = None
    log_offset: int
    recorded_at: Millis


class MessageRow(NamedTuple):
    """A message of the history. ``content`` NULL and the empty text differ."""

    session_id: str
    partition: int
    session_offset: int
    message_seq: int
    turn_id: str
    role: str
    content: str | None
    content_parts: Json | None  #: set only when ``content`` does not say it all
    tool_call_id: str | None
    name: str | None
    interrupted: bool
    truncated: bool
    log_offset: int
    recorded_at: Millis


class CallResultRow(NamedTuple):
    """The result of a call that was stored by an earlier batch: an update of its ``tool_calls`` row."""

    partition: int
    log_offset: int
    position: int
    result_message_seq: int


class UsageRow(NamedTuple):
    """What an ended turn cost, as its runner reported it."""

    partition: int
    log_offset: int
    session_id: str
    turn_id: str
    model: str | None
    attempt: int
    status: str
    input_tokens: int
    output_tokens: int
    model_calls: int
    last_input_tokens: int
    duration_ms: int
    recorded_at: Millis


class RefusalRow(NamedTuple):
    """A readable request that was not carried out (its session need not exist)."""

    partition: int
    log_offset: int
    session_id: str
    stream_version: int
    request_id: str
    command_hash: str
    code: str
    reason: str
    reply_to: str | None
    framing: str
    traceparent: str | None
    tracestate: str | None
    recorded_at: Millis


class EventRow(NamedTuple):
    """An accepted event as it stands in the log."""

    partition: int
    log_offset: int
    epoch: int
    n: int
    stream_kind: str
    stream_id: str
    stream_version: int
    type: str
    turn_id: str | None
    attempt: int
    accepted: int
    replied: int
    recorded_at: Millis
    body: Json


class UnknownEventRow(NamedTuple):
    """An event that this version cannot project, kept raw: its stream was written by a newer version."""

    partition: int
    log_offset: int
    stream_kind: str
    stream_id: str
    stream_version: int
    type: str
    turn_id: str | None
    recorded_at: Millis
    body: Json


class DeadLetterRow(NamedTuple):
    """A request that nobody can read or decide. ``bytes`` come from their own topic, which keeps 30 days."""

    partition: int
    request_offset: int
    code: str
    reason: str
    log_offset: int
    recorded_at: Millis
    bytes: Blob | None = None


class PartitionRow(NamedTuple):
    """How far a partition's log is materialized: ``streams.reader_rule.LogPosition``."""

    partition: int
    next_offset: int
    epoch: int
    next_n: int
    accepted: int
    replied: int
    newest_generation: int
    partition_count: int
    requests_topic_id: str
    last_event_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its SQL type, and whether it may be NULL."""

    name: str
    sql_type: str
    nullable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the materialization. ``key`` identifies and orders its rows; ``updated``: what later events change."""

    name: str
    row: type
    key: tuple[str, ...]
    updated: tuple[str, ...] = ()
    rarely_updated: tuple[str, ...] = ()  #: apart, since an update costs by the column
    analysts_only: bool = False  #: not needed to decide: only the analysts' file has it

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, in the order of the row's fields."""
        return columns_of(self.row)


_SQL_TYPES: dict[Any, str] = {
    str: "VARCHAR",
    int: "BIGINT",
    bool: "BOOLEAN",
    Blob: "BLOB",
    Millis: "TIMESTAMP",
    Json: "JSON",
}


@cache
def columns_of(row: type) -> tuple[Column, ...]:
    """The columns that a row type declares."""
    return tuple(_column(name, hint) for name, hint in typing.get_type_hints(row).items())


def _column(name: str, hint: Any) -> Column:
    nullable = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if nullable:
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    return Column(name=name, sql_type=_SQL_TYPES[hint], nullable=nullable)


def _names(row: type, start: str) -> tuple[str, ...]:
    """The dataclass fields from ``start`` on."""
    names = [field.name for field in dataclass_fields(row)]
    return tuple(names[names.index(start) :])


SESSIONS = Table(
    name="sessions",
    row=SessionRow,
    key=("partition", "session_offset"),
    updated=_names(SessionRow, "last_active_at"),
    rarely_updated=("channel", "title", "instructions", "model", "metadata", "archived", "created_at"),
)
TURNS = Table(
    name="turns",
    row=TurnRow,
    key=("partition", "accepted_offset"),
    updated=(
        *("status", "model", "attempt", "runner_failures", "takeovers_in_a_row", "answer_seq"),
        *("started_offset", "ended_offset", "started_at", "ended_at", "duration_ms"),
        *("input_tokens", "output_tokens", "model_calls", "last_input_tokens", "code", "reason"),
    ),
)
MESSAGES = Table(name="messages", row=MessageRow, key=("partition", "log_offset"))
TOOL_CALLS = Table(
    name="tool_calls", row=ToolCallRow, key=("partition", "log_offset", "position"), updated=("result_message_seq",)
)
USAGE = Table(name="usage", row=UsageRow, key=("partition", "log_offset"), analysts_only=True)
REFUSALS = Table(name="refusals", row=RefusalRow, key=("partition", "log_offset"))
UNKNOWN_EVENTS = Table(name="unknown_events", row=UnknownEventRow, key=("partition", "log_offset"))
DEAD_LETTERS = Table(name="dead_letters", row=DeadLetterRow, key=("partition", "log_offset"))
EVENTS = Table(name="events", row=EventRow, key=("partition", "log_offset"), analysts_only=True)
PARTITIONS = Table(name="partitions", row=PartitionRow, key=("partition",), updated=PartitionRow._fields[1:])

TABLES: tuple[Table, ...] = (
    *(SESSIONS, TURNS, MESSAGES, TOOL_CALLS, USAGE, REFUSALS, UNKNOWN_EVENTS, DEAD_LETTERS, EVENTS, PARTITIONS),
)
