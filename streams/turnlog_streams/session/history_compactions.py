"""What a session decides about its history compaction: runs that are asked for, and how runs end.

A run that was asked for ends once: in a summary, in a failure, or in nothing to do. What a run says whose request is
answered already (by the owner before, or after it) decides to nothing.
"""

from turnlog_schemas import events as ev
from turnlog_streams.facts import Fact
from turnlog_streams.history.compaction import AUTOMATIC
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
    session: Session, command: RequestHistoryCompaction, policy: Policy, *, used: bool
) -> list[Fact]:
    """A request that was not decided before. ``used``: its id was, for another one."""
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
    if len(session.owed_runs) >= MAX_OWED_RUNS:
        return [refusal(command, "busy", f"{name} has {len(session.owed_runs)} history compactions that wait")]
    requested = ev.HistoryCompactionRequested(
        request_id=command.request_id,
        command_hash=command.command_hash,
        instructions=command.instructions,
        reply=command.reply,
    )
    return [Fact(event=requested)]


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
