"""A session that compacts its history as a worker would: a check before every model call, the outcome folded.

Every view is checked on the way: valid for the OpenAI chat format, the tail word for word, the question there, and the
limit kept unless what must stay is too large by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.histories import summary
from turnlog_streams.history.compaction import (
    AUTOMATIC,
    HistoryCompactionPolicy,
    HistoryCompactionState,
    SummarySettings,
)
from turnlog_streams.history.compaction_plan import (
    MIN_SUMMARY_TOKENS,
    HistoryCompactionPlan,
    SessionHistory,
    plan,
    session_tokens,
)
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.openai_format import openai_messages, validate_openai
from turnlog_streams.history.summary_prompt import PROMPT_VERSION, clipped, summary_task
from turnlog_streams.history.summary_truncation import truncation_summary
from turnlog_streams.history.tokens import PromptMeasure, message_tokens, prompt_tokens, with_margin
from turnlog_streams.history.view import BY_TRUNCATION, HistoryView, assemble, says_nothing

SETTINGS = SummarySettings(model="fast", prompt_version=PROMPT_VERSION)
Summariser = Callable[[HistoryCompactionPlan, Sequence[HistoryMessage]], str | None]


def full_length(made: HistoryCompactionPlan, _: Sequence[HistoryMessage]) -> str:
    """The longest summary that is allowed."""
    return "x" * (made.max_summary_tokens * 100 // 22)


@dataclass
class CompactedSession:
    """Messages come in; before each model call there may be a run."""

    policy: HistoryCompactionPolicy
    instructions: str | None = "Be kind."
    summarise: Summariser = full_length  #: ``None`` is a failure
    state: HistoryCompactionState = field(default_factory=HistoryCompactionState)
    messages: list[HistoryMessage] = field(default_factory=list)
    measure: PromptMeasure | None = None
    tidy: bool = True  #: calls and results of one message have ids of their own
    runs: list[HistoryCompactionPlan] = field(default_factory=list)
    views: int = 0

    @property
    def session(self) -> SessionHistory:
        """What plans depend on, now."""
        return SessionHistory(
            session_id="s",
            messages=list(self.messages),
            instructions=self.instructions,
            state=self.state,
            measure=self.measure,
        )

    def feed(self, history: Sequence[HistoryMessage]) -> None:
        """The messages one after the other, with a model call before each of the assistant's and at the end."""
        for message in history:
            if message.role == "assistant":
                self.before_call()
            self.messages.append(message)
        self.before_call()

    def before_call(self) -> HistoryView:
        """The check, perhaps a run, and the view that the model gets."""
        self.compact(AUTOMATIC)
        view = assemble(self.messages, self.state.summary)
        self.views += 1
        self._check(view)
        return view

    def compact(self, trigger: str) -> HistoryCompactionPlan | None:
        """A run, if there is one to do."""
        made = plan(self.session, self.policy, SETTINGS, trigger=trigger)
        if made is None:
            return None
        before = self.state.covered_to
        source = made.source(self.messages)
        text = self.summarise(made, source) if made.by_model else None
        if text is not None:
            self.state = self.state.after_summary(made.summary(clipped(text, made.max_summary_tokens)))
        else:
            if made.by_model:
                self.state = self.state.after_failure(made.history_seq, trigger)
            if trigger == AUTOMATIC:
                previous = made.previous.text if made.previous else None
                text = truncation_summary(source, previous, max_tokens=made.max_summary_tokens)
                self.state = self.state.after_summary(made.summary(text, BY_TRUNCATION))
        self.runs.append(made)
        assert before <= self.state.covered_to, "covered ranges grow"
        assert made.from_seq == 1
        task = summary_task(source, None, window_tokens=8_000, max_summary_tokens=made.max_summary_tokens)
        assert bool(task.parts) is bool(source), "whatever is shown is in the prompt"
        return made

    def _check(self, view: HistoryView) -> None:
        validate_openai(openai_messages(self.instructions, view.messages))
        users = [message for message in self.messages if message.role == "user"]
        if users:
            assert users[-1] in view.messages, "the latest question is there, word for word"
        behind = [message for message in self.messages if message.message_seq > self.state.covered_to]
        tail = [message for message in behind if not says_nothing(message)]
        if not view.added and not view.dropped:
            shown = list(view.messages[len(view.messages) - len(tail) :])
            assert list(map(_words, shown)) == list(map(_words, tail)), "the tail is word for word"
            assert shown == tail or not self.tidy
        tokens = session_tokens(self.session)
        if self.policy.automatic and self.measure is None and tokens > self.policy.limit_tokens:
            assert self.least_tokens() > self.policy.target_tokens, f"{tokens} tokens, and a run would have helped"

    def least_tokens(self) -> int:
        """Instructions, the shortest summary, the latest question and what no model has answered yet."""
        newest = max(index for index, message in enumerate(self.messages) if message.role != "tool")
        shortest = summary(newest, text="") if newest else None
        view = assemble(self.messages, shortest)
        shortest_summary = max(MIN_SUMMARY_TOKENS, self.policy.limit_tokens // 8 // 4)
        return with_margin(prompt_tokens(view.messages, self.instructions) + (shortest_summary if newest else 0))

    def check_no_storm(self) -> None:
        """Every run used up a quarter of the limit."""
        total = with_margin(sum(map(message_tokens, self.messages)))
        assert len(self.runs) <= 1 + 2 * total // self.policy.quarter_tokens


def _words(message: HistoryMessage) -> tuple[object, ...]:
    """A message without the ids of its calls: they are made right where a model would refuse them."""
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.message_seq, message.role, message.content, message.name, calls
