"""What a session decides: (state, command, policy) -> events.

Decisions are total and synchronous; nothing to do is ``[]``, and the same command twice gives ``[]`` the second time.
Everything that varies (ids, hashes, the policy) arrives as an argument.
"""

from dataclasses import replace
from typing import assert_never

from turnlog_schemas import events as ev
from turnlog_schemas.commands import Chat
from turnlog_schemas.generation import GenerationParams, merged
from turnlog_schemas.limits import utf8_bytes
from turnlog_schemas.parts import NO_USAGE, Usage, files_of
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import ReceiveForward, ReceiveReceipt
from turnlog_streams.lookups import NOTHING, Found
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import Refuse, conflict, refusal
from turnlog_streams.session.client_calls import results_first, wrong_outputs
from turnlog_streams.session.commands import (
    AcceptChat,
    Archive,
    Cancel,
    CompleteTurn,
    Erase,
    FailAttempt,
    FailHistoryCompaction,
    Hide,
    RecordHistoryCompaction,
    RecordMessage,
    RequestHistoryCompaction,
    ResumeTurn,
    SessionCommand,
    SkipHistoryCompaction,
    TitleSession,
    Update,
)
from turnlog_streams.session.ending import cancel_all, cancellation, closed_calls
from turnlog_streams.session.erasing import erase
from turnlog_streams.session.hiding import hide
from turnlog_streams.session.history_compactions import (
    fail_history_compaction,
    record_history_compaction,
    request_history_compaction,
    skip_history_compaction,
)
from turnlog_streams.session.initial_messages import files_among, too_long_messages
from turnlog_streams.session.membership import (
    archive_on_request,
    opened_channel,
    opening,
    receive_forward,
    receive_receipt,
)
from turnlog_streams.session.needs import is_used, known_answer
from turnlog_streams.session.state import Session, evolve
from turnlog_streams.session.updating import update
from turnlog_streams.turn import Turn


def decide(session: Session, command: SessionCommand, policy: Policy, found: Found = NOTHING) -> list[Fact]:
    """The events that a command leads to. ``found`` must have all that ``needs.session_needs`` asks for."""
    if session.erasure is not None and not isinstance(command, ReceiveForward | ReceiveReceipt):
        return []  # whoever asks is refused without an event: it would hold their texts
    match command:
        case AcceptChat():
            return _accept_chat(session, command, policy, found)
        case Refuse():
            return _refuse(session, command, found)
        case Cancel():
            return _cancel(session, command, policy, found)
        case Archive():
            return _archive(session, command, found)
        case Hide():
            return _hide(session, command, found)
        case Update():
            return _update(session, command, policy, found)
        case Erase():
            return _erase(session, command, policy, found)
        case ReceiveForward():
            return receive_forward(session, command, found)
        case ReceiveReceipt():
            return receive_receipt(session, command)
        case ResumeTurn():
            return _resume(session, command, policy)
        case RecordMessage():
            return _record(session, command)
        case CompleteTurn():
            return _complete(session, command, policy)
        case FailAttempt():
            return _fail(session, command, policy)
        case RequestHistoryCompaction():
            known = known_answer(session, command.request_id, command.command_hash, found)
            used = is_used(session, command.request_id, found)
            return [] if known is not None else request_history_compaction(session, command, policy, found, used=used)
        case RecordHistoryCompaction():
            return record_history_compaction(session, command)
        case FailHistoryCompaction():
            return fail_history_compaction(session, command)
        case SkipHistoryCompaction():
            return skip_history_compaction(session, command)
        case TitleSession():
            if session.archived or session.title != command.instead_of or session.title == command.title:
                return []
            return [Fact(event=ev.SessionTitled(title=command.title, model=command.model, usage=command.usage))]
        case _:
            assert_never(command)


def _asked_again(
    session: Session, command: AcceptChat | Archive | Hide | Update | Cancel, found: Found
) -> list[Fact] | None:
    """What a request whose id was used before leads to: nothing where it is the same one. ``None``: it is new."""
    if known_answer(session, command.request_id, command.command_hash, found) is not None:
        return []
    return [conflict(command)] if is_used(session, command.request_id, found) else None


def _accept_chat(session: Session, command: AcceptChat, policy: Policy, found: Found) -> list[Fact]:
    if (again := _asked_again(session, command, found)) is not None:
        return again
    before, chat = session, command.chat
    facts = opening(session, command)
    for fact in facts:
        session = evolve(session, fact)
    found_wrong = _refusal(before, session, command, policy)
    if found_wrong is not None:
        code, reason = found_wrong
        return [refusal(command, code, reason)]
    if chat.on_busy == "interrupt" and session.open_turns:
        ended = cancel_all(session, command, policy.max_text_bytes)
        facts += ended
        for fact in ended:
            session = evolve(session, fact)
    facts.append(Fact(event=_accepted(command, opened=not before.exists), turn_id=command.turn_id))
    if session.running is None and not session.queue and policy.start_turns:
        model = chat.model or session.model or policy.model_of(session.channel)
        params = merged(policy.params, session.params, chat.params)
        facts += _start(session, command.turn_id, chat, model, params)
    return facts


def _accepted(command: AcceptChat, *, opened: bool) -> ev.TurnAccepted | ev.ToolOutputsAccepted:
    chat = command.chat
    if not chat.tool_outputs:
        return ev.TurnAccepted(
            request_id=command.request_id,
            command_hash=command.command_hash,
            content=chat.content,
            model=chat.model,
            reply=command.reply,
            params=chat.params,
            tools=chat.tools,
            opened=opened,
            name=chat.name,
        )
    return ev.ToolOutputsAccepted(
        request_id=command.request_id,
        command_hash=command.command_hash,
        outputs=chat.tool_outputs,
        content=chat.content,
        model=chat.model,
        reply=command.reply,
        params=chat.params,
        tools=chat.tools,
        opened=opened,
        name=chat.name,
    )


def _new_model(session: Session, chat: Chat) -> str | None:
    return chat.new_session.model if chat.new_session and not session.exists else None


def _refusal(session: Session, opened: Session, command: AcceptChat, policy: Policy) -> tuple[str, str] | None:
    """Why a chat is not accepted: code and reason. ``opened``: the session as it would be for it."""
    chat = command.chat
    if session.archived:
        return "archived", f"session {session.session_id} is archived"
    if chat.after_turn is not None and chat.after_turn != (session.last_turn or ""):
        return "not_newest", f"session {session.session_id}: {_gone_on(session, chat.after_turn)}"
    if not session.exists and (reason := too_long_messages(chat.new_session, policy)) is not None:
        return "too_long", reason
    if (wrong := wrong_outputs(opened, chat, policy)) is not None:
        return wrong
    size = sum(utf8_bytes(part.text or "") + utf8_bytes(part.uri or "") for part in chat.content)
    if size > policy.max_text_bytes:
        return "too_long", f"the text has {size} bytes; at most {policy.max_text_bytes} are accepted"
    for model in (chat.model, _new_model(session, chat)):
        if model is not None and not policy.allows(model):
            return "model_not_allowed", policy.not_allowed(model)
    channel = session.channel if session.exists else opened_channel(chat)
    model = chat.model or session.model or _new_model(session, chat) or policy.model_of(channel)
    if not policy.allows(model):
        return "model_not_allowed", policy.not_allowed(model)
    files = files_of(chat.content) + (() if session.exists else files_among(chat.new_session))
    if files and (wrong := policy.files.refusal_of_all(files, model, policy.media_types_of(model))) is not None:
        return wrong
    if not session.open_turns:
        return None
    if chat.on_busy == "reject":
        turns = "1 turn that is" if session.open_turns == 1 else f"{session.open_turns} turns that are"
        return "busy", f"session {session.session_id} has {turns} not ended"
    if chat.on_busy == "enqueue" and len(session.queue) >= policy.max_queued_turns:
        return "busy", f"session {session.session_id} has {len(session.queue)} queued turns, the most that may wait"
    return None


def _gone_on(session: Session, turn_id: str) -> str:
    last = "no turn has begun in it" if session.last_turn is None else f"its newest turn is {session.last_turn}"
    wanted = f"directly behind turn {turn_id!r}" if turn_id else "before any other"
    return f"this chat was to come {wanted}, and {last}"


def _refuse(session: Session, command: Refuse, found: Found) -> list[Fact]:
    if known_answer(session, command.request_id, command.command_hash, found) is not None:
        return []
    reused = is_used(session, command.request_id, found)
    return [refusal(command, command.code, command.reason, reused=reused)]


def _archive(session: Session, command: Archive, found: Found) -> list[Fact]:
    again = _asked_again(session, command, found)
    return archive_on_request(session, command) if again is None else again


def _start(
    session: Session, turn_id: str, said: Chat | Turn, model: str, params: GenerationParams | None
) -> list[Fact]:
    """The first attempt: what the client says enters the history now, so history order is turn order."""
    outputs = said.outputs if isinstance(said, Turn) else said.tool_outputs
    entering = results_first(session, outputs) if session.awaited else []
    if said.content:
        seq = session.messages + len(entering) + 1
        entering.append(ev.MessageStored(message_seq=seq, role="user", content=said.content, name=said.name))
    started = ev.TurnStarted(model=model, cause="first", params=params)
    return [
        Fact(event=started, turn_id=turn_id, attempt=1),
        *[Fact(event=message, turn_id=turn_id, attempt=1) for message in entering],
    ]


def _hide(session: Session, command: Hide, found: Found) -> list[Fact]:
    again = _asked_again(session, command, found)
    return hide(session, command, found) if again is None else again


def _update(session: Session, command: Update, policy: Policy, found: Found) -> list[Fact]:
    again = _asked_again(session, command, found)
    return update(session, command, policy) if again is None else again


def _erase(session: Session, command: Erase, policy: Policy, found: Found) -> list[Fact]:
    if known_answer(session, command.request_id, command.command_hash, found) is not None:
        return []
    return [conflict(command)] if is_used(session, command.request_id, found) else erase(session, command, policy)


def _start_next(session: Session, policy: Policy) -> list[Fact]:
    if session.running is not None or not session.queue or not policy.start_turns:
        return []
    turn = session.turns[session.queue[0]]
    model = turn.requested_model or session.model or policy.model_of(session.channel)
    params = merged(policy.params, session.params, turn.requested_params)
    return _start(session, turn.turn_id, turn, model, params)


def _end(session: Session, terminal: Fact, policy: Policy) -> list[Fact]:
    """A terminal event, and the start of the turn that waited for it: one decision, one record batch."""
    if not session.queue:
        return [terminal]
    return [terminal, *_start_next(evolve(session, terminal), policy)]


def _end_failed(session: Session, turn: Turn, failed: ev.TurnFailed, policy: Policy) -> list[Fact]:
    """No call stays without a result: no later turn could go on from such a history."""
    closed = closed_calls(session, turn, turn.open_calls, turn.attempt)
    for fact in closed:
        session = evolve(session, fact)
    return [*closed, *_end(session, Fact(event=failed, turn_id=turn.turn_id, attempt=turn.attempt), policy)]


def _cancel(session: Session, command: Cancel, policy: Policy, found: Found) -> list[Fact]:
    if (again := _asked_again(session, command, found)) is not None:
        return again
    if not session.exists:
        return [refusal(command, "not_found", f"session {session.session_id} does not exist")]
    turn = session.turns.get(command.turn_id or session.running or "")
    if turn is None:
        which = f"turn {command.turn_id}" if command.turn_id else "running turn"
        return [refusal(command, "not_running", f"session {session.session_id} has no {which} to cancel")]
    facts = cancellation(
        *(session, turn, "cancelled on request"), running=command, max_text_bytes=policy.max_text_bytes, by=command
    )
    for fact in facts:
        session = evolve(session, fact)
    return [*facts, *_start_next(session, policy)]


def _running(session: Session, turn_id: str, attempt: int) -> Turn | None:
    """The turn, if this is its current attempt: outcomes of older attempts decide to nothing."""
    turn = session.turns.get(turn_id)
    return turn if turn is not None and session.running == turn_id and turn.attempt == attempt else None


def _resume(session: Session, command: ResumeTurn, policy: Policy) -> list[Fact]:
    turn = session.turns.get(command.turn_id)
    if turn is None or turn.attempt != command.attempt:
        return []
    if session.running != turn.turn_id:
        return _start_next(session, policy)
    if turn.takeovers_in_a_row >= policy.max_takeovers:
        reason = (
            f"{turn.takeovers_in_a_row} owners in a row were lost while they ran this turn, without a message stored "
            "in between: it is suspected to be the cause"
        )
        failed = ev.TurnFailed(code="suspected_poison", reason=reason, usage=turn.spent)
        return _end_failed(session, turn, failed, policy)
    return _next_attempt(session, turn, cause="takeover")


def _next_attempt(
    session: Session, turn: Turn, *, cause: str, error: str | None = None, usage: Usage | None = None
) -> list[Fact]:
    """Start again from the stored messages. Calls whose outcome is unknown are closed, unless they may be repeated.

    Those that the client runs have not begun: it hears of them when the turn ends.
    """
    attempt = turn.attempt + 1
    started = ev.TurnStarted(model=turn.model or "", cause=cause, error=error, usage=usage, params=turn.params)
    facts = [Fact(event=started, turn_id=turn.turn_id, attempt=attempt)]
    # A result is paired with the first open call of its id, so calls that share an id share their fate.
    unsafe = {call.call_id for call in turn.open_calls if not (call.idempotent or call.client)}
    return facts + closed_calls(session, turn, [call for call in turn.open_calls if call.call_id in unsafe], attempt)


def _record(session: Session, command: RecordMessage) -> list[Fact]:
    turn = _running(session, command.turn_id, command.attempt)
    if turn is None or command.message_seq <= session.messages:
        return []
    seq = session.messages + 1
    if command.message_seq != seq:
        raise ValueError(
            f"session {session.session_id}: a message for position {command.message_seq} of the history, next is {seq}"
        )
    # A runner that starts tools itself gives the key: it must know it before the call's result. The default is made of
    # what is unique in the log for ever: a later attempt gets another seq for another call.
    calls = tuple(
        call if call.idempotency_key else replace(call, idempotency_key=f"{turn.turn_id}:{seq}:{index}")
        for index, call in enumerate(command.tool_calls)
    )
    stored = ev.MessageStored(
        message_seq=seq,
        role=command.role,
        content=command.content,
        tool_calls=calls,
        tool_call_id=command.tool_call_id,
        name=command.name,
        truncated=command.truncated,
        usage=command.usage,
        outcome=command.outcome,
    )
    return [Fact(event=stored, turn_id=turn.turn_id, attempt=turn.attempt)]


def _complete(session: Session, command: CompleteTurn, policy: Policy) -> list[Fact]:
    turn = _running(session, command.turn_id, command.attempt)
    if turn is None:
        return []
    completed = ev.TurnCompleted(
        usage=turn.cost(command.usage),
        duration_ms=command.duration_ms,
        first_delta_ms=command.first_delta_ms,
        requires_action=any(call.client for call in turn.open_calls),
    )
    return _end(session, Fact(event=completed, turn_id=command.turn_id, attempt=command.attempt), policy)


def _fail(session: Session, command: FailAttempt, policy: Policy) -> list[Fact]:
    turn = _running(session, command.turn_id, command.attempt)
    if turn is None:
        return []
    if command.retryable and turn.runner_failures + 1 < policy.max_runner_attempts:
        error, usage = f"{command.code}: {command.reason}", command.usage if command.usage != NO_USAGE else None
        return _next_attempt(session, turn, cause="retry", error=error, usage=usage)
    cost, ms, first_ms = turn.cost(command.usage), command.duration_ms, command.first_delta_ms
    failed = ev.TurnFailed(
        code=command.code, reason=command.reason, usage=cost, duration_ms=ms, first_delta_ms=first_ms
    )
    return _end_failed(session, turn, failed, policy)
