"""The channel aggregate: which sessions a channel has, which of them is the active one. It alone decides lifecycle.

Stream name: the channel. "Most recently active" is the order of the channel's own log, never a clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from immutables import Map

from turnlog_schemas import commands as cmd
from turnlog_schemas import events as ev
from turnlog_schemas.events import SESSION
from turnlog_schemas.parts import NewSession
from turnlog_streams.forwarding import (
    ACTIVATED,
    ARCHIVED,
    CREATED,
    DEACTIVATED,
    NO_MARKS,
    OPENED,
    Forward,
    ReceiveForward,
    ReceiveReceipt,
    delivered,
    forwarded,
    pending,
    source_key,
)
from turnlog_streams.policy import Policy
from turnlog_streams.records import changed
from turnlog_streams.refusals import conflict, refusal
from turnlog_streams.session.commands import Refuse
from turnlog_streams.session.state import Fact, conflict_key, reply_address
from turnlog_streams.turn import ReplyAddress

# ---- state


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSession:
    """One of the channel's sessions, as the channel knows it."""

    session_id: str
    rank: int  #: version of the channel at its last activity: the highest is the most recent
    archived: bool = False
    title: str | None = None
    instructions: str | None = None
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelAnswer:
    """What became of a lifecycle request, kept for ever."""

    command_hash: str
    kind: str  #: ``decided`` or ``refused``
    session_id: str = ""
    created: bool = False
    code: str = ""
    reason: str = ""
    reply: ReplyAddress = field(default_factory=ReplyAddress)


NO_SESSIONS: Map[str, ChannelSession] = Map()
NO_ANSWERS: Map[str, ChannelAnswer] = Map()
NO_WAITS: Map[str, frozenset[int]] = Map()


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """The state of a channel."""

    channel: str
    version: int = 0
    active: str | None = None  #: session id
    forward_seq: int = 0
    sessions: Map[str, ChannelSession] = NO_SESSIONS
    answers: Map[str, ChannelAnswer] = NO_ANSWERS  #: by request id
    waits: Map[str, frozenset[int]] = NO_WAITS  #: request id -> forwards that must be delivered before its answer
    marks: Map[str, int] = NO_MARKS  #: highest forward heard, by source
    outbox: tuple[Forward, ...] = ()


def evolve_channel(channel: Channel, fact: Fact) -> Channel:
    """The state after an accepted event."""
    event, version = fact.event, channel.version + 1
    match event:
        case ev.ChannelSessionOpened():
            opened = ChannelSession(
                session_id=event.session_id,
                rank=version,
                title=event.title,
                instructions=event.instructions,
                model=event.model,
                metadata=event.metadata,
            )
            sessions = channel.sessions.set(event.session_id, opened)
            return changed(channel, version=version, sessions=sessions, active=event.session_id)
        case ev.ChannelSessionActivated():
            session = changed(channel.sessions[event.session_id], rank=version)
            sessions = channel.sessions.set(event.session_id, session)
            return changed(channel, version=version, sessions=sessions, active=event.session_id)
        case ev.ChannelSessionArchived():
            session = changed(channel.sessions[event.session_id], archived=True)
            sessions = channel.sessions.set(event.session_id, session)
            active = channel.active if channel.active != event.session_id else _most_recent(sessions)
            return changed(channel, version=version, sessions=sessions, active=active)
        case ev.ChannelRequestDecided():
            answer = ChannelAnswer(
                command_hash=event.command_hash,
                kind="decided",
                session_id=event.session_id,
                created=event.created,
                reply=reply_address(event),
            )
            waits = channel.waits
            if event.waits_for:
                waits = waits.set(event.request_id, frozenset(event.waits_for))
            return changed(channel, version=version, answers=channel.answers.set(event.request_id, answer), waits=waits)
        case ev.RequestRefused():
            return _refused(channel, event)
        case ev.CommandForwarded():
            return changed(channel, version=version, forward_seq=event.seq, outbox=pending(channel.outbox, event))
        case ev.ForwardDelivered():
            channel = _given_up(channel, event.seq) if event.refused else channel
            waits = channel.waits
            for request_id, seqs in channel.waits.items():
                if event.seq in seqs:
                    rest = seqs - {event.seq}
                    waits = waits.set(request_id, rest) if rest else waits.delete(request_id)
            return changed(channel, version=version, outbox=delivered(channel.outbox, event.seq), waits=waits)
        case ev.ForwardReceived():
            marks = channel.marks.set(source_key(event.source_kind, event.source_id), event.seq)
            return changed(channel, version=version, marks=marks)
        case _:  # a fact of another kind of stream: it never stands in this one, and is never refused
            return changed(channel, version=version)


def _refused(channel: Channel, event: ev.RequestRefused) -> Channel:
    refused = ChannelAnswer(
        command_hash=event.command_hash,
        kind="refused",
        code=event.code,
        reason=event.reason,
        reply=reply_address(event),
    )
    key = event.request_id
    if key in channel.answers:
        key = conflict_key(key, event.command_hash)
    return changed(channel, version=channel.version + 1, answers=channel.answers.set(key, refused))


def _given_up(channel: Channel, seq: int) -> Channel:
    """A session that is another channel's: archived as far as this one goes, and refused to all who wait for it."""
    session_id = next((forward.target_id for forward in channel.outbox if forward.seq == seq), "")
    if session_id not in channel.sessions:
        return channel
    sessions = channel.sessions.set(session_id, changed(channel.sessions[session_id], archived=True))
    active = channel.active if channel.active != session_id else _most_recent(sessions)
    answers = channel.answers
    for request_id in channel.waits:
        if (answer := answers[request_id]).session_id == session_id:
            reason = f"session {session_id} belongs to another channel"
            answers = answers.set(request_id, changed(answer, kind="refused", code="exists", reason=reason))
    return changed(channel, sessions=sessions, active=active, answers=answers)


def _most_recent(sessions: Map[str, ChannelSession]) -> str | None:
    live = [session for session in sessions.values() if not session.archived]
    return max(live, key=lambda session: session.rank).session_id if live else None


# ---- decisions


@dataclass(frozen=True, slots=True, kw_only=True)
class DecideLifecycle:
    """A lifecycle request, decoded. ``new_ids``: candidates for the id of a session that it opens."""

    request_id: str
    command_hash: str
    command: cmd.ChannelRequest
    session_id: str | None  #: of the request's header: the id to create, the session to archive
    new_ids: tuple[str, ...]
    reply: ReplyAddress


ChannelCommand = DecideLifecycle | Refuse | ReceiveForward | ReceiveReceipt


def decide_channel(channel: Channel, command: ChannelCommand, policy: Policy) -> list[Fact]:
    """The events that a command leads to; nothing to do is ``[]``."""
    match command:
        case Refuse():
            if known_channel_answer(channel, command.request_id, command.command_hash) is not None:
                return []
            return [refusal(command, command.code, command.reason)]
        case DecideLifecycle():
            return _lifecycle(channel, command, policy)
        case ReceiveForward():
            return _received(channel, command)
        case ReceiveReceipt():
            return _delivered(channel, command)
        case _:
            assert_never(command)


def known_channel_answer(channel: Channel, request_id: str, command_hash: str) -> ChannelAnswer | None:
    """What became of this very request before; ``None`` when it is new, or conflicts for the first time."""
    answer = channel.answers.get(request_id)
    if answer is not None and answer.command_hash != command_hash:
        return channel.answers.get(conflict_key(request_id, command_hash))
    return answer


class _Lifecycle:
    """Collects the events of one lifecycle decision; forwards are numbered as they come."""

    def __init__(self, channel: Channel) -> None:
        self.before = channel
        self.facts: list[Fact] = []
        self.seqs: list[int] = []

    def add(self, event: ev.Event) -> None:
        self.facts.append(Fact(event=event))

    def tell(self, session_id: str, what: str, new: NewSession | None = None, request_id: str | None = None) -> None:
        seq = self.before.forward_seq + len(self.seqs) + 1
        self.seqs.append(seq)
        self.add(
            forwarded(
                seq,
                what,
                target_kind=SESSION,
                target_id=session_id,
                new_session=new,
                request_id_of_origin=request_id,
            )
        )

    def open(self, session_id: str, new: NewSession, *, by: str, request_id: str | None) -> None:
        """A session joins; whoever was active is told that it is not any more."""
        opened = ev.ChannelSessionOpened(
            session_id=session_id,
            by=by,
            title=new.title,
            instructions=new.instructions,
            model=new.model,
            metadata=new.metadata or {},
        )
        self.add(opened)
        if by == "request":
            self.tell(session_id, CREATED, new, request_id)

    def archive(self, session_id: str) -> None:
        self.add(ev.ChannelSessionArchived(session_id=session_id))
        self.tell(session_id, ARCHIVED)


def _lifecycle(channel: Channel, command: DecideLifecycle, policy: Policy) -> list[Fact]:
    if known_channel_answer(channel, command.request_id, command.command_hash) is not None:
        return []
    if command.request_id in channel.answers:
        return [conflict(command)]
    work = _Lifecycle(channel)
    new = getattr(command.command, "new_session", None) or NewSession()
    if new.model is not None and not policy.allows(new.model):
        return [refusal(command, "model_not_allowed", policy.not_allowed(new.model))]
    match command.command:
        case cmd.CreateSession():
            session_id = command.session_id or _free_id(channel, command)
            if session_id in channel.sessions:
                return [refusal(command, "exists", f"session {session_id} exists already")]
            return _open_new(work, command, session_id, new)
        case cmd.ResolveSession():
            if channel.active is not None:
                return _decided(work, command, channel.active, created=False)
            return _open_new(work, command, _free_id(channel, command), new)
        case cmd.RotateSession():
            if channel.active is not None:
                work.archive(channel.active)
            return _open_new(work, command, _free_id(channel, command), new, told=channel.active)
        case cmd.ArchiveSession():
            return _archive(work, command)
        case cmd.ActiveSession():
            if channel.active is None:
                return [refusal(command, "not_found", f"channel {channel.channel} has no active session")]
            return []
        case _:
            assert_never(command.command)


def _free_id(channel: Channel, command: DecideLifecycle) -> str:
    """The first candidate that no session of the channel has; 8 hex digits of a digest seldom meet."""
    return next(session_id for session_id in command.new_ids if session_id not in channel.sessions)


def _open_new(
    work: _Lifecycle, command: DecideLifecycle, session_id: str, new: NewSession, told: str | None = None
) -> list[Fact]:
    previous = work.before.active
    work.open(session_id, new, by="request", request_id=command.request_id)
    if previous is not None and previous != told:
        work.tell(previous, DEACTIVATED)
    return _decided(work, command, session_id, created=True)


def _archive(work: _Lifecycle, command: DecideLifecycle) -> list[Fact]:
    channel = work.before
    session = channel.sessions.get(command.session_id or "")
    if session is None:
        where = f"channel {channel.channel} has no session {command.session_id!r}"
        return [refusal(command, "not_found", where)]
    if not session.archived:
        work.archive(session.session_id)
        if channel.active == session.session_id:
            following = _most_recent(channel.sessions.delete(session.session_id))
            if following is not None:
                work.tell(following, ACTIVATED)
    return _decided(work, command, session.session_id, created=False)


def _decided(work: _Lifecycle, command: DecideLifecycle, session_id: str, *, created: bool) -> list[Fact]:
    """The answer waits for all that the session is yet to hear: what its reader sends next comes behind it."""
    reply = command.reply
    earlier = [forward.seq for forward in work.before.outbox if forward.target_id == session_id]
    work.add(
        ev.ChannelRequestDecided(
            request_id=command.request_id,
            command_hash=command.command_hash,
            session_id=session_id,
            created=created,
            waits_for=(*earlier, *work.seqs),
            reply_to=reply.reply_to,
            framing=reply.framing,
            traceparent=reply.traceparent,
            tracestate=reply.tracestate,
        )
    )
    return work.facts


def _delivered(channel: Channel, command: ReceiveReceipt) -> list[Fact]:
    """A forward arrived. If the session that it was to create is another channel's, the one before it is active."""
    if not any(forward.seq == command.seq for forward in channel.outbox):
        return []
    work = _Lifecycle(channel)
    work.add(ev.ForwardDelivered(seq=command.seq, refused=command.refused))
    active = evolve_channel(channel, work.facts[0]).active
    if active is not None and active != channel.active:
        work.tell(active, ACTIVATED)
    return work.facts


def _received(channel: Channel, command: ReceiveForward) -> list[Fact]:
    """A session tells that a chat opened it, or that it was chatted to although it is not the active one."""
    if command.seq <= channel.marks.get(source_key(command.source_kind, command.source_id), 0):
        return []
    work = _Lifecycle(channel)
    work.add(ev.ForwardReceived(source_kind=command.source_kind, source_id=command.source_id, seq=command.seq))
    session = channel.sessions.get(command.source_id)
    if command.what == OPENED and session is None:
        work.open(command.source_id, command.new_session or NewSession(), by="chat", request_id=None)
        if channel.active is not None:
            work.tell(channel.active, DEACTIVATED)
    elif session is not None and not session.archived and channel.active != session.session_id:
        work.add(ev.ChannelSessionActivated(session_id=session.session_id))
        work.tell(session.session_id, ACTIVATED)
        if channel.active is not None:
            work.tell(channel.active, DEACTIVATED)
    return work.facts
