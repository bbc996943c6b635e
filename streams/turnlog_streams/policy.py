"""Policy: every bound that a decision knows. Values come from the settings, as arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from turnlog_schemas.generation import GenerationParams
from turnlog_streams.files import FilePolicy
from turnlog_streams.history.compaction import (
    DEFAULT_MAX_SUMMARY_TOKENS,
    HistoryCompactionPolicy,
    SummarySettings,
)
from turnlog_streams.history.summary_prompt import PROMPT_VERSION

_SHOWN_PATTERNS = 12
_SHOWN_CHARACTERS = 60


def _no_files(model: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasurePolicy:
    """Of a sealed log: how long what an erasure does not reach is kept, in milliseconds; -1: for ever, 0: not known."""

    requests_kept_ms: int = 0
    replies_kept_ms: int = 0
    dead_letters_kept_ms: int = 0
    key_kept_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the worker allows. Sizes in bytes of UTF-8."""

    default_model: str = "echo:"
    fast_model: str = ""  #: of summaries and other small tasks; empty: the default model
    titles: bool = False  #: does the fast model write titles?
    channel_models: Mapping[str, str] = field(default_factory=dict)  #: the default of a channel's sessions
    allow_models: tuple[str, ...] = ("echo:*",)  #: shell-style patterns
    files: FilePolicy = field(default_factory=FilePolicy)
    media_types_of: Callable[[str], Sequence[str]] = _no_files  #: patterns of the files that a model takes
    params: GenerationParams | None = None  #: of a turn where neither its session nor its request says anything else
    model_windows: tuple[
        tuple[str, int], ...
    ] = ()  #: (pattern of models, tokens of prompt and answer); first one counts
    max_answer_tokens: int = 4096  #: of one model call
    max_text_bytes: int = 256 * 1024
    max_tool_result_bytes: int = 512 * 1024  #: of an output that a client sends
    max_queued_turns: int = 100  #: of one session
    max_runner_attempts: int = 3
    start_turns: bool = True  #: false while the worker drains: what waits is started by the next owner
    max_takeovers: int = 20  #: in a row, without a message stored in between
    history: HistoryCompactionPolicy = field(default_factory=HistoryCompactionPolicy)  #: where a session has no bounds
    max_summary_tokens: int = DEFAULT_MAX_SUMMARY_TOKENS
    summary_window_tokens: int = 32_768  #: of the fast model: what one call for a summary may have in all
    max_summary_instructions_bytes: int = 4 * 1024
    erasure: ErasurePolicy | None = None  #: absent: texts are not sealed

    def model_of(self, channel: str | None) -> str:
        """The model of a turn when neither its request nor its session names one."""
        return self.channel_models.get(channel or "") or self.default_model

    def window_of(self, model: str) -> int | None:
        """How many tokens a model takes, prompt and answer; ``None``: nobody said."""
        return next((tokens for pattern, tokens in self.model_windows if fnmatchcase(model, pattern)), None)

    @property
    def summary_window(self) -> int:
        """What one call for a summary may have in all: no more than its model takes."""
        return min(self.summary_window_tokens, self.window_of(self.summary_model) or self.summary_window_tokens)

    def history_of(
        self, model: str, params: GenerationParams | None, own: HistoryCompactionPolicy
    ) -> HistoryCompactionPolicy:
        """The bounds of a history that this model is shown: its window must hold the answer, too."""
        window = self.window_of(model)
        if window is None or not own.automatic:
            return own
        asked = params.max_tokens if params is not None and params.max_tokens else self.max_answer_tokens
        answer = min(asked, self.max_answer_tokens, window // 2)
        return replace(own, max_tokens=min(own.limit_tokens, window - answer))

    @property
    def summary_model(self) -> str:
        """The model that writes summaries."""
        return self.fast_model or self.default_model

    def summaries(self, instructions: str | None = None) -> SummarySettings:
        """What a summary is made with, now."""
        return SummarySettings(
            model=self.summary_model,
            prompt_version=PROMPT_VERSION,
            max_summary_tokens=self.max_summary_tokens,
            instructions=instructions,
        )

    def allows(self, model: str) -> bool:
        """Does this worker serve the model?"""
        return any(fnmatchcase(model, pattern) for pattern in self.allow_models)

    def not_allowed(self, model: str) -> str:
        """Why a model is not served: a sentence that names what is."""
        allowed = shortened(self.allow_models)
        return f"model {model!r} is not allowed here; allowed: {allowed} (setting TURNLOG_ALLOW_MODELS)"


def shortened(patterns: Sequence[str]) -> str:
    """The patterns in one line that is not too long."""
    shown = list(patterns[:_SHOWN_PATTERNS])
    line = ", ".join(pattern[:_SHOWN_CHARACTERS] for pattern in shown)
    return f"{line} and {len(patterns) - len(shown)} more" if len(patterns) > len(shown) else line
