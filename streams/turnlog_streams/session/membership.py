"""How a session begins and is archived, and what it and its channel tell each other.

A session that belongs to no channel is archived by its id alone. One that does tells its channel; what it is archived
for there (a rotation, a request to the channel) it hears.
"""

from turnlog_schemas import events as ev
from turnlog_schemas.commands import Chat
from turnlog_schemas.events import CHANNEL
from turnlog_schemas.parts import NewSession, content_text
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import (
    ACTIVATED,
    ARCHIVED,
    CREATED,
    DEACTIVATED,
    OPENED,
    ReceiveForward,
    ReceiveReceipt,
    forwarded,
    source_key,
)
from turnlog_streams.lookups import NOTHING, Found
from turnlog_streams.records import changed
from turnlog_streams.refusals import refusal
from turnlog_streams.session.commands import AcceptChat, Archive
from turnlog_streams.session.ending import cancel_queued
from turnlog_streams.session.initial_messages import first_question, imported, without_messages
from turnlog_streams.session.state import Session
from turnlog_streams.session.title import auto_title

_NEW = NewSession()


def opening(session: Session, command: AcceptChat) -> list[Fact]:
    """What an accepted chat means for the session itself: it begins, its channel hears of it, it gets its title."""
    text = content_text(command.chat.content) or ""
    if session.exists:
        titled = auto_title(text) if not session.title else ""
        return [Fact(event=ev.SessionTitled(title=titled))] if titled else []
    said = command.chat.new_session or _NEW
    new = without_messages(said)
    new = changed(new, title=new.title or auto_title(first_question(said.messages) or text))
    created = Fact(event=ev.SessionCreated(new_session=new, request_id=command.request_id))
    facts = [created, *imported(said.messages)] if said.messages else [created]
    return facts if new.channel is None else [*facts, _tell(session, new.channel, OPENED, new)]


def _tell(session: Session, channel: str, what: str, new: NewSession | None = None) -> Fact:
    seq = session.forward_seq + 1
    return Fact(event=forwarded(seq, what, target_kind=CHANNEL, target_id=channel, new_session=new))


def opened_channel(chat: Chat) -> str | None:
    """The channel of a session that a chat opens."""
    return chat.new_session.channel if chat.new_session else None


def archive_on_request(session: Session, command: Archive) -> list[Fact]:
    """A request that is new. The answer waits until the channel, if there is one, has heard of it."""
    if not session.exists:
        return [refusal(command, "not_found", f"session {session.session_id} does not exist")]
    facts: list[Fact] = []
    waits_for = [forward.seq for forward in session.outbox]
    if not session.archived:
        facts = archived(session)
        if session.channel is not None:
            facts.append(_tell(session, session.channel, ARCHIVED))
            waits_for.append(session.forward_seq + 1)
    decided = ev.RequestDecided(
        request_id=command.request_id,
        command_hash=command.command_hash,
        session_id=session.session_id,
        created=False,
        waits_for=tuple(waits_for),
        reply=command.reply,
    )
    return [*facts, Fact(event=decided)]


def archived(session: Session) -> list[Fact]:
    """The session is archived; the running turn may end."""
    return [Fact(event=ev.SessionArchived()), *cancel_queued(session, "the session was archived")]


def receive_forward(session: Session, command: ReceiveForward, found: Found = NOTHING) -> list[Fact]:
    """What a channel tells. What was heard before is ``[]``; so is what is for a session that does not exist."""
    source = source_key(command.source_kind, command.source_id)
    if command.seq <= session.marks.of(source, found.marks):
        return []
    received = ev.ForwardReceived(source_kind=command.source_kind, source_id=command.source_id, seq=command.seq)
    facts = [Fact(event=received)]
    if not session.exists:
        return [*_created_by_channel(command), *facts] if command.what == CREATED else []
    if session.erasure is not None or command.source_id != session.channel:  # that one decides; see :func:`refuses`
        return facts
    match command.what:
        case what if what == ARCHIVED and not session.archived:
            facts += archived(session)
        case what if what == ACTIVATED and not session.active:
            facts.append(Fact(event=ev.SessionActivated()))
        case what if what == DEACTIVATED and session.active:
            facts.append(Fact(event=ev.SessionDeactivated()))
    return facts


def refuses(session: Session, command: ReceiveForward) -> bool:
    """Does its receipt have to say that the session is none of the channel? True for ever, once it is."""
    return command.what == CREATED and session.exists and session.channel != command.source_id


def _created_by_channel(command: ReceiveForward) -> list[Fact]:
    said = command.new_session or _NEW
    new = changed(without_messages(said), channel=command.source_id)
    created = Fact(event=ev.SessionCreated(new_session=new, request_id=command.request_id_of_origin))
    return [created, *imported(said.messages)]


def receive_receipt(session: Session, command: ReceiveReceipt) -> list[Fact]:
    """A forward of ours arrived."""
    known = any(forward.seq == command.seq for forward in session.outbox)
    return [Fact(event=ev.ForwardDelivered(seq=command.seq))] if known else []
