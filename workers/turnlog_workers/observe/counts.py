"""What a worker counts as it goes: plain numbers, read when somebody scrapes."""

from collections import Counter
from dataclasses import dataclass, field

MAX_LABELS = 200
OTHER = "other"


@dataclass(slots=True)
class Counts:
    """Since the process started."""

    appends: int = 0  #: confirmed
    claims: int = 0
    releases: Counter[str] = field(default_factory=Counter)  #: by reason

    def released(self, reason: str) -> None:
        """A partition was given up, or is claimed again."""
        self.releases[reason] += 1


def bounded(counter: Counter[str], label: str) -> None:
    """Count a label that somebody else chose: beyond so many, the rest share one."""
    counter[label if label in counter or len(counter) < MAX_LABELS else OTHER] += 1
