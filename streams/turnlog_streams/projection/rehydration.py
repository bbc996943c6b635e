"""The way back from the projection's rows to the state that decisions need: the inverse of ``projection.project``.

``rehydrate`` of a session's rows equals the fold of its events by ``session.state.evolve``; a property test holds
the two together.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from immutables import Map

from turnlog_schemas import events as ev
from turnlog_schemas.mapping import from_dict
from turnlog_schemas.parts import ContentPart, NewSession, ToolCall, Usage, text_content
from turnlog_streams.channel.channel import Channel
from turnlog_streams.forwarding import Forward
from turnlog_streams.history.compaction import HistoryCompactionState
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.tokens import PromptMeasure
from turnlog_streams.history.view import HistorySummary
from turnlog_streams.projection.history_row_types import CompactionRequestRow, CompactionRow
from turnlog_streams.projection.lifecycle_rows import fold_channel_event, skip_channel_event
from turnlog_streams.projection.rows import (
    ChannelEventRow,
    ForwardRow,
    MessageRow,
    RefusalRow,
    SessionRow,
    ToolCallRow,
    TurnRow,
)
from turnlog_streams.projection.state import ChannelState
from turnlog_streams.projection.values import channel_event
from turnlog_streams.session.state import OwedRun, Session, conflict_key
from turnlog_streams.turn import Answer, CompactedAnswer, ReplyAddress, Turn

_PART = from_dict(ContentPart)
_NEW_SESSION = from_dict(NewSession)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSession:
    """A session as a store holds it."""

    session: Session
    history: list[HistoryMessage] = field(default_factory=list)
    last_offset: int = -1  #: of the session's newest event
    unknown_events: int = 0  #: above 0: written by a newer version, nothing may be decided for it here


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedChannel:
    """A channel as a store holds it."""

    channel: Channel
    last_offset: int = -1  #: of the channel's newest event
    unknown_events: int = 0  #: above 0: written by a newer version, nothing may be decided for it here


class Unanswered(NamedTuple):
    """A decided request whose terminal frame may not have been sent: the stream's answers tell what became of it."""

    session_id: str  #: or channel, as ``stream_kind`` says
    request_id: str
    command_hash: str
    log_offset: int  #: of the event that its answer follows from: end of a turn, refusal, decision, last delivery
    stream_kind: str = ev.SESSION


class UnknownMark(NamedTuple):
    """An event of the stream that could not be projected."""

    log_offset: int
    stream_version: int


@dataclass(slots=True, kw_only=True)
class SessionRows:
    """All rows of one session, each list in log order."""

    session: SessionRow | None = None
    turns: list[TurnRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    calls: list[ToolCallRow] = field(default_factory=list)
    refusals: list[RefusalRow] = field(default_factory=list)
    outbox: list[ForwardRow] = field(default_factory=list)  #: pending forwards
    history_compaction_requests: list[CompactionRequestRow] = field(default_factory=list)
    history_compactions: list[CompactionRow] = field(default_factory=list)
    unknown: list[UnknownMark] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ChannelRows:
    """All that is kept of one channel, each list in log order."""

    events: list[ChannelEventRow] = field(default_factory=list)
    unknown: list[UnknownMark] = field(default_factory=list)


def rehydrate(session_id: str, rows: SessionRows) -> LoadedSession | None:
    """The session that the rows tell of; ``None`` when there was never an event of it."""
    row = rows.session
    last = [(refusal.log_offset, refusal.stream_version) for refusal in rows.refusals] + list(rows.unknown)
    if row is not None:
        last.append((row.last_offset, row.stream_version))
    if not last:
        return None
    last_offset, version = max(last)
    calls_of: dict[int, list[ToolCallRow]] = {}
    for call in rows.calls:
        calls_of.setdefault(call.message_seq, []).append(call)
    history = [_message(message, calls_of.get(message.message_seq, ())) for message in rows.messages]
    session = Session(session_id=session_id, version=version)
    if row is not None:
        session = replace(
            session,
            exists=True,
            archived=row.archived,
            active=row.active,
            forward_seq=row.forward_seq,
            marks=Map(json.loads(row.marks)),
            outbox=tuple(_forward(forward) for forward in rows.outbox),
            channel=row.channel,
            title=row.title,
            instructions=row.instructions,
            model=row.model,
            metadata=json.loads(row.metadata),
            messages=row.messages,
            turn_count=row.started_turns,
            running=row.running_turn_id,
            queue=tuple(turn.turn_id for turn in rows.turns if turn.status == "accepted"),
            history_max_tokens=row.history_max_tokens,
            history_keep_tail=row.history_keep_tail,
            history_compaction=_history_compaction(rows.history_compactions),
            owed_runs=_owed_runs(rows),
            measure=_measure(row),
        )
    session = replace(
        session,
        turns=session.turns.update(
            {turn.turn_id: _turn(turn, calls_of) for turn in rows.turns if turn.ended_offset is None}
        ),
        answers=session.answers.update(_answers(rows)),
    )
    return LoadedSession(session=session, history=history, last_offset=last_offset, unknown_events=len(rows.unknown))


def _message(row: MessageRow, calls: Iterable[ToolCallRow]) -> HistoryMessage:
    return HistoryMessage(
        message_seq=row.message_seq,
        turn_id=row.turn_id,
        role=row.role,
        content=content_of(row.content, row.content_parts),
        tool_calls=tuple(_call(call) for call in calls),
        tool_call_id=row.tool_call_id,
        name=row.name,
        interrupted=row.interrupted,
        truncated=row.truncated,
        outcome=row.outcome,
    )


def content_of(text: str | None, parts: str | None) -> tuple[ContentPart, ...] | None:
    """The content of a message or a turn, from its two columns."""
    if parts is not None:
        return tuple(_PART(part) for part in json.loads(parts))
    return None if text is None else text_content(text)


def _call(row: ToolCallRow) -> ToolCall:
    return ToolCall(
        call_id=row.call_id,
        name=row.name,
        arguments=row.arguments,
        idempotent=row.idempotent,
        idempotency_key=row.idempotency_key,
    )


def _turn(row: TurnRow, calls_of: dict[int, list[ToolCallRow]]) -> Turn:
    """Open calls are those of the newest assistant message that have no result: an older one's are given up."""
    calls = calls_of.get(row.answer_seq, []) if row.answer_seq is not None else []
    return Turn(
        turn_id=row.turn_id,
        request_id=row.request_id,
        content=content_of(row.text, row.content_parts) or (),
        requested_model=row.requested_model,
        reply=_reply(row),
        model=row.model,
        attempt=row.attempt,
        runner_failures=row.runner_failures,
        takeovers_in_a_row=row.takeovers_in_a_row,
        open_calls=tuple(_call(call) for call in calls if call.result_message_seq is None),
        answer_seq=row.answer_seq or 0,
        spent=row.usage,
    )


def _history_compaction(runs: Sequence[CompactionRow]) -> HistoryCompactionState:
    state = HistoryCompactionState()
    for run in runs:
        if run.status == "compacted":
            summary = HistorySummary(
                history_compaction_id=run.history_compaction_id or "",
                from_seq=run.from_seq or 0,
                to_seq=run.to_seq or 0,
                text=run.summary or "",
                history_seq=run.history_seq or 0,
                method=run.method or "",
            )
            state = state.after_summary(summary)
        elif run.status == "failed":
            state = state.after_failure(run.history_seq or 0, run.trigger)
    return state


def _owed_runs(rows: SessionRows) -> tuple[OwedRun, ...]:
    ended = {run.request_id for run in rows.history_compactions}
    return tuple(
        OwedRun(request_id=asked.request_id, instructions=asked.instructions, reply=_reply(asked))
        for asked in rows.history_compaction_requests
        if asked.request_id not in ended
    )


def _measure(row: SessionRow) -> PromptMeasure | None:
    if row.measured_tokens is None:
        return None
    return PromptMeasure(input_tokens=row.measured_tokens, through_seq=row.measured_through_seq or 0)


def _reply(row: TurnRow | RefusalRow | CompactionRequestRow) -> ReplyAddress:
    return ReplyAddress(
        reply_to=row.reply_to, framing=row.framing, traceparent=row.traceparent, tracestate=row.tracestate
    )


def _answers(rows: SessionRows) -> dict[str, Answer]:
    """In log order, since the first use of a request id has its key and a conflict another one."""
    answers: dict[str, Answer] = {}
    found: list[tuple[int, TurnRow | RefusalRow | CompactionRequestRow]]
    found = [(turn.accepted_offset, turn) for turn in rows.turns]
    cancelled = [(turn.ended_offset or 0, turn) for turn in rows.turns if turn.by_request_id is not None]
    if rows.refusals or cancelled or rows.history_compaction_requests:
        found += [(refusal.log_offset, refusal) for refusal in rows.refusals]
        found += [(asked.log_offset, asked) for asked in rows.history_compaction_requests]
        found += cancelled
        found.sort(key=lambda entry: entry[0])
    ends = _ends_of_runs(rows.history_compactions)
    for offset, row in found:
        if isinstance(row, TurnRow):
            if offset == row.accepted_offset:
                answers[row.request_id] = _answer(row)
            elif row.by_request_id is not None:
                answers.setdefault(row.by_request_id, _answer_of_cancelling(row))
        elif isinstance(row, CompactionRequestRow):
            answers[row.request_id] = _answer_of_run(row, *ends.get(row.request_id, (None, None)))
        else:
            key = row.request_id
            if key in answers:
                key = conflict_key(key, row.command_hash)
            answers[key] = Answer(
                command_hash=row.command_hash, kind="refused", code=row.code, reason=row.reason, reply=_reply(row)
            )
    return answers


def _answer(row: TurnRow) -> Answer:
    if row.ended_offset is None:
        return Answer(command_hash=row.command_hash, turn_id=row.turn_id, reply=_reply(row))
    return Answer(
        command_hash=row.command_hash,
        turn_id=row.turn_id,
        kind=row.status,
        code=row.code or "",
        reason=row.reason or "",
        attempt=row.attempt,
        usage=row.usage,
        reply=_reply(row),
    )


def _answer_of_cancelling(row: TurnRow) -> Answer:
    """The request that cancelled a turn is answered with the turn's end."""
    reply = ReplyAddress(
        reply_to=row.by_reply_to,
        framing=row.by_framing or "avro",
        traceparent=row.by_traceparent,
        tracestate=row.by_tracestate,
    )
    return replace(_answer(row), command_hash=row.by_command_hash or "", reply=reply)


def _ends_of_runs(runs: Sequence[CompactionRow]) -> dict[str | None, tuple[CompactionRow, CompactedAnswer | None]]:
    """By request id: the run that answered it, and what it said; one that had nothing to do told of the one before."""
    ends: dict[str | None, tuple[CompactionRow, CompactedAnswer | None]] = {}
    newest = CompactedAnswer()
    for run in runs:
        answer = None if run.status == "failed" else newest
        if run.status == "compacted":
            told = CompactedAnswer(summary=run.summary or "", from_seq=run.from_seq or 0, to_seq=run.to_seq or 0)
            usage = Usage(
                input_tokens=run.input_tokens or 0,
                output_tokens=run.output_tokens or 0,
                model_calls=run.model_calls or 0,
                last_input_tokens=run.last_input_tokens or 0,
            )
            newest = told
            answer = replace(
                told, changed=True, tokens_before=run.tokens_before, tokens_after=run.tokens_after, usage=usage
            )
        ends[run.request_id] = run, answer
    return ends


def _answer_of_run(asked: CompactionRequestRow, run: CompactionRow | None, told: CompactedAnswer | None) -> Answer:
    kind = "compacting" if run is None else "not_compacted" if run.status == "failed" else "compacted"
    return Answer(
        command_hash=asked.command_hash,
        kind=kind,
        code=(run.code or "") if run else "",
        reason=(run.reason or "") if run else "",
        reply=_reply(asked),
        compacted=told,
    )


def _forward(row: ForwardRow) -> Forward:
    return Forward(
        seq=row.seq,
        target_kind=row.target_kind,
        target_id=row.target_id,
        what=row.what,
        new_session=None if row.new_session is None else _NEW_SESSION(json.loads(row.new_session)),
        request_id_of_origin=row.request_id_of_origin,
    )


# ---- channels


def channel_state(name: str, rows: ChannelRows) -> ChannelState:
    """The state that a channel's rows lead to: what decisions need, and what the projection goes on from."""
    return _fold(name, rows)[0]


def rehydrate_channel(name: str, rows: ChannelRows) -> LoadedChannel | None:
    """The channel that the rows tell of; ``None`` when there was never an event of it."""
    last = [row.log_offset for row in rows.events[-1:]] + [mark.log_offset for mark in rows.unknown[-1:]]
    if not last:
        return None
    state = channel_state(name, rows)
    return LoadedChannel(channel=state.channel, last_offset=max(last), unknown_events=state.unknown_events)


def unanswered_of_channel(name: str, rows: ChannelRows, replied: int) -> list[Unanswered]:
    """The channel's requests whose answer follows from an event above the log offset ``replied``, in log order."""
    return [waiting for waiting in _fold(name, rows)[1] if waiting.log_offset > replied]


def _fold(name: str, rows: ChannelRows) -> tuple[ChannelState, list[Unanswered]]:
    state = ChannelState(channel=Channel(channel=name))
    answered: list[Unanswered] = []
    entries: list[ChannelEventRow | UnknownMark] = [*rows.events, *rows.unknown]
    for row in sorted(entries, key=lambda row: row.log_offset):
        if isinstance(row, UnknownMark):
            skip_channel_event(state, row.log_offset, row.stream_version)
            continue
        before, event = state.channel, channel_event(row)
        fold_channel_event(state, row, event)
        for request_id, command_hash in _answered(before, state.channel, event):
            answered.append(Unanswered(name, request_id, command_hash, row.log_offset, ev.CHANNEL))
    return state, answered


def _answered(before: Channel, after: Channel, event: ev.Event) -> list[tuple[str, str]]:
    """Requests that are answered once this event is in the log: id and hash (``reply_frames`` has their frames)."""
    if isinstance(event, ev.RequestRefused) or (isinstance(event, ev.ChannelRequestDecided) and not event.waits_for):
        return [(event.request_id, event.command_hash)]
    if isinstance(event, ev.ForwardDelivered):
        ready = sorted(set(before.waits) - set(after.waits))
        return [(request_id, after.answers[request_id].command_hash) for request_id in ready]
    return []
