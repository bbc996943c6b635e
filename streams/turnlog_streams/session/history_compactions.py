"""What a session decides about its history compaction: runs that are asked for, and how runs end.

A run that was asked for ends once: in a summary, in a failure, or in nothing to do. What a run says whose request is
answered already (by the owner before, or after it) decides to nothing.
"""

from turnlog_schemas import events as ev
from turnlog_schemas.limits import utf8_bytes
from turnlog_schemas.parts import NO_USAGE
from turnlog_streams.facts import Fact
from turnlog_streams.history.compaction import AUTOMATIC, MANUAL, SummarySettings, history_compaction_id
from turnlog_streams.history.view import GIVEN
from turnlog_streams.lookups import Found, Lookup
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import conflict, refusal
from turnlog_streams.session.commands import (
    FailHistoryCompaction,
    RecordHistoryCompaction,
    RequestHistoryCompaction,
    SkipHistoryCompaction,
)
from turnlog_streams.session.state import Session

MAX_OWED_RUNS = 10  #: of one session


def request_history_compaction(
    session: Session, command: RequestHistoryCompaction, policy: Policy, found: Found, *, used: bool
) -> list[Fact]:
    """A request that was not decided before. ``used``: its id was, for another one.

    With a summary that is brought its run is over at once: no model is asked.
    """
    if used:
        return [conflict(command)]
    name = f"session {session.session_id}"
    if not session.exists:
        return [refusal(command, "not_found", f"{name} does not exist")]
    if session.archived:
        return [refusal(command, "archived", f"{name} is archived")]
    size = len((command.instructions or "").encode())
    if size > policy.max_summary_instructions_bytes:
        limit = policy.max_summary_instructions_bytes
        return [refusal(command, "too_long", f"the instructions have {size} bytes; at most {limit} are accepted")]
    if command.summary is not None and (wrong := _wrong_summary(session, command, policy, found)) is not None:
        return [refusal(command, *wrong)]
    if command.summary is None and len(session.owed_runs) >= MAX_OWED_RUNS:
        return [refusal(command, "busy", f"{name} has {len(session.owed_runs)} history compactions that wait")]
    requested = ev.HistoryCompactionRequested(
        request_id=command.request_id,
        command_hash=command.command_hash,
        instructions=command.instructions,
        reply=command.reply,
    )
    return [Fact(event=requested), *_given(session, command)]


def tail_needs(session: Session, command: RequestHistoryCompaction, found: Found) -> Lookup | None:
    """What a summary that is brought leaves must not begin with a result: the message behind it says so."""
    if command.to_seq is None or not session.history_compaction.covered_to < command.to_seq < session.messages:
        return None
    behind = (command.to_seq, 1)
    return None if behind in found.messages else Lookup(messages=behind)


def _wrong_summary(
    session: Session, command: RequestHistoryCompaction, policy: Policy, found: Found
) -> tuple[str, str] | None:
    """Why a summary that is brought is not taken: code and reason."""
    name, to_seq = f"session {session.session_id}", command.to_seq or 0
    size = utf8_bytes(command.summary or "")
    if size > policy.max_text_bytes:
        return "too_long", f"the summary has {size} bytes; at most {policy.max_text_bytes} are accepted"
    if session.open_turns:
        return "busy", f"{name} has a turn that is not ended: what it is shown cannot change now"
    if to_seq >= session.messages:
        return "wrong_range", f"{name} has {session.messages} messages; a summary leaves at least the newest of them"
    covered_to = session.history_compaction.covered_to
    if to_seq <= covered_to:
        return "wrong_range", f"{name} has a summary up to message {covered_to} already; a new one reaches further"
    behind = found.messages.get((to_seq, 1), ())
    if behind and behind[0].role == "tool":
        return "wrong_range", f"{name}: message {to_seq + 1} is a result, whose call would be covered without it"
    return None


def _given(session: Session, command: RequestHistoryCompaction) -> list[Fact]:
    if command.summary is None or command.to_seq is None:
        return []
    settings = SummarySettings(model=GIVEN, prompt_version="", instructions=command.summary)
    compacted = ev.HistoryCompacted(
        history_compaction_id=history_compaction_id(session.session_id, 1, command.to_seq, settings),
        from_seq=1,
        to_seq=command.to_seq,
        summary=command.summary,
        history_seq=session.messages,
        method=GIVEN,
        trigger=MANUAL,
        usage=NO_USAGE,
        request_id=command.request_id,
    )
    return [Fact(event=compacted)]


def _is_over(session: Session, request_id: str | None) -> bool:
    """Is the request of a run answered already?"""
    return request_id is not None and not any(run.request_id == request_id for run in session.owed_runs)


def record_history_compaction(session: Session, command: RecordHistoryCompaction) -> list[Fact]:
    """A run made a summary; it counts if it stands for more than the one that there is."""
    if _is_over(session, command.request_id):
        return []
    made, state = command.summary, session.history_compaction
    if command.trigger == AUTOMATIC and made.to_seq <= state.covered_to:
        return []  # it covers more than the one before, always: this one is told a second time
    if not state.takes(made):
        skipped = ev.HistoryCompactionSkipped(request_id=command.request_id or "")
        return [Fact(event=skipped)] if command.request_id is not None else []
    compacted = ev.HistoryCompacted(
        history_compaction_id=made.history_compaction_id,
        from_seq=made.from_seq,
        to_seq=made.to_seq,
        summary=made.text,
        history_seq=made.history_seq,
        method=made.method,
        trigger=command.trigger,
        model=command.model,
        tokens_before=command.tokens_before,
        tokens_after=command.tokens_after,
        usage=command.usage,
        duration_ms=command.duration_ms,
        request_id=command.request_id,
    )
    return [Fact(event=compacted)]


def fail_history_compaction(session: Session, command: FailHistoryCompaction) -> list[Fact]:
    """A run's model made no summary."""
    if _is_over(session, command.request_id):
        return []
    if command.trigger == AUTOMATIC and session.history_compaction.knows_failure(command.history_seq):
        return []
    failed = ev.HistoryCompactionFailed(
        history_seq=command.history_seq,
        trigger=command.trigger,
        code=command.code,
        reason=command.reason[:1000],
        model=command.model,
        usage=command.usage,
        duration_ms=command.duration_ms,
        request_id=command.request_id,
    )
    return [Fact(event=failed)]


def skip_history_compaction(session: Session, command: SkipHistoryCompaction) -> list[Fact]:
    """A run on request found nothing to do."""
    if _is_over(session, command.request_id):
        return []
    return [Fact(event=ev.HistoryCompactionSkipped(request_id=command.request_id))]
