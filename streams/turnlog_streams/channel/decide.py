"""What a channel decides: (state, command, policy, rows that were looked up) -> events.

Decisions are total and synchronous; nothing to do is ``[]``, and the same command twice gives ``[]`` the second time.
"""

from typing import assert_never

from turnlog_schemas import commands as cmd
from turnlog_schemas import events as ev
from turnlog_schemas.events import SESSION
from turnlog_schemas.parts import NewSession
from turnlog_streams.channel.commands import ChangeChannel, ChannelCommand
from turnlog_streams.channel.state import Channel, refused_session
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import (
    ACTIVATED,
    ARCHIVED,
    CREATED,
    DEACTIVATED,
    ERASED,
    OPENED,
    ReceiveForward,
    ReceiveReceipt,
    forwarded,
    source_key,
    waits_after,
)
from turnlog_streams.lookups import NOTHING, ChannelSession, Found, Lookup
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import Refuse, conflict, refusal
from turnlog_streams.session.initial_messages import files_among, too_long_messages, without_messages
from turnlog_streams.turn import Answer

_NEW = NewSession()


def decide_channel(channel: Channel, command: ChannelCommand, policy: Policy, found: Found = NOTHING) -> list[Fact]:
    """The events that a command leads to. ``found`` must have all that :func:`channel_needs` asks for."""
    match command:
        case Refuse():
            if known_channel_answer(channel, command.request_id, command.command_hash, found) is not None:
                return []
            used = channel.answers.find(command.request_id, found.answers) is not None
            return [refusal(command, command.code, command.reason, reused=used)]
        case ChangeChannel():
            return _change(channel, command, policy, found)
        case ReceiveForward():
            return _received(channel, command, found)
        case ReceiveReceipt():
            return _delivered(channel, command, found)
        case _:
            assert_never(command)


def known_channel_answer(channel: Channel, request_id: str, command_hash: str, found: Found = NOTHING) -> Answer | None:
    """What became of this very request before; ``None`` when it is new, or conflicts for the first time."""
    return channel.answers.of_request(request_id, command_hash, found.answers)


# ---- what has to be looked up


def channel_needs(channel: Channel, command: ChannelCommand, found: Found = NOTHING) -> Lookup | None:
    """The rows that deciding a command, and answering it, depends on; ``None``: everything is known."""
    match command:
        case Refuse():
            return _answers(channel, command, found)
        case ChangeChannel():
            return _needs_of_change(channel, command, found)
        case ReceiveForward():
            return _needs_of_forward(channel, command, found)
        case ReceiveReceipt():
            return _needs_of_receipt(channel, command, found)
        case _:
            assert_never(command)


def active_needs(channel: Channel, found: Found = NOTHING) -> Lookup | None:
    """The rows that telling the active session depends on."""
    return _rows(channel, found, channel.active)


def channel_answer_needs(channel: Channel, request_id: str, command_hash: str, found: Found = NOTHING) -> Lookup | None:
    """The rows that giving the answer of a request again depends on."""
    if keys := channel.answers.unknown(request_id, command_hash, found.answers):
        return Lookup(answers=keys)
    answer = known_channel_answer(channel, request_id, command_hash, found)
    return _rows(channel, found, answer.session_id) if answer is not None and answer.kind == "decided" else None


def find_session(channel: Channel, session_id: str, found: Found) -> ChannelSession | None:
    """A session of the channel: the newest one, or one that was looked up."""
    if channel.newest is not None and channel.newest.session_id == session_id:
        return channel.newest
    return found.sessions.get(session_id)


def _answers(channel: Channel, command: ChangeChannel | Refuse, found: Found) -> Lookup | None:
    keys = channel.answers.unknown(command.request_id, command.command_hash, found.answers)
    return Lookup(answers=keys) if keys else None


def _rows(channel: Channel, found: Found, *session_ids: str | None) -> Lookup | None:
    """Of these sessions, those whose rows may be there and are not known."""
    newest = channel.newest.session_id if channel.newest is not None else None
    others = channel.session_count > 1  # else there is none but the newest
    wanted = {name for name in session_ids if others and name and name != newest and name not in found.sessions}
    return Lookup(sessions=frozenset(wanted)) if wanted else None


def _following(channel: Channel, session_id: str | None, found: Found) -> Lookup | None:
    """Who is the active one when this one no longer is?"""
    asked = session_id is None or session_id != channel.active or session_id in found.latest_except
    return None if asked else Lookup(latest_except=session_id)


def _needs_of_change(channel: Channel, command: ChangeChannel, found: Found) -> Lookup | None:
    if (lookup := _answers(channel, command, found)) is not None:
        return lookup
    known = known_channel_answer(channel, command.request_id, command.command_hash, found)
    if known is not None:
        return _rows(channel, found, known.session_id)
    if isinstance(command.command, cmd.ArchiveSession):
        return _rows(channel, found, command.session_id) or _following(channel, command.session_id, found)
    if isinstance(command.command, cmd.ResolveSession) and channel.active is not None:
        return _rows(channel, found, channel.active)
    if isinstance(command.command, cmd.CreateSession) and command.session_id:
        return _rows(channel, found, command.session_id)
    for session_id in command.new_ids:
        if (lookup := _rows(channel, found, session_id)) is not None:
            return lookup
        if find_session(channel, session_id, found) is None:
            return None
    return None


def _needs_of_forward(channel: Channel, command: ReceiveForward, found: Found) -> Lookup | None:
    source = source_key(command.source_kind, command.source_id)
    if marks := channel.marks.unknown(source, found.marks):
        return Lookup(marks=marks)
    if command.seq <= channel.marks.of(source, found.marks):
        return None
    if (lookup := _rows(channel, found, command.source_id)) is not None:
        return lookup
    return _following(channel, command.source_id, found) if command.what in (ARCHIVED, ERASED) else None


def _needs_of_receipt(channel: Channel, command: ReceiveReceipt, found: Found) -> Lookup | None:
    refused = refused_session(channel, ev.ForwardDelivered(seq=command.seq, refused=command.refused))
    if (lookup := _rows(channel, found, refused) or _following(channel, refused, found)) is not None:
        return lookup
    _, ready = waits_after(channel.waits, command.seq)
    return _rows(channel, found, *(channel.answers.known[request_id].session_id for request_id in ready))


# ---- decisions


class _Decision:
    """Collects the events of one decision; forwards are numbered as they come."""

    def __init__(self, channel: Channel, found: Found) -> None:
        self.before = channel
        self.found = found
        self.facts: list[Fact] = []
        self.seqs: list[int] = []

    def add(self, event: ev.Event) -> None:
        self.facts.append(Fact(event=event))

    def tell(self, session_id: str, what: str, new: NewSession | None = None, request_id: str | None = None) -> None:
        seq = self.before.forward_seq + len(self.seqs) + 1
        self.seqs.append(seq)
        target = {"target_kind": SESSION, "target_id": session_id}
        self.add(forwarded(seq, what, **target, new_session=new, request_id_of_origin=request_id))

    def archive(self, session_id: str) -> str | None:
        """One of the channel's sessions is archived; the active one after it."""
        active = self.before.active
        if active == session_id:
            following = self.found.latest_except.get(session_id)
            active = following.session_id if following is not None else None
        self.add(ev.ChannelSessionArchived(session_id=session_id, active=active))
        return active

    def activate(self, session_id: str | None) -> None:
        """Tell the session that is active now and was not."""
        if session_id is not None and session_id != self.before.active:
            self.tell(session_id, ACTIVATED)


def _change(channel: Channel, command: ChangeChannel, policy: Policy, found: Found) -> list[Fact]:
    if known_channel_answer(channel, command.request_id, command.command_hash, found) is not None:
        return []
    if channel.answers.find(command.request_id, found.answers) is not None:
        return [conflict(command)]
    work = _Decision(channel, found)
    new = getattr(command.command, "new_session", None) or _NEW
    if new.model is not None and not policy.allows(new.model):
        reason = f"model {new.model!r} is not allowed here (setting TURNLOG_ALLOW_MODELS)"
        return [refusal(command, "model_not_allowed", reason)]
    if (too_long := too_long_messages(new, policy)) is not None:
        return [refusal(command, "too_long", too_long)]
    model = new.model or policy.model_of(channel.channel)
    files = files_among(new)
    if files and (wrong := policy.files.refusal_of_all(files, model, policy.media_types_of(model))) is not None:
        return [refusal(command, *wrong)]
    match command.command:
        case cmd.CreateSession():
            session_id = command.session_id or _free_id(channel, command, found)
            if find_session(channel, session_id, found) is not None:
                return [refusal(command, "exists", f"session {session_id} exists already")]
            return _open(work, command, session_id, new)
        case cmd.ResolveSession():
            if channel.active is not None:
                return _decided(work, command, channel.active, created=False)
            return _open(work, command, _free_id(channel, command, found), new)
        case cmd.RotateSession():
            if (previous := channel.active) is not None:
                work.add(ev.ChannelSessionArchived(session_id=previous))  # the one that is opened now follows
                work.tell(previous, ARCHIVED)
            return _open(work, command, _free_id(channel, command, found), new, told=previous)
        case cmd.ArchiveSession():
            return _archive(work, command)
        case cmd.ActiveSession():
            return []
        case _:
            assert_never(command.command)


def _free_id(channel: Channel, command: ChangeChannel, found: Found) -> str:
    """The first candidate that no session of the channel has; 8 hex digits of a digest seldom meet."""
    return next(name for name in command.new_ids if find_session(channel, name, found) is None)


def _open(
    work: _Decision, command: ChangeChannel, session_id: str, new: NewSession, told: str | None = None
) -> list[Fact]:
    """A session joins; whoever was active is told that it is not any more, unless it was ``told`` something else."""
    work.add(ev.ChannelSessionOpened(session_id=session_id, by="request", new_session=without_messages(new)))
    work.tell(session_id, CREATED, new, command.request_id)
    previous = work.before.active
    if previous is not None and previous != told:
        work.tell(previous, DEACTIVATED)
    return _decided(work, command, session_id, created=True)


def _archive(work: _Decision, command: ChangeChannel) -> list[Fact]:
    session = find_session(work.before, command.session_id or "", work.found)
    if session is None:
        where = f"channel {work.before.channel} has no session {command.session_id!r}"
        return [refusal(command, "not_found", where)]
    if not session.archived:
        active = work.archive(session.session_id)
        work.tell(session.session_id, ARCHIVED)
        work.activate(active)
    return _decided(work, command, session.session_id, created=False)


def _decided(work: _Decision, command: ChangeChannel, session_id: str, *, created: bool) -> list[Fact]:
    """The answer waits for all that the session is yet to hear: what its reader sends next comes behind it."""
    earlier = [forward.seq for forward in work.before.outbox if forward.target_id == session_id]
    work.add(
        ev.RequestDecided(
            request_id=command.request_id,
            command_hash=command.command_hash,
            session_id=session_id,
            created=created,
            waits_for=(*earlier, *work.seqs),
            reply=command.reply,
        )
    )
    return work.facts


def _delivered(channel: Channel, command: ReceiveReceipt, found: Found) -> list[Fact]:
    """A forward arrived. If the session that it was to create is none of this channel, the one before it is active."""
    if not any(forward.seq == command.seq for forward in channel.outbox):
        return []
    work = _Decision(channel, found)
    delivered = ev.ForwardDelivered(seq=command.seq, refused=command.refused)
    work.add(delivered)
    session_id = refused_session(channel, delivered)
    session = find_session(channel, session_id, found) if session_id is not None else None
    if session is not None and not session.archived:
        work.activate(work.archive(session.session_id))
    return work.facts


def _received(channel: Channel, command: ReceiveForward, found: Found) -> list[Fact]:
    """A session tells that a chat opened it in this channel, or that it was archived or erased by its own id."""
    if command.seq <= channel.marks.of(source_key(command.source_kind, command.source_id), found.marks):
        return []
    work = _Decision(channel, found)
    work.add(ev.ForwardReceived(source_kind=command.source_kind, source_id=command.source_id, seq=command.seq))
    session = find_session(channel, command.source_id, found)
    if command.what == OPENED and session is None:
        new = command.new_session or _NEW
        work.add(ev.ChannelSessionOpened(session_id=command.source_id, by="chat", new_session=new))
        if channel.active is not None:
            work.tell(channel.active, DEACTIVATED)
    elif command.what in (ARCHIVED, ERASED) and session is not None:
        if not session.archived:
            work.activate(work.archive(session.session_id))
        if command.what == ERASED:
            work.add(ev.ChannelSessionErased(session_id=session.session_id, rank=session.rank))
    return work.facts
