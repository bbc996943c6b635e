"""When a history compaction runs, and which messages its summary covers.

A run reads the messages since the last summary (and that summary) and leaves a tail word for word. It aims below
three quarters of the limit, so that the next run has a quarter of new material: without that distance a session near
its limit would be compacted at every turn.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from turnlog_streams.history.compaction import (
    AUTOMATIC,
    HistoryCompactionPolicy,
    HistoryCompactionState,
    SummarySettings,
    history_compaction_id,
)
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.tokens import (
    PromptMeasure,
    Weights,
    context_tokens,
    prompt_tokens,
    text_tokens,
    with_margin,
)
from turnlog_streams.history.view import BY_MODEL, BY_TRUNCATION, HistorySummary, assemble

MIN_SUMMARY_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHistory:
    """All of a session that a plan depends on."""

    session_id: str
    messages: Sequence[HistoryMessage]  #: those that are held (``history.window``), by message_seq
    instructions: str | None = None
    state: HistoryCompactionState = field(default_factory=HistoryCompactionState)
    measure: PromptMeasure | None = None  #: of the newest model call
    weights: Weights = field(default_factory=Weights)  #: kept from call to call, they save the counting


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompactionPlan:
    """What one run does. The range holds all messages that the new summary stands for."""

    history_compaction_id: str  #: of a model's summary; ``truncation_id`` without one
    truncation_id: str
    trigger: str  #: ``automatic`` or ``manual``
    by_model: bool  #: false: the model failed not long ago, the summary is made without one
    from_seq: int
    to_seq: int
    source_from: int  #: the summariser reads messages from here; what comes before is in ``previous``
    previous: HistorySummary | None
    history_seq: int  #: the session's highest message_seq now
    max_summary_tokens: int
    limit_tokens: int
    tokens_before: int
    tokens_after: int  #: with a summary of full length; above the limit: what must stay is too large by itself

    def summary(self, text: str, method: str = BY_MODEL) -> HistorySummary:
        """The outcome of the run."""
        return HistorySummary(
            history_compaction_id=self.history_compaction_id if method == BY_MODEL else self.truncation_id,
            from_seq=self.from_seq,
            to_seq=self.to_seq,
            text=text,
            history_seq=self.history_seq,
            method=method,
        )

    def source(self, messages: Sequence[HistoryMessage]) -> list[HistoryMessage]:
        """The messages that the summariser reads, calls and results paired."""
        part = [message for message in messages if self.source_from <= message.message_seq <= self.to_seq]
        return list(assemble(part).messages)


def session_tokens(session: SessionHistory) -> int:
    """``context_tokens``: the size of the prompt that the assembled history makes."""
    view = assemble(session.messages, session.state.summary)
    return context_tokens(view.messages, session.instructions, session.state.valid(session.measure), session.weights)


def needs_history_compaction(session: SessionHistory, policy: HistoryCompactionPolicy) -> bool:
    """Would the assembled history pass the limit?"""
    return policy.automatic and session_tokens(session) > policy.limit_tokens


def plan(
    session: SessionHistory, policy: HistoryCompactionPolicy, settings: SummarySettings, *, trigger: str = AUTOMATIC
) -> HistoryCompactionPlan | None:
    """What a run would do now; ``None``: nothing, or not yet.

    An automatic run needs a history over the limit, and a quarter of the limit: in new material since the last run, or
    to be freed by this one. A manual run covers all but the tail; where a summary does that already, only other
    settings make another one.
    """
    if trigger == AUTOMATIC and not policy.automatic:
        return None
    tokens = session_tokens(session)
    over = tokens > policy.limit_tokens
    if trigger == AUTOMATIC and not over:
        return None
    material = _Material(session, policy, settings, tokens)
    cut = material.best_cut(escalate=over)
    by_model = True
    if trigger == AUTOMATIC:
        # Every automatic run uses up a quarter of the limit: one that came since the last run, or one that the run
        # frees. So their number is bounded by the size of the history, whatever a run achieves.
        fresh = _came_a_quarter(session, policy)
        gain = tokens - cut.tokens_after if cut else 0
        if gain < (1 if fresh else policy.quarter_tokens):
            return None
        by_model = fresh or not session.state.failures
    current = session.state.summary
    if cut is None and current is not None:
        cut = material.same_cut(current)
    if cut is None:
        return None
    found = _plan(session, policy, settings, cut, trigger=trigger, tokens=tokens, by_model=by_model)
    if current and found.history_compaction_id == current.history_compaction_id:
        return None
    if not over and cut.tokens_after > policy.limit_tokens and (shorter := material.best_cut(escalate=True)):
        # A model counted fewer tokens than the estimate that holds after the run: near the limit is over it then.
        return _plan(session, policy, settings, shorter, trigger=trigger, tokens=tokens, by_model=by_model)
    return found


def _came_a_quarter(session: SessionHistory, policy: HistoryCompactionPolicy) -> bool:
    """Did a quarter of the limit come since the last run? After a failure the model is left alone until then."""
    attempted_seq = session.state.attempted_seq
    if not attempted_seq:
        return True
    since = 0
    for message in reversed(session.messages):
        if message.message_seq <= attempted_seq:
            return False
        since += session.weights(message)
        if with_margin(since) >= policy.quarter_tokens:
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    to_seq: int
    max_summary_tokens: int
    tokens_after: int


class _Material:
    """The messages that no summary covers, and what views with another summary would weigh."""

    def __init__(
        self, session: SessionHistory, policy: HistoryCompactionPolicy, settings: SummarySettings, tokens: int
    ) -> None:
        self._messages = session.messages
        self._instructions_tokens = prompt_tokens((), session.instructions)
        self._summary = session.state.summary
        self._policy = policy
        self._max_summary_tokens = min(settings.max_summary_tokens, policy.limit_tokens // 8)
        self._covered_to = covered_to = session.state.covered_to
        self._first = next((i for i, m in enumerate(self._messages) if m.message_seq > covered_to), len(self._messages))
        self._weights = session.weights
        # What a model counted and we cannot see: tool definitions, or a text that our estimate takes too lightly.
        estimated = with_margin(self._weight(assemble(self._messages, self._summary).messages))
        self._unseen = max(0, tokens - estimated)

    def _weight(self, messages: Iterable[HistoryMessage]) -> int:
        return self._instructions_tokens + prompt_tokens(messages, weigh=self._weights)

    def best_cut(self, *, escalate: bool) -> _Cut | None:
        """A tail of ``keep_tail`` messages. ``escalate``: of fewer, so many that the target is reached, or the fewest
        that can be, with a shorter summary."""
        found: _Cut | None = None
        for tail_start in self._tail_starts(escalate=escalate):
            found = self._cut(tail_start, self._summary_limit(tail_start))
            if found.tokens_after <= self._policy.target_tokens:
                return found
        if found is None or not escalate:
            return found
        # A shorter summary where that helps; but not so short that all later ones, which build on it, are poor.
        too_much = found.tokens_after - self._policy.target_tokens
        shortest = max(MIN_SUMMARY_TOKENS, found.max_summary_tokens // 4)
        short = self._cut(tail_start, max(shortest, found.max_summary_tokens - too_much))
        return short if short.tokens_after <= self._policy.limit_tokens else found

    def same_cut(self, summary: HistorySummary) -> _Cut:
        """The range that is covered already."""
        return self._cut(self._first, max(MIN_SUMMARY_TOKENS, self._max_summary_tokens))

    def _tail_starts(self, *, escalate: bool) -> Iterator[int]:
        """Where the tail may begin (an index into the messages), from the longest tail to the shortest, each once.

        A tail never begins with a result: its call would be covered while it, or the result of a call beside it, is
        still waited for. So the shortest tail is the newest message that is no result, with the results after it: what
        no model has answered yet.
        """
        end = len(self._messages)
        starts = [index for index in range(self._first + 1, end) if self._messages[index].role != "tool"]
        keep = max(self._policy.keep_tail, 1)
        while starts:
            fitting = [index for index in starts if end - index >= keep]
            if fitting:
                yield fitting[-1]
                starts = [index for index in starts if index > fitting[-1]]
            if keep == 1 or not escalate:
                return
            keep //= 2

    def _summary_limit(self, tail_start: int) -> int:
        """A summary is at most half of what it stands for, or it would be no gain."""
        replaced = prompt_tokens(self._messages[self._first : tail_start], weigh=self._weights)
        replaced += text_tokens(self._summary.text if self._summary else None)
        return max(MIN_SUMMARY_TOKENS, min(self._max_summary_tokens, replaced // 2))

    def _cut(self, tail_start: int, max_summary_tokens: int) -> _Cut:
        # What is covered already ends where its summary says, whichever of its messages are held.
        to_seq = self._covered_to if tail_start == self._first else self._messages[tail_start - 1].message_seq
        from_seq = _from_seq(self._messages, self._summary)
        made = HistorySummary(history_compaction_id="", from_seq=from_seq, to_seq=to_seq, text="", history_seq=to_seq)
        view = assemble(self._messages, made)
        return _Cut(
            to_seq=to_seq,
            max_summary_tokens=max_summary_tokens,
            tokens_after=self._unseen + with_margin(self._weight(view.messages) + max_summary_tokens),
        )


def _from_seq(messages: Sequence[HistoryMessage], summary: HistorySummary | None) -> int:
    """A summary stands for all from the first message on, whether that is held or not."""
    first = messages[0].message_seq
    return first if summary is None else min(first, summary.from_seq)


def _plan(
    session: SessionHistory,
    policy: HistoryCompactionPolicy,
    settings: SummarySettings,
    cut: _Cut,
    *,
    trigger: str,
    tokens: int,
    by_model: bool,
) -> HistoryCompactionPlan:
    from_seq = _from_seq(session.messages, session.state.summary)
    base = session.state.base
    previous = base if base is not None and base.to_seq < cut.to_seq else None

    def identity(model: str) -> str:
        return history_compaction_id(session.session_id, from_seq, cut.to_seq, replace(settings, model=model))

    return HistoryCompactionPlan(
        history_compaction_id=identity(settings.model),
        truncation_id=identity(BY_TRUNCATION),
        trigger=trigger,
        by_model=by_model,
        from_seq=from_seq,
        to_seq=cut.to_seq,
        source_from=previous.to_seq + 1 if previous else from_seq,
        previous=previous,
        history_seq=session.messages[-1].message_seq,
        max_summary_tokens=cut.max_summary_tokens,
        limit_tokens=policy.limit_tokens,
        tokens_before=tokens,
        tokens_after=cut.tokens_after,
    )
