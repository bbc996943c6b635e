"""A session's side of its lifecycle: how it begins, and what its channel tells it. The channel decides."""

from turnlog_schemas import events as ev
from turnlog_schemas.commands import Chat
from turnlog_schemas.events import CHANNEL
from turnlog_schemas.parts import NewSession, content_text
from turnlog_streams.forwarding import (
    ACTIVATED,
    ARCHIVED,
    CREATED,
    DEACTIVATED,
    OPENED,
    TOUCHED,
    ReceiveForward,
    ReceiveReceipt,
    forwarded,
    source_key,
)
from turnlog_streams.naming import auto_title, channel_of
from turnlog_streams.session.commands import AcceptChat
from turnlog_streams.session.ending import cancel_queued
from turnlog_streams.session.state import Fact, Session


def opening(session: Session, command: AcceptChat) -> list[Fact]:
    """What an accepted chat means for the session itself: it begins, it gets its title, its channel hears of it."""
    text = content_text(command.chat.content) or ""
    if not session.exists:
        created = _creation(session.session_id, command, text)
        told = NewSession(
            channel=created.channel,
            title=created.title,
            instructions=created.instructions,
            model=created.model,
            metadata=dict(created.metadata),
            history_max_tokens=created.history_max_tokens,
            history_keep_tail=created.history_keep_tail,
        )
        opened = forwarded(
            session.forward_seq + 1, OPENED, target_kind=CHANNEL, target_id=created.channel, new_session=told
        )
        return [Fact(event=created), Fact(event=opened)]
    facts: list[Fact] = []
    if not session.title and (title := auto_title(text)):
        facts.append(Fact(event=ev.SessionTitled(title=title)))
    if not session.active and not any(forward.what == TOUCHED for forward in session.outbox):
        touched = forwarded(session.forward_seq + 1, TOUCHED, target_kind=CHANNEL, target_id=session.channel)
        facts.append(Fact(event=touched))
    return facts


def opened_channel(session_id: str, chat: Chat) -> str:
    """The channel of a session that a chat opens."""
    return (chat.new_session.channel if chat.new_session else None) or channel_of(session_id)


def _creation(session_id: str, command: AcceptChat, text: str) -> ev.SessionCreated:
    new = command.chat.new_session or NewSession()
    return ev.SessionCreated(
        channel=opened_channel(session_id, command.chat),
        title=new.title or auto_title(text),
        instructions=new.instructions,
        model=new.model,
        metadata=new.metadata or {},
        request_id=command.request_id,
        history_max_tokens=new.history_max_tokens,
        history_keep_tail=new.history_keep_tail,
    )


def receive_forward(session: Session, command: ReceiveForward) -> list[Fact]:
    """What the channel tells. What was heard before is ``[]``; so is what is for a session that does not exist."""
    if command.seq <= session.marks.get(source_key(command.source_kind, command.source_id), 0):
        return []
    received = ev.ForwardReceived(source_kind=command.source_kind, source_id=command.source_id, seq=command.seq)
    facts = [Fact(event=received)]
    if not session.exists:
        return [Fact(event=_created_by_channel(command)), *facts] if command.what == CREATED else []
    if command.source_id != session.channel:  # that one decides; see :func:`refuses`
        return facts
    match command.what:
        case what if what == ARCHIVED and not session.archived:
            facts.append(Fact(event=ev.SessionArchived()))
            facts += cancel_queued(session, "the session was archived")
        case what if what == ACTIVATED and not session.active:
            facts.append(Fact(event=ev.SessionActivated()))
        case what if what == DEACTIVATED and session.active:
            facts.append(Fact(event=ev.SessionDeactivated()))
    return facts


def refuses(session: Session, command: ReceiveForward) -> bool:
    """Does its receipt have to say that the session is another channel's? True for ever, once it is."""
    return command.what == CREATED and session.exists and session.channel != command.source_id


def _created_by_channel(command: ReceiveForward) -> ev.SessionCreated:
    new = command.new_session or NewSession()
    return ev.SessionCreated(
        channel=command.source_id,
        title=new.title or "",
        instructions=new.instructions,
        model=new.model,
        metadata=new.metadata or {},
        request_id=command.request_id_of_origin,
        history_max_tokens=new.history_max_tokens,
        history_keep_tail=new.history_keep_tail,
    )


def receive_receipt(session: Session, command: ReceiveReceipt) -> list[Fact]:
    """A forward of ours arrived."""
    known = any(forward.seq == command.seq for forward in session.outbox)
    return [Fact(event=ev.ForwardDelivered(seq=command.seq))] if known else []
