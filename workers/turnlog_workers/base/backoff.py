"""How long to wait before something that failed is tried again: the one rule for all that tries again."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses in seconds that double with each failure in a row, up to a bound."""

    first_s: float
    max_s: float = math.inf

    def next_delay(self, attempt: int) -> float:
        """The pause after so many failures in a row (1 and more), in seconds."""
        return min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 100))
