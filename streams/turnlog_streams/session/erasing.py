"""A session whose texts are to be made unreadable."""

from turnlog_schemas import events as ev
from turnlog_schemas.events import CHANNEL
from turnlog_schemas.parts import NO_USAGE
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import ERASED, forwarded
from turnlog_streams.history.compaction import MANUAL
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import refusal
from turnlog_streams.session.commands import Erase
from turnlog_streams.session.ending import cancellation
from turnlog_streams.session.state import Session

REASON = "the session was erased"
NOT_SEALED = (
    "this deployment keeps texts in the clear, so its log forgets nothing: sealing is chosen when a prefix is made "
    "(TURNLOG_SEAL_TEXTS)"
)


def erase(session: Session, command: Erase, policy: Policy) -> list[Fact]:
    """A request that is new, for a session that is not erased yet. Open turns end before it, and owed runs."""
    kept = policy.erasure
    if kept is None:
        return [refusal(command, "not_sealed", NOT_SEALED)]
    if not session.exists:
        return [refusal(command, "not_found", f"session {session.session_id} does not exist")]
    open_turns = ([session.running] if session.running else []) + list(session.queue)
    facts = [fact for turn_id in open_turns for fact in cancellation(session, session.turns[turn_id], REASON)]
    for run in session.owed_runs:
        failed = ev.HistoryCompactionFailed(
            history_seq=session.messages,
            trigger=MANUAL,
            code="erased",
            reason=REASON,
            usage=NO_USAGE,
            request_id=run.request_id,
        )
        facts.append(Fact(event=failed))
    erased = ev.SessionErased(
        request_id=command.request_id,
        command_hash=command.command_hash,
        requests_kept_ms=kept.requests_kept_ms,
        replies_kept_ms=kept.replies_kept_ms,
        dead_letters_kept_ms=kept.dead_letters_kept_ms,
        key_kept_ms=kept.key_kept_ms,
        reply=command.reply,
    )
    facts.append(Fact(event=erased))
    if session.channel is not None:
        told = forwarded(session.forward_seq + 1, ERASED, target_kind=CHANNEL, target_id=session.channel)
        facts.append(Fact(event=told))
    return facts
