"""Which reply frames follow from a channel's facts, and what a channel answers when it is asked."""

from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import NewSession, ReplyAddress
from turnlog_streams.channel.decide import find_session
from turnlog_streams.channel.state import Channel, answered_by_delivery, evolve_channel
from turnlog_streams.facts import Fact
from turnlog_streams.lookups import NOTHING, ChannelSession, Found
from turnlog_streams.reply import Reply
from turnlog_streams.turn import Answer


def channel_replies_to(before: Channel, fact: Fact, found: Found = NOTHING) -> list[Reply]:
    """The frames that report a fact: a lifecycle request is answered once the forwards that it waits for arrived.

    ``found``: as for the decision that the fact is of.
    """
    event = fact.event
    if isinstance(event, ev.RequestRefused):
        return [_refused(before, event.code, event.reason, event.request_id, event.reply)]
    if isinstance(event, ev.RequestDecided) and not event.waits_for:
        return [_told(before, event.session_id, event.created, event.request_id, event.reply, found)]
    if isinstance(event, ev.ForwardDelivered):
        ready, after = answered_by_delivery(before, event), evolve_channel(before, fact)
        replies = [
            channel_reply_again(after, answer, request_id, answer.reply, found) for request_id, answer in ready.items()
        ]
        return [reply for reply in replies if reply is not None]
    return []


def channel_reply_again(
    channel: Channel, answer: Answer, request_id: str, address: ReplyAddress, found: Found = NOTHING
) -> Reply | None:
    """The answer of the log to a lifecycle request that was decided before; ``None`` while it waits for forwards.

    ``found``: what ``channel_answer_needs`` asks for.
    """
    if answer.kind == "refused":
        return _refused(channel, answer.code, answer.reason, request_id, address)
    if request_id in channel.waits:
        return None
    return _told(channel, answer.session_id, answer.created, request_id, address, found)


def active_reply(channel: Channel, request_id: str, address: ReplyAddress, found: Found = NOTHING) -> Reply:
    """The answer to :class:`ActiveSession`. ``found``: what ``active_needs`` asks for."""
    if channel.active is None:
        reason = f"channel {channel.channel} has no active session"
        return _refused(channel, "not_found", reason, request_id, address)
    return _told(channel, channel.active, False, request_id, address, found)


def _refused(channel: Channel, code: str, reason: str, request_id: str, address: ReplyAddress) -> Reply:
    frame = fr.RequestRefused(code=code, reason=reason)
    return Reply(frame=frame, address=address, request_id=request_id, session_id="", channel=channel.channel)


def _told(
    channel: Channel, session_id: str, created: bool, request_id: str, address: ReplyAddress, found: Found
) -> Reply:
    session = find_session(channel, session_id, found) or ChannelSession(session_id=session_id, rank=0)
    # Of one that was there before only the session itself knows what it is called now: somebody may have updated it.
    known = session.new_session if created else NewSession()
    info = fr.SessionInfo(
        title=known.title,
        instructions=known.instructions,
        model=known.model,
        metadata=known.metadata or {},
        archived=session.archived,
        active=channel.active == session_id,
        created=created,
    )
    return Reply(frame=info, address=address, request_id=request_id, session_id=session_id, channel=channel.channel)
