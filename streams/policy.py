"""Policy: every bound that a decision knows. Values come from the settings, as arguments."""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the worker allows. Sizes in bytes of UTF-8."""

    default_model: str = "echo:"
    allow_models: tuple[str, ...] = ("echo:*",)  #: shell-style patterns
    max_text_bytes: int = 256 * 1024
    max_queued_turns: int = 100  #: of one session
    max_runner_attempts: int = 3
    start_turns: bool = True  #: false while the worker drains: what waits is started by the next owner
    max_takeovers: int = 20  #: in a row, without a message stored in between

    def allows(self, model: str) -> bool:
        """Does this worker serve the model?"""
        return any(fnmatchcase(model, pattern) for pattern in self.allow_models)
