"""Accepted events -> the folded state of their streams, by the same ``evolve`` that decisions use, and the rows of it.

Pure, one event after the other: batch sizes do not matter. What a stream's events say to this version alone counts;
an event that it does not know marks the stream, and so does what fails on it. A log prefix has no holes: where one
shows, the rows before it are not the log's, and that is an error.
"""

from collections.abc import Collection, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import NamedTuple

from turnlog_schemas import events as ev
from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.parts import ContentPart, is_plain_text, text_content
from turnlog_streams.channel.state import Channel, answered_by_delivery, evolve_channel
from turnlog_streams.facts import Fact
from turnlog_streams.folding.canonical import decode, encode
from turnlog_streams.folding.leaving import leaving
from turnlog_streams.folding.rows import (
    AnswerRow,
    ChannelSessionRow,
    MarkRow,
    StoredMessage,
    StreamRow,
    Unanswered,
    slot_of,
)
from turnlog_streams.forwarding import waits_after
from turnlog_streams.history.messages import HistoryMessage, history_message
from turnlog_streams.history.window import Window, window_of
from turnlog_streams.lookups import WROTE_NOTHING, ChannelSession, Written
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.records import changed
from turnlog_streams.session.state import Session, evolve

StreamName = tuple[str, str]  #: kind and id
StreamState = Session | Channel
RowName = tuple[int, str]  #: offset of the stream, and a source or session
_KNOWN = frozenset(ev.EVENTS)
_FOLDED = frozenset((ev.SESSION, ev.CHANNEL))


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedEvent(LoggedEvent):
    """A confirmed event of the stream's owner, who has folded it already: nothing of that is done a second time."""

    after: StreamState  #: of the stream
    written: Written  #: what left the state

    @classmethod
    def of(cls, logged: LoggedEvent, after: StreamState, written: Written) -> "FoldedEvent":
        """An event, with what it has become of its stream."""
        return cls(
            partition=logged.partition,
            offset=logged.offset,
            header=logged.header,
            payload=logged.payload,
            after=after,
            written=written,
        )


class FoldError(RuntimeError):
    """An event that cannot be the next one of what is stored."""


@dataclass(slots=True, kw_only=True)
class FoldedStream:
    """A stream as of its newest event. Changed in place by :func:`fold`."""

    kind: str
    stream_id: str
    stream_offset: int
    state: StreamState
    last_offset: int = -1
    unknown_events: int = 0
    waits_since: int | None = None

    def row(self) -> StreamRow:
        """How a store keeps it."""
        return StreamRow(
            *(self.kind, self.stream_id, self.stream_offset, self.last_offset, self.unknown_events),
            *(self.waits_since, encode(self.state)),
        )


def folded(row: StreamRow) -> FoldedStream:
    """The stream of a row."""
    state: StreamState = decode(Session, row.state) if row.kind == ev.SESSION else decode(Channel, row.state)
    return FoldedStream(
        kind=row.kind,
        stream_id=row.stream_id,
        stream_offset=row.stream_offset,
        state=state,
        last_offset=row.last_offset,
        unknown_events=row.unknown_events,
        waits_since=row.waits_since,
    )


class Gone(NamedTuple):
    """A session of which no row stays."""

    session_id: str
    answered: frozenset[str]  #: requests that are still to be told that it is


@dataclass(slots=True, kw_only=True)
class Folded:
    """What a batch of events leads to."""

    begun: set[StreamName] = field(default_factory=set)  #: streams that have no row yet
    touched: dict[StreamName, FoldedStream] = field(default_factory=dict)
    messages: list[StoredMessage] = field(default_factory=list)
    answers: list[AnswerRow] = field(default_factory=list)
    marks: dict[RowName, MarkRow] = field(default_factory=dict)  #: new, or instead of what stands there
    channel_sessions: dict[RowName, ChannelSessionRow] = field(default_factory=dict)  #: opened
    archived: set[RowName] = field(default_factory=set)  #: sessions of channels that were opened before
    #: By the stream's offset: the rows of before this batch are gone, its messages and answers, and those of what is
    #: unanswered have no hash. (Those of this batch are so already.)
    erased: dict[int, Gone] = field(default_factory=dict)
    erased_sessions: dict[RowName, ChannelSessionRow] = field(default_factory=dict)  #: instead of what stands there
    unanswered: list[Unanswered] = field(default_factory=list)


def touched(events: Iterable[LoggedEvent]) -> set[StreamName]:
    """The streams of these events."""
    return {_name(logged) for logged in events if logged.header.stream_kind in _FOLDED}


def begun(events: Iterable[LoggedEvent]) -> set[StreamName]:
    """The streams whose first event is one of these."""
    return {_name(logged) for logged in events if logged.header.stream_version == 1}


def _name(logged: LoggedEvent) -> StreamName:
    return logged.header.stream_kind, logged.header.stream_id


def fold(
    events: Sequence[LoggedEvent],
    streams: MutableMapping[StreamName, FoldedStream],
    *,
    replied: int = -1,
    tolerant: bool = False,
) -> Folded:
    """What accepted events (in log order) lead to; brings ``streams`` up to date.

    ``streams`` holds every stream of these events that any earlier event belongs to. After an error it is worthless.
    ``replied``: what events up to there answer is sent. ``tolerant``: a hole marks its stream, instead of being an
    error. Raises :class:`FoldError`.
    """
    result = Folded()
    for logged in events:
        header = logged.header
        if header.stream_kind not in _FOLDED:
            continue
        name = header.stream_kind, header.stream_id
        stream = streams.get(name)
        if stream is None:
            kind, stream_id = name
            state: StreamState = Session(session_id=stream_id) if kind == ev.SESSION else Channel(channel=stream_id)
            stream = FoldedStream(kind=kind, stream_id=stream_id, stream_offset=logged.offset, state=state)
            streams[name] = stream
            result.begun.add(name)
        result.touched[name] = stream
        _next(stream, logged, result, replied, tolerant)
    return result


def _next(stream: FoldedStream, logged: LoggedEvent, result: Folded, replied: int, tolerant: bool) -> None:
    header, event, before = logged.header, logged.payload, stream.state
    known = type(event) in _KNOWN
    try:
        if not known:
            raise LookupError(f"an event of type {type(event).__name__}")
        if header.stream_version != before.version + 1:
            raise LookupError(f"version {before.version + 1} of it")
        if isinstance(logged, FoldedEvent):
            after, written = logged.after, logged.written
        else:
            fact = Fact(event=event, turn_id=header.turn_id, attempt=header.attempt)
            after = evolve_stream(before, fact)
            written = leaving(before, after, fact)
        if logged.offset > replied:
            _unanswered(stream, before, logged, result)
    except Exception as error:  # whatever an event makes fail is its own stream's problem
        if known and isinstance(error, LookupError) and not (stream.unknown_events or tolerant):
            raise FoldError(
                f"{stream.kind} {stream.stream_id}, event {type(event).__name__} at "
                f"events[{logged.partition}]@{logged.offset}: {error} was never stored before it. Delete this DuckDB "
                "file to have it rebuilt; if that does not help, the log was written by something else than this "
                "program"
            ) from error
        stream.unknown_events += 1
        after = changed(before, version=header.stream_version)
    else:
        if written is not WROTE_NOTHING:
            _write(stream.stream_offset, written, result)
        if isinstance(event, ev.MessageStored):
            result.messages.append(_stored(stream, logged, event))
        elif isinstance(event, ev.SessionErased):
            _erase(stream, after, logged.offset, result)
    stream.state = after
    stream.last_offset = logged.offset
    if not waits(after):
        stream.waits_since = None
    elif stream.waits_since is None:
        stream.waits_since = logged.offset


def _erase(stream: FoldedStream, after: StreamState, offset: int, result: Folded) -> None:
    """Who may not have heard an answer hears that the session is erased; nothing tells what was asked."""
    where, name = stream.stream_offset, (stream.kind, stream.stream_id)
    answered = frozenset(after.answers.known)
    result.erased[where] = Gone(stream.stream_id, answered)
    result.messages = [row for row in result.messages if row.stream_offset != where]
    result.answers = [row for row in result.answers if row.stream_offset != where]
    result.unanswered = [
        row if (row.kind, row.stream_id) != name or row.log_offset == offset else row._replace(command_hash="")
        for row in result.unanswered
        if (row.kind, row.stream_id) != name or row.request_id in answered
    ]


def _channel_session_row(stream_offset: int, session: ChannelSession) -> ChannelSessionRow:
    return ChannelSessionRow(
        *(slot_of(stream_offset, session.session_id), stream_offset, session.session_id, session.rank),
        *(session.archived, encode(session)),
    )


def _write(stream_offset: int, written: Written, result: Folded) -> None:
    for key, answer in written.answers.items():
        result.answers.append(AnswerRow(slot_of(stream_offset, key), stream_offset, key, encode(answer)))
    for source, seq in written.marks.items():
        result.marks[stream_offset, source] = MarkRow(slot_of(stream_offset, source), stream_offset, source, seq)
    if written.opened is not None:
        name = stream_offset, written.opened.session_id
        result.channel_sessions[name] = _channel_session_row(stream_offset, written.opened)
    if written.erased is not None:
        name = stream_offset, written.erased.session_id
        rows = result.channel_sessions if name in result.channel_sessions else result.erased_sessions
        rows[name] = _channel_session_row(stream_offset, written.erased)
    if written.archived is not None:
        name = stream_offset, written.archived
        opened = result.channel_sessions.get(name)
        if opened is None:
            result.archived.add(name)
        else:
            result.channel_sessions[name] = opened._replace(archived=True)


def window(state: StreamState) -> Window:
    """Which messages of a stream its owner holds."""
    if isinstance(state, Channel):
        return Window()
    return window_of(state.history_compaction.summary, state.question_seq)


def channel_session(row: ChannelSessionRow) -> ChannelSession:
    """The session of a row."""
    return changed(decode(ChannelSession, row.session), archived=row.archived)


def evolve_stream(state: StreamState, fact: Fact) -> StreamState:
    """The state after an accepted event, of either kind of stream."""
    return evolve(state, fact) if isinstance(state, Session) else evolve_channel(state, fact)


def waits(state: StreamState) -> bool:
    """Is there anything that a new owner has to go on with?"""
    if isinstance(state, Session):
        return bool(state.turns or state.outbox or state.owed_runs)
    return bool(state.outbox)


# ---- requests that are answered once an event is in the log (``reply_frames`` has their frames)


def _unanswered(stream: FoldedStream, before: StreamState, logged: LoggedEvent, result: Folded) -> None:
    for place, (request_id, command_hash) in enumerate(_answered(before, logged)):
        row = Unanswered(logged.offset, place, stream.kind, stream.stream_id, request_id, command_hash)
        result.unanswered.append(row)


def _answered(before: StreamState, logged: LoggedEvent) -> Collection[tuple[str, str]]:
    """Id and hash of the requests that this event answers."""
    event = logged.payload
    if isinstance(event, ev.RequestRefused | ev.TurnHidden | ev.SessionErased):
        return [(event.request_id, event.command_hash)]
    if isinstance(event, ev.RequestDecided):
        return [] if event.waits_for else [(event.request_id, event.command_hash)]
    if isinstance(event, ev.ForwardDelivered):
        return _answered_by_delivery(before, event)
    if isinstance(before, Channel):
        return ()
    if isinstance(event, ev.TurnCompleted | ev.TurnFailed | ev.TurnCancelled):
        request_id = before.turns[logged.header.turn_id or ""].request_id
        found = [(request_id, before.answers.known[request_id].command_hash)]
        if isinstance(event, ev.TurnCancelled) and event.by is not None:
            found.append((event.by.request_id, event.by.command_hash))
        return found
    if isinstance(event, ev.HistoryCompacted | ev.HistoryCompactionFailed | ev.HistoryCompactionSkipped):
        owed = [run.request_id for run in before.owed_runs if run.request_id == event.request_id]
        return [(request_id, before.answers.known[request_id].command_hash) for request_id in owed]
    return ()


def _answered_by_delivery(before: StreamState, event: ev.ForwardDelivered) -> Collection[tuple[str, str]]:
    """The requests that waited for this forward last."""
    if isinstance(before, Channel):
        return [(name, answer.command_hash) for name, answer in answered_by_delivery(before, event).items()]
    _, ready = waits_after(before.waits, event.seq)
    return [(request_id, before.answers.known[request_id].command_hash) for request_id in ready]


# ---- messages


#: What is left of a message where the columns of its row say it all.
_NOTHING_MORE = HistoryMessage(message_seq=0, turn_id="", role="")
_IN_COLUMNS = {"message_seq", "turn_id", "role", "content"}
_rest_of = attrgetter(*(each.name for each in fields(HistoryMessage) if each.name not in _IN_COLUMNS))
_NO_REST = _rest_of(_NOTHING_MORE)


def _stored(stream: FoldedStream, logged: LoggedEvent, event: ev.MessageStored) -> StoredMessage:
    turn_id = logged.header.turn_id or ""
    text = plain_text(event.content)
    more = None
    if text is None or _rest_of(event) != _NO_REST:
        content = event.content if text is None else _NOTHING_MORE.content
        more = encode(changed(history_message("", event), message_seq=0, role="", content=content))
    place = stream.stream_offset, event.message_seq, logged.offset
    return StoredMessage(*place, turn_id, event.role, text, more)


def plain_text(content: tuple[ContentPart, ...] | None) -> str | None:
    """The text of a content that is nothing but one text."""
    if content is None or len(content) != 1:
        return None
    (part,) = content
    return part.text if is_plain_text(part) else None


def stored_message(row: StoredMessage) -> HistoryMessage:
    """The message of a row."""
    more = _NOTHING_MORE if row.more is None else decode(HistoryMessage, row.more)
    content = more.content if row.text is None else text_content(row.text)
    return changed(more, message_seq=row.message_seq, turn_id=row.turn_id, role=row.role, content=content)
