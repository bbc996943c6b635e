"""History compaction: its bounds, and what a session remembers of its runs. When one runs: ``compaction_plan``.

The log keeps every message: a recorded summary only says which range it stands for.
"""

import hashlib
import json
from dataclasses import dataclass, replace

from turnlog_schemas import events as ev
from turnlog_streams.history.tokens import PromptMeasure
from turnlog_streams.history.view import BY_MODEL, BY_TRUNCATION, HistorySummary
from turnlog_streams.turn import CompactedAnswer

DEFAULT_MAX_TOKENS = 80_000
DEFAULT_KEEP_TAIL = 20
DEFAULT_MAX_SUMMARY_TOKENS = 4_000
AUTOMATIC = "automatic"
MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompactionPolicy:
    """The bounds of a deployment or of a session."""

    max_tokens: int = 0  #: of an assembled history with its instructions; 0: 80,000; negative: no automatic run
    keep_tail: int = DEFAULT_KEEP_TAIL  #: messages that stay word for word; fewer where they alone pass the limit

    @property
    def limit_tokens(self) -> int:
        """The limit (of a manual run too, where there is no automatic one)."""
        return self.max_tokens if self.max_tokens > 0 else DEFAULT_MAX_TOKENS

    @property
    def target_tokens(self) -> int:
        """What a run aims at."""
        return self.limit_tokens * 3 // 4

    @property
    def quarter_tokens(self) -> int:
        """New material that a further automatic run waits for."""
        return self.limit_tokens // 4

    @property
    def automatic(self) -> bool:
        """Do runs start by themselves?"""
        return self.max_tokens >= 0

    def overridden(self, *, max_tokens: int | None = None, keep_tail: int | None = None) -> "HistoryCompactionPolicy":
        """This policy with what a session says for itself; ``None``, and a ``max_tokens`` of 0, say nothing."""
        if not max_tokens and keep_tail is None:
            return self
        return replace(
            self,
            max_tokens=max_tokens or self.max_tokens,
            keep_tail=self.keep_tail if keep_tail is None else keep_tail,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SummarySettings:
    """What a summary is made with, as far as it changes the result."""

    model: str
    prompt_version: str
    max_summary_tokens: int = DEFAULT_MAX_SUMMARY_TOKENS  #: also at most an eighth of the limit
    instructions: str | None = None  #: the caller's wishes for this summary


def recorded_summary(event: ev.HistoryCompacted) -> HistorySummary:
    """The summary of an event."""
    return HistorySummary(
        history_compaction_id=event.history_compaction_id,
        from_seq=event.from_seq,
        to_seq=event.to_seq,
        text=event.summary,
        history_seq=event.history_seq,
        method=event.method,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompactionState:
    """What decisions know of the runs of a session."""

    summary: HistorySummary | None = None  #: the newest: what views show
    base: HistorySummary | None = None  #: the newest by somebody who read the messages: what the next one builds on
    attempted_seq: int = 0  #: the session's highest message_seq when the last run ended, well or not
    failures: int = 0  #: automatic runs in a row without a model's summary

    @property
    def covered_to(self) -> int:
        """Messages up to here are covered; 0: none."""
        return self.summary.to_seq if self.summary else 0

    def takes(self, summary: HistorySummary) -> bool:
        """Is this a new summary? One made meanwhile by another run, or an older one that comes late, is not."""
        current = self.summary
        if current is None:
            return summary.from_seq <= summary.to_seq
        if summary.history_compaction_id == current.history_compaction_id:
            return False
        if (summary.from_seq, summary.to_seq) == (current.from_seq, current.to_seq):
            return summary.method == BY_MODEL or current.method == BY_TRUNCATION
        return summary.from_seq <= current.from_seq and current.to_seq <= summary.to_seq

    def after_summary(self, summary: HistorySummary) -> "HistoryCompactionState":
        """A recorded summary takes the place of the one that it contains."""
        if not self.takes(summary):
            return self
        read = summary.method != BY_TRUNCATION
        return HistoryCompactionState(
            summary=summary,
            base=summary if read else self.base,
            attempted_seq=max(self.attempted_seq, summary.history_seq),
            failures=0 if read else self.failures,
        )

    def after_failure(self, history_seq: int, trigger: str) -> "HistoryCompactionState":
        """A recorded failure. That of a manual run does not keep the session from an automatic one."""
        if trigger == MANUAL:
            return self
        return replace(self, attempted_seq=max(self.attempted_seq, history_seq), failures=self.failures + 1)

    def knows_failure(self, history_seq: int) -> bool:
        """Has an automatic run failed with these messages, or did one end with later ones? None fails there again."""
        return history_seq < self.attempted_seq or (history_seq == self.attempted_seq and self.failures > 0)

    def valid(self, measure: PromptMeasure | None) -> PromptMeasure | None:
        """The measure, if its prompt already had the newest summary."""
        if measure is None or (self.summary and measure.through_seq < self.summary.history_seq):
            return None
        return measure


def history_compaction_id(session_id: str, from_seq: int, to_seq: int, settings: SummarySettings) -> str:
    """The same range under the same settings has the same id, in every process."""
    parts = [
        session_id,
        from_seq,
        to_seq,
        settings.model,
        settings.prompt_version,
        settings.max_summary_tokens,
        settings.instructions,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def compacted_answer(event: ev.HistoryCompacted) -> CompactedAnswer:
    """What whoever asked for it is told."""
    return CompactedAnswer(
        summary=event.summary,
        from_seq=event.from_seq,
        to_seq=event.to_seq,
        changed=True,
        tokens_before=event.tokens_before,
        tokens_after=event.tokens_after,
        usage=event.usage,
    )


def newest_summary_answer(state: HistoryCompactionState) -> CompactedAnswer:
    """What somebody is told for whom there was nothing to do."""
    summary = state.summary
    if summary is None:
        return CompactedAnswer()
    return CompactedAnswer(summary=summary.text, from_seq=summary.from_seq, to_seq=summary.to_seq)
