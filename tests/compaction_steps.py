"""History compactions for random logs: asked for, made, failed and skipped, by real decisions on made-up outcomes."""

from typing import TYPE_CHECKING

from tests.lifecycle_steps import ADDRESSES
from turnlog_schemas.parts import Usage
from turnlog_streams.history.compaction import AUTOMATIC, MANUAL
from turnlog_streams.history.view import BY_MODEL, BY_TRUNCATION, HistorySummary
from turnlog_streams.session.commands import (
    FailHistoryCompaction,
    RecordHistoryCompaction,
    RequestHistoryCompaction,
    SkipHistoryCompaction,
)

if TYPE_CHECKING:
    from tests.event_logs import LogWriter


def compaction_step(writer: "LogWriter", session_id: str) -> None:
    """Somebody asks, or a run ends: the newest one that is owed, an automatic one, or one that is over already."""
    rng = writer.rng
    session = writer.session(session_id)
    if rng.random() < 0.35:
        asked = RequestHistoryCompaction(
            request_id=rng.choice([f"hc{rng.randrange(99)}", f"r{rng.randrange(30)}"]),  # a chat's, now and then
            command_hash=f"h{rng.randrange(3)}",
            instructions=rng.choice([None, "keep the dates"]),
            reply=rng.choice(ADDRESSES),
        )
        writer.tell(session_id, asked)
        return
    if not session.exists:
        return
    owed = [run.request_id for run in session.owed_runs]
    request_id = rng.choice([None, "r-never", *owed, *owed, *owed])
    trigger = AUTOMATIC if request_id is None else MANUAL
    usage = Usage(input_tokens=rng.randrange(100), output_tokens=rng.randrange(9), model_calls=1, last_input_tokens=3)
    kind = rng.random()
    if kind < 0.6 and session.messages:
        lowest = rng.choice([1, max(1, session.history_compaction.covered_to)])  # an older one comes late, perhaps
        to_seq = rng.randint(lowest, session.messages)
        method = rng.choice([BY_MODEL, BY_MODEL, BY_TRUNCATION])
        summary = HistorySummary(
            history_compaction_id=f"id-{to_seq}-{method}",
            from_seq=1,
            to_seq=to_seq,
            text=rng.choice(["what was said", ""]),
            history_seq=session.messages,
            method=method,
        )
        record = RecordHistoryCompaction(
            summary=summary,
            trigger=trigger,
            model="echo:" if method == BY_MODEL else None,
            tokens_before=100,
            tokens_after=50,
            usage=usage,
            duration_ms=rng.randrange(100),
            request_id=request_id,
        )
        writer.tell(session_id, record)
    elif kind < 0.8:
        failed = FailHistoryCompaction(
            history_seq=session.messages,
            trigger=trigger,
            code="empty_summary",
            reason="it wrote nothing",
            model="echo:",
            usage=usage,
            request_id=request_id,
        )
        writer.tell(session_id, failed)
    elif request_id is not None:
        writer.tell(session_id, SkipHistoryCompaction(request_id=request_id))
