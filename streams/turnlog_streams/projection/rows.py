"""The rows of the materialization: one declaration gives the tables, the writers and the readers their columns.

``log_offset`` is always an offset of the partition's event log. ``session_offset`` is the log offset of the session's
first SessionCreated: with ``partition`` a number for the session that joins faster than its id. Times are the
owners' clocks (milliseconds since 1970, UTC): shown, never ordered by.

Rows that change while a batch is folded (sessions, turns, tool calls) are mutable on purpose: copying 30 fields for
each event would cost more than the fold itself. All others are written once.
"""

from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import NamedTuple

from turnlog_schemas.parts import Usage
from turnlog_streams.projection.attempt_row_type import ATTEMPTS
from turnlog_streams.projection.history_row_types import COMPACTION_REQUESTS, COMPACTIONS
from turnlog_streams.table_types import INTERNAL, PARTITIONS, Blob, Json, Millis, Table

#: Raised whenever the same log leads to other rows: files of another version are rebuilt.
PROJECTION_VERSION = 9
_NOTHING = Json("{}")


@dataclass(slots=True, kw_only=True)
class SessionRow:
    """A session that was created. ``last_active_at``: its creation, or the newest event of its turns."""

    session_id: str
    partition: int
    session_offset: int
    channel: str | None  #: NULL: it belongs to none
    title: str
    instructions: str | None
    model: str | None  #: the session's own; NULL: the default at each turn
    metadata: Json  #: object of strings
    archived: bool = False
    archived_at: Millis | None = None
    erased_at: Millis | None = None  #: its texts cannot be read any more
    active: bool | None  #: as far as it heard; the channel decides (``channels.active_session_id``). NULL: no channel
    forward_seq: int = 0  #: of the session's newest forward
    marks: Json = _NOTHING  #: how far it has heard each source of forwards
    history_max_tokens: int | None = None  #: its own bounds of history compaction; NULL: the deployment's
    history_keep_tail: int | None = None
    created_at: Millis
    last_active_at: Millis
    turns: int = 0  #: accepted
    started_turns: int = 0
    completed_turns: int = 0
    failed_turns: int = 0
    cancelled_turns: int = 0
    running_turn_id: str | None = None
    messages: int = 0  #: the highest message_seq
    covered_to: int = 0  #: the newest summary stands for the messages up to here; 0: there is none
    awaited_seq: int = 0  #: the message with calls whose outputs its client owes; 0: it owes none
    measured_tokens: int | None = None  #: of the prompt of the newest model call that reported it
    measured_through_seq: int | None = None  #: the message up to which the history was in that prompt
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
    status: str = (
        "accepted"  #: ``accepted``, ``started``, ``completed``, ``failed`` or ``cancelled``; it ended in calls
    )
    #: that its client runs: ``requires_action``
    requested_model: str | None
    model: str | None = None  #: the effective one, once started
    attempt: int = 0  #: the newest; of an ended turn the one that ended it
    runner_failures: int = 0
    takeovers_in_a_row: int = 0
    answer_seq: int | None = None  #: message_seq of the newest assistant message
    text: str | None  #: what the user said; NULL: the turn begins with ``tool_outputs`` alone
    content_parts: Json | None  #: set only when ``text`` does not say it all
    tools: Json | None = None  #: that its client runs, as the request described them
    tool_outputs: Json | None = None  #: of calls that the session waited for
    hidden: bool = False  #: somebody wants it not to be shown; nothing else is changed by that
    reply_to: str | None
    framing: str
    traceparent: str | None
    tracestate: str | None
    accepted_offset: int
    started_offset: int | None = None  #: of the first attempt
    ended_offset: int | None = None
    accepted_at: Millis
    started_at: Millis | None = None
    attempt_started_at: Millis | None = None  #: the newest attempt
    ended_at: Millis | None = None
    duration_ms: int | None = None  #: of the attempt that ended it
    first_delta_ms: int | None = None  #: from the start of that attempt to its first delta; NULL: none, or not said
    input_tokens: int | None = None  #: of all attempts, as far as they told; these four are there once one of them did
    output_tokens: int | None = None
    model_calls: int | None = None
    last_input_tokens: int | None = None
    code: str | None = None  #: why it failed or was cancelled
    reason: str | None = None
    by_request_id: str | None = None  #: of the request that cancelled it, and where that one is answered
    by_command_hash: str | None = None
    by_reply_to: str | None = None
    by_framing: str | None = None
    by_traceparent: str | None = None
    by_tracestate: str | None = None

    @property
    def usage(self) -> Usage:
        """What its attempts have cost, as far as they told."""
        return Usage(
            input_tokens=self.input_tokens or 0,
            output_tokens=self.output_tokens or 0,
            model_calls=self.model_calls or 0,
            last_input_tokens=self.last_input_tokens or 0,
        )

    @usage.setter
    def usage(self, usage: Usage) -> None:
        self.input_tokens, self.output_tokens = usage.input_tokens, usage.output_tokens
        self.model_calls, self.last_input_tokens = usage.model_calls, usage.last_input_tokens


@dataclass(slots=True, kw_only=True)
class ChannelRow:
    """A channel that has had a session."""

    channel: str
    partition: int
    active_session_id: str | None = None
    sessions: int = 0
    archived_sessions: int = 0
    opened_at: Millis  #: its first session
    last_active_at: Millis  #: when its active session became another one, most recently
    unknown_events: int = 0  #: written by a newer version: this row may say too little
    stream_version: int
    last_offset: int  #: log offset of the channel's newest event


@dataclass(slots=True, kw_only=True)
class ForwardRow:
    """What a stream has to tell another one; pending while ``delivered_offset`` is NULL."""

    partition: int
    source_kind: str
    source_id: str
    seq: int  #: of the source's forwards, from 1
    target_kind: str
    target_id: str
    what: str
    new_session: Json | None
    request_id_of_origin: str | None
    log_offset: int
    recorded_at: Millis
    delivered_offset: int | None = None


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
    client: bool  #: of a tool that the client runs
    result_message_seq: int | None = None
    outcome: str | None = (
        None  #: ``ok``, ``error``, ``timed_out`` or ``interrupted``; NULL: no result, or it does not say
    )
    log_offset: int
    recorded_at: Millis
    result_at: Millis | None = None  #: when the result was stored


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
    outcome: str | None  #: of a tool message: how its call ended; NULL: not said
    imported: bool  #: said elsewhere, in no turn: the session was opened with it
    log_offset: int
    recorded_at: Millis


class ChannelEventRow(NamedTuple):
    """An event of a channel, whole."""

    partition: int
    log_offset: int
    channel: str
    stream_version: int
    type: str
    recorded_at: Millis
    body: Json


class UsageRow(NamedTuple):
    """What an ended turn cost, or a history compaction (``turn_id`` NULL), as the runner reported it."""

    partition: int
    log_offset: int
    session_id: str
    turn_id: str | None
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
    reused: bool  #: its request id was used before, for another command
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
    logged_at: Millis | None = None  #: Kafka's timestamp of the record: what "as of a time" goes by


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


def _names(row: type, start: str) -> tuple[str, ...]:
    """The dataclass fields from ``start`` on."""
    names = [field.name for field in dataclass_fields(row)]
    return tuple(names[names.index(start) :])


SESSIONS = Table(
    name="sessions",
    schema=INTERNAL,
    row=SessionRow,
    key=("partition", "session_offset"),
    updated=_names(SessionRow, "last_active_at"),
    rarely_updated=(
        *("channel", "title", "instructions", "model", "metadata", "archived", "archived_at"),
        *("erased_at", "active", "forward_seq", "marks", "history_max_tokens", "history_keep_tail"),
    ),
)
TURNS = Table(
    name="turns",
    schema=INTERNAL,
    row=TurnRow,
    key=("partition", "accepted_offset"),
    updated=(
        *("status", "model", "attempt", "runner_failures", "takeovers_in_a_row", "answer_seq"),
        *("started_offset", "ended_offset", "started_at", "ended_at", "duration_ms"),
        *("attempt_started_at", "first_delta_ms"),
        *("input_tokens", "output_tokens", "model_calls", "last_input_tokens", "code", "reason"),
    ),
    rarely_updated=(
        *("by_request_id", "by_command_hash", "by_reply_to", "by_framing", "by_traceparent", "by_tracestate"),
    ),
)
HIDDEN_TURNS = replace(TURNS, key=("partition", "session_offset", "turn_id"), updated=("hidden",))  #: found otherwise
MESSAGES = Table(name="messages", schema=INTERNAL, row=MessageRow, key=("partition", "log_offset"))
TOOL_CALLS = Table(
    name="tool_calls",
    schema=INTERNAL,
    row=ToolCallRow,
    key=("partition", "log_offset", "position"),
    updated=("result_message_seq", "outcome", "result_at"),
)
USAGE = Table(name="usage", schema=INTERNAL, row=UsageRow, key=("partition", "log_offset"))
REFUSALS = Table(name="refusals", schema=INTERNAL, row=RefusalRow, key=("partition", "log_offset"))
UNKNOWN_EVENTS = Table(name="unknown_events", schema=INTERNAL, row=UnknownEventRow, key=("partition", "log_offset"))
DEAD_LETTERS = Table(
    name="dead_letters",
    schema=INTERNAL,
    row=DeadLetterRow,
    key=("partition", "log_offset"),
    not_of_the_log=("bytes",),  # of a topic that forgets
)
EVENTS = Table(name="events", schema=INTERNAL, row=EventRow, key=("partition", "log_offset"))
FORWARDS = Table(
    name="forwards",
    schema=INTERNAL,
    row=ForwardRow,
    key=("partition", "source_kind", "source_id", "seq"),
    updated=("delivered_offset",),
)
CHANNEL_EVENTS = Table(name="channel_events", schema=INTERNAL, row=ChannelEventRow, key=("partition", "log_offset"))
CHANNELS = Table(
    name="channels",
    schema=INTERNAL,
    row=ChannelRow,
    key=("partition", "channel"),
    updated=_names(ChannelRow, "active_session_id"),
)

TABLES: tuple[Table, ...] = (
    *(
        SESSIONS,
        TURNS,
        ATTEMPTS,
        MESSAGES,
        TOOL_CALLS,
        USAGE,
        REFUSALS,
        UNKNOWN_EVENTS,
        DEAD_LETTERS,
        EVENTS,
        PARTITIONS,
    ),
    *(FORWARDS, CHANNEL_EVENTS, CHANNELS, COMPACTION_REQUESTS, COMPACTIONS),
)
