"""A channel's state, what events do to it, and which rows they write.

The state is of bounded size: of a channel's sessions it has the one opened last, the others are rows.
"""

from dataclasses import dataclass

from immutables import Map

from turnlog_schemas import events as ev
from turnlog_schemas.parts import NewSession
from turnlog_streams.answers import NO_ANSWERS, Answers, refusal_answer, refusal_key
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import (
    NO_MARKS,
    NO_WAITS,
    Forward,
    Marks,
    delivered,
    pending,
    source_key,
    waits_after,
    without_texts,
)
from turnlog_streams.lookups import WROTE_NOTHING, ChannelSession, Written
from turnlog_streams.records import changed
from turnlog_streams.turn import Answer

KEPT_ANSWERS = 50  #: of done requests
KEPT_MARKS = 50  #: of sessions that told something


@dataclass(frozen=True, kw_only=True)  # no slots: see ``records``
class Channel:
    """What decisions of a channel need to know, beside rows that they look up."""

    channel: str
    version: int = 0
    active: str | None = None  #: session id
    newest: ChannelSession | None = None  #: the session opened last
    session_count: int = 0  #: ever opened
    archived_count: int = 0
    forward_seq: int = 0
    answers: Answers = NO_ANSWERS
    waits: Map[str, frozenset[int]] = NO_WAITS
    marks: Marks = NO_MARKS
    outbox: tuple[Forward, ...] = ()


def evolve_channel(channel: Channel, fact: Fact) -> Channel:
    """The state after an accepted event. Never refuses a recorded fact."""
    if len(channel.answers.settled) > KEPT_ANSWERS:
        channel = changed(channel, answers=channel.answers.newest(KEPT_ANSWERS))
    event, version = fact.event, channel.version + 1
    match event:
        case ev.ChannelSessionOpened():
            return changed(
                channel,
                version=version,
                newest=_opened(channel, event),
                active=event.session_id,
                session_count=channel.session_count + 1,
            )
        case ev.ChannelSessionArchived():
            newest = channel.newest
            if newest is not None and newest.session_id == event.session_id:
                newest = changed(newest, archived=True)
            return changed(
                channel,
                version=version,
                newest=newest,
                active=event.active,
                archived_count=channel.archived_count + 1,
            )
        case ev.ChannelSessionErased():
            newest, left = channel.newest, _erased(event)
            outbox = [without_texts(each) if each.target_id == event.session_id else each for each in channel.outbox]
            return changed(
                channel,
                version=version,
                newest=left if newest is not None and newest.session_id == event.session_id else newest,
                outbox=tuple(outbox),
            )
        case ev.RequestDecided():
            answer, waits = _decided(event), channel.waits
            if event.waits_for:
                waits = waits.set(event.request_id, frozenset(event.waits_for))
                answers = channel.answers.waiting(event.request_id, answer)
            else:
                answers = channel.answers.settle(event.request_id, answer)
            return changed(channel, version=version, answers=answers, waits=waits)
        case ev.RequestRefused():
            answers = channel.answers.settle(refusal_key(event), refusal_answer(event))
            return changed(channel, version=version, answers=answers)
        case ev.CommandForwarded():
            return changed(channel, version=version, forward_seq=event.seq, outbox=pending(channel.outbox, event))
        case ev.ForwardDelivered():
            return _after_delivery(channel, event)
        case ev.ForwardReceived():
            marks = channel.marks.heard(source_key(event.source_kind, event.source_id), event.seq, keep=KEPT_MARKS)
            return changed(channel, version=version, marks=marks)
        case _:  # a fact of another kind of stream: it never stands in this one, and is never refused
            return changed(channel, version=version)


def _opened(channel: Channel, event: ev.ChannelSessionOpened) -> ChannelSession:
    return ChannelSession(session_id=event.session_id, rank=channel.version + 1, new_session=event.new_session)


def _erased(event: ev.ChannelSessionErased) -> ChannelSession:
    """Its channel archived it before."""
    return ChannelSession(session_id=event.session_id, rank=event.rank, archived=True, new_session=NewSession())


def _decided(event: ev.RequestDecided) -> Answer:
    return Answer(
        command_hash=event.command_hash,
        kind="decided",
        session_id=event.session_id,
        created=event.created,
        reply=event.reply,
    )


def _after_delivery(channel: Channel, event: ev.ForwardDelivered) -> Channel:
    """A forward arrived. If it was to create a session that is none of this channel, who waits for it is refused."""
    waits, _ = waits_after(channel.waits, event.seq)
    answers = channel.answers
    for request_id, answer in _refused_by(channel, event).items():
        answers = answers.waiting(request_id, answer)
    for request_id, answer in answered_by_delivery(channel, event).items():
        answers = answers.settle(request_id, answer)
    return changed(
        channel,
        version=channel.version + 1,
        outbox=delivered(channel.outbox, event.seq),
        waits=waits,
        answers=answers,
    )


def answered_by_delivery(channel: Channel, event: ev.ForwardDelivered) -> dict[str, Answer]:
    """By request id: the answers that waited for this forward last."""
    refused = _refused_by(channel, event)
    _, ready = waits_after(channel.waits, event.seq)
    return {request_id: refused.get(request_id) or channel.answers.known[request_id] for request_id in ready}


def _refused_by(channel: Channel, event: ev.ForwardDelivered) -> dict[str, Answer]:
    """By request id: what those are answered who wait for a session that turned out to be none of this channel."""
    session_id = refused_session(channel, event)
    waiting = [(request_id, channel.answers.known[request_id]) for request_id in channel.waits if session_id]
    return {request_id: _taken(answer) for request_id, answer in waiting if answer.session_id == session_id}


def refused_session(channel: Channel, event: ev.ForwardDelivered) -> str | None:
    """The session that a delivery says to be none of this channel."""
    if not event.refused:
        return None
    return next((forward.target_id for forward in channel.outbox if forward.seq == event.seq), None)


def _taken(answer: Answer) -> Answer:
    """What a request is answered whose session turned out to be none of this channel."""
    reason = f"session {answer.session_id} is there already, and does not belong to this channel"
    return changed(answer, kind="refused", code="exists", reason=reason)


def rows_of_channel(before: Channel, fact: Fact) -> Written:
    """The rows that an event writes."""
    event = fact.event
    match event:
        case ev.ChannelSessionOpened():
            return Written(opened=_opened(before, event))
        case ev.ChannelSessionArchived():
            return Written(archived=event.session_id)
        case ev.ChannelSessionErased():
            return Written(erased=_erased(event))
        case ev.RequestDecided():
            return Written(answers={event.request_id: _decided(event)})
        case ev.RequestRefused():
            return Written(answers={refusal_key(event): refusal_answer(event)})
        case ev.ForwardReceived():
            return Written(marks={source_key(event.source_kind, event.source_id): event.seq})
        case ev.ForwardDelivered() if event.refused:
            return Written(answers=_refused_by(before, event))
        case _:
            return WROTE_NOTHING
