"""Policy: every bound that a decision knows. Values come from the settings, as arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the worker allows. Sizes in bytes of UTF-8."""

    default_model: str = "echo:"
    fast_model: str = ""  #: of summaries and other small tasks; empty: the default model
    channel_models: Mapping[str, str] = field(default_factory=dict)  #: the default of a channel's sessions
    allow_models: tuple[str, ...] = ("echo:*",)  #: shell-style patterns
    max_text_bytes: int = 256 * 1024
    max_queued_turns: int = 100  #: of one session
    max_runner_attempts: int = 3
    start_turns: bool = True  #: false while the worker drains: what waits is started by the next owner
    max_takeovers: int = 20  #: in a row, without a message stored in between

    def model_of(self, channel: str) -> str:
        """The model of a turn when neither its request nor its session names one."""
        return self.channel_models.get(channel) or self.default_model

    def allows(self, model: str) -> bool:
        """Does this worker serve the model?"""
        return any(fnmatchcase(model, pattern) for pattern in self.allow_models)
