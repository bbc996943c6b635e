"""Which reply frames follow from a session's facts, and what a session answers when it is asked."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.codec import FRAMING_AVRO, encoded_bytes
from turnlog_schemas.parts import HistoryEntry, ReplyAddress
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import waits_after
from turnlog_streams.history.compaction import compacted_answer, newest_summary_answer
from turnlog_streams.history.messages import HistoryMessage, final_text, of_turn
from turnlog_streams.history.view import HistorySummary
from turnlog_streams.reply import Reply
from turnlog_streams.session.erased_state import Erasure
from turnlog_streams.session.state import Session, evolve
from turnlog_streams.turn import Answer, CompactedAnswer, Turn, pending_calls

#: Of a page as it is sent, unless its first message has more: what a topic with Kafka's own limit of 1 MiB takes.
_MAX_PAGE_BYTES = 768 * 1024
_OF_A_TURN = frozenset((ev.TurnStarted, ev.MessageStored, ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled))
_JSON_FACTOR = 6  #: a character of one byte may be as many in JSON


def replies_to(before: Session, fact: Fact, history: Sequence[HistoryMessage]) -> list[Reply]:
    """The frames that report a fact. ``before`` is the state just before it, ``history`` has all messages up to it."""
    event = fact.event
    if event.__class__ in _OF_A_TURN:  # nearly all of them
        return _replies_of_turn(before, fact, history)
    if isinstance(event, ev.RequestRefused):
        address = event.reply
        refused = fr.RequestRefused(code=event.code, reason=event.reason)
        return [Reply(frame=refused, address=address, request_id=event.request_id)]
    if isinstance(event, ev.TurnAccepted | ev.ToolOutputsAccepted):
        address = event.reply
        accepted = fr.TurnAccepted(queued_turns=before.open_turns, opened_session=event.opened)
        return [Reply(frame=accepted, address=address, request_id=event.request_id, turn_id=fact.turn_id)]
    if isinstance(event, ev.TurnHidden):
        hidden = fr.TurnHidden(hidden_turn_id=fact.turn_id or "")
        return [Reply(frame=hidden, address=event.reply, request_id=event.request_id)]
    if isinstance(event, ev.SessionErased):
        return [erased_told(evolve(before, fact), event.request_id, event.reply)]
    if isinstance(event, ev.RequestDecided):
        return [] if event.waits_for else [_decided_told(before, event.request_id, event.reply)]
    if isinstance(event, ev.ForwardDelivered):
        _, ready = waits_after(before.waits, event.seq)
        answers = [(request_id, before.answers.known[request_id]) for request_id in ready]
        return [_decided_told(before, request_id, answer.reply) for request_id, answer in answers]
    if isinstance(event, ev.HistoryCompacted | ev.HistoryCompactionFailed | ev.HistoryCompactionSkipped):
        return _end_of_run(before, event)
    return []


def _replies_of_turn(before: Session, fact: Fact, history: Sequence[HistoryMessage]) -> list[Reply]:
    turn = before.turns.get(fact.turn_id or "")
    if turn is None:
        return []
    return [
        Reply(frame=frame, address=turn.reply, request_id=turn.request_id, turn_id=turn.turn_id, attempt=fact.attempt)
        for frame in _frames_of_turn(fact.event, turn, history)
    ]


def erased_told(session: Session, request_id: str, address: ReplyAddress) -> Reply:
    """The receipt of an erased session."""
    kept = session.erasure or Erasure()
    receipt = fr.SessionErased(
        requests_kept_ms=kept.requests_kept_ms,
        replies_kept_ms=kept.replies_kept_ms,
        dead_letters_kept_ms=kept.dead_letters_kept_ms,
        key_kept_ms=kept.key_kept_ms,
    )
    return Reply(frame=receipt, address=address, request_id=request_id, channel=session.channel)


def _decided_told(session: Session, request_id: str, address: ReplyAddress) -> Reply:
    """The answer to a request that archived or changed the session."""
    info = fr.SessionInfo(
        title=session.title,
        instructions=session.instructions,
        model=session.model,
        metadata=session.metadata,
        archived=session.archived,
        active=session.active and not session.archived if session.channel is not None else None,
    )
    return Reply(frame=info, address=address, request_id=request_id, channel=session.channel)


def _frames_of_turn(event: ev.Event, turn: Turn, history: Sequence[HistoryMessage]) -> Sequence[fr.Frame]:
    turn_id = turn.turn_id
    match event:
        case ev.TurnStarted():
            return (fr.TurnStarted(model=event.model),)
        case ev.MessageStored():
            said_by_client = event.role == "user" or (event.role == "tool" and not turn.open_calls)
            return () if said_by_client else _message_frames(event)
        case ev.TurnCompleted():
            text = final_text(of_turn(history, turn_id))
            pending = tuple([call for call in turn.open_calls if call.client]) if event.requires_action else ()
            return (fr.TurnCompleted(text=text, usage=event.usage, pending_calls=pending),)
        case ev.TurnFailed():
            return (fr.TurnFailed(code=event.code, reason=event.reason, usage=event.usage),)
        case ev.TurnCancelled():
            text = final_text(of_turn(history, turn_id))
            return (fr.TurnCancelled(reason=event.reason, text=text, usage=event.usage),)
        case _:
            return ()


def _message_frames(event: ev.MessageStored) -> list[fr.Frame]:
    stored = fr.MessageStored(
        message_seq=event.message_seq,
        role=event.role,
        content=event.content,
        tool_calls=event.tool_calls,
        tool_call_id=event.tool_call_id,
        name=event.name,
        interrupted=event.interrupted,
        truncated=event.truncated,
        outcome=event.outcome,
    )
    started = [call for call in event.tool_calls if not call.client]
    calls = [fr.ToolCallStarted(message_seq=event.message_seq, call=call) for call in started]
    return [stored, *calls]


def _end_of_run(
    before: Session, event: ev.HistoryCompacted | ev.HistoryCompactionFailed | ev.HistoryCompactionSkipped
) -> list[Reply]:
    """Whoever asked for a history compaction hears how it ended; an automatic one tells nobody."""
    address = next((run.reply for run in before.owed_runs if run.request_id == event.request_id), None)
    if address is None or event.request_id is None:
        return []
    frame: fr.Frame
    match event:
        case ev.HistoryCompacted():
            frame = _compacted(compacted_answer(event))
        case ev.HistoryCompactionFailed():
            frame = fr.HistoryCompactionFailed(code=event.code, reason=event.reason)
        case ev.HistoryCompactionSkipped():
            frame = _compacted(newest_summary_answer(before.history_compaction))
    return [Reply(frame=frame, address=address, request_id=event.request_id)]


def _compacted(answer: CompactedAnswer) -> fr.HistoryCompacted:
    return fr.HistoryCompacted(
        summary=answer.summary,
        from_seq=answer.from_seq,
        to_seq=answer.to_seq,
        changed=answer.changed,
        tokens_before=answer.tokens_before,
        tokens_after=answer.tokens_after,
        usage=answer.usage,
    )


def reply_again(
    session: Session, answer: Answer, request_id: str, address: ReplyAddress, history: Sequence[HistoryMessage]
) -> Reply | None:
    """The answer of the log to a request that was decided before: its terminal frame, or where its turn stands.

    ``None`` while a history compaction that was asked for goes on, or a forward is on its way.
    """
    if answer.kind == "decided":
        return None if request_id in session.waits else _decided_told(session, request_id, address)
    if answer.kind == "erased":
        return erased_told(session, request_id, address)
    if answer.kind == "hidden":
        hidden = fr.TurnHidden(hidden_turn_id=answer.turn_id or "")
        return Reply(frame=hidden, address=address, request_id=request_id)
    frame = _answered(answer, history)
    if frame is None:
        return None
    return Reply(frame=frame, address=address, request_id=request_id, turn_id=answer.turn_id, attempt=answer.attempt)


def _answered(answer: Answer, history: Sequence[HistoryMessage]) -> fr.Frame | None:
    text = "" if answer.turn_id is None else final_text(m for m in history if m.turn_id == answer.turn_id)
    match answer.kind:
        case "refused":
            return fr.RequestRefused(code=answer.code, reason=answer.reason)
        case "completed":
            return fr.TurnCompleted(text=text, usage=answer.usage)
        case "requires_action":
            calls = next((m.tool_calls for m in history if m.message_seq == answer.answer_seq), ())
            return fr.TurnCompleted(text=text, usage=answer.usage, pending_calls=pending_calls(calls, answer.pending))
        case "failed":
            return fr.TurnFailed(code=answer.code, reason=answer.reason, usage=answer.usage)
        case "cancelled":
            return fr.TurnCancelled(reason=answer.reason, text=text, usage=answer.usage)
        case "compacting":
            return None
        case "compacted":
            return _compacted(answer.compacted or CompactedAnswer())
        case "not_compacted":
            return fr.HistoryCompactionFailed(code=answer.code, reason=answer.reason)
        case _:
            return fr.TurnAccepted(opened_session=answer.created)


# ---- what tells of a session as a whole


def session_info(session: Session, context_tokens: int, *, needs_compaction: bool) -> fr.SessionInfo:
    """A session as its owner knows it. ``context_tokens``: of the prompt that its assembled history makes."""
    return fr.SessionInfo(
        title=session.title,
        instructions=session.instructions,
        model=session.model,
        metadata=session.metadata,
        archived=session.archived,
        active=session.active and not session.archived if session.channel is not None else None,
        messages=session.messages,
        turns=session.turn_count,
        running_turn_id=session.running,
        queued_turns=len(session.queue),
        context_tokens=context_tokens,
        needs_compaction=needs_compaction,
    )


def history_page(
    history: Sequence[HistoryMessage],
    after: int,
    limit: int,
    summary: HistorySummary | None = None,
    *,
    skip_covered: bool = False,
    framing: str = FRAMING_AVRO,
) -> fr.HistoryPage:
    """The messages behind ``after``, at most ``limit`` of them, and no more than fit into a frame of this framing.

    ``skip_covered``: without those that the summary stands for; the page then has its text.
    """
    covered_to = summary.to_seq if summary else 0
    start = bisect_right(history, max(after, covered_to if skip_covered else 0), key=lambda m: m.message_seq)
    text = summary.text if summary and skip_covered else None
    room = _MAX_PAGE_BYTES - encoded_bytes(fr.HistoryPage(messages=(), summary=text), framing)
    page: list[HistoryEntry] = []
    for message in history[start : start + limit]:
        entry = _entry(message, covered=message.message_seq <= covered_to)
        room -= encoded_bytes(entry, framing)
        if room < 0 and page:
            break
        page.append(entry)
    more = start + len(page) < len(history)
    return fr.HistoryPage(
        messages=tuple(page),
        next_after=page[-1].message_seq if more and page else None,
        covered_to=covered_to,
        summary=text,
    )


def _entry(message: HistoryMessage, *, covered: bool) -> HistoryEntry:
    return HistoryEntry(
        message_seq=message.message_seq,
        turn_id=message.turn_id,
        role=message.role,
        content=message.content,
        tool_calls=message.tool_calls,
        tool_call_id=message.tool_call_id,
        name=message.name,
        interrupted=message.interrupted,
        truncated=message.truncated,
        covered=covered,
        outcome=message.outcome,
        imported=message.imported,
    )


def shortened(frame: fr.Frame, limit_bytes: int, framing: str) -> fr.Frame:
    """A terminal frame in about so many bytes, for a reply topic that does not take all of it.

    The text of a turn is cut, a page holds fewer messages; of what would be wrong in part, its reader is told.
    """
    match frame:
        case fr.TurnCompleted() | fr.TurnCancelled() if not getattr(frame, "pending_calls", ()):
            text = frame.text.encode()[: limit_bytes // _JSON_FACTOR].decode(errors="ignore")
            return replace(frame, text=text, truncated=True)
        case fr.HistoryPage():
            page: list[HistoryEntry] = []
            for entry in frame.messages:
                limit_bytes -= encoded_bytes(entry, framing)
                if limit_bytes < 0:
                    break
                page.append(entry)
            if page and frame.summary is None:
                return replace(frame, messages=tuple(page), next_after=page[-1].message_seq)
        case fr.TurnFailed() | fr.RequestRefused() | fr.HistoryCompactionFailed():
            return replace(frame, reason=frame.reason[: limit_bytes // _JSON_FACTOR])
    size = encoded_bytes(frame, framing)
    reason = f"the answer has {size} bytes: more than its reply topic takes (see the topic's max.message.bytes)"
    return fr.RequestRefused(code="answer_too_long", reason=reason)
