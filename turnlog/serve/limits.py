"""How often somebody may ask, and how many streams they may hold open."""

from collections.abc import Callable

from turnlog.serve.http_errors import too_many

_MAX_CALLERS = 10_000
_STREAM_AGAIN_S = 5.0


class RateLimit:
    """A bucket of tokens for each caller: a minute's worth at once, and refilled evenly."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        """``clock``: monotonic seconds."""
        self._capacity = float(per_minute)
        self._per_s = per_minute / 60
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def take(self, caller: str) -> None:
        """One request. Raises 429 with when the next one may come."""
        now = self._clock()
        tokens, counted_at = self._buckets.pop(caller, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - counted_at) * self._per_s)
        allowed = tokens >= 1
        self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > _MAX_CALLERS:  # the one longest unused is full again, or nearly
            del self._buckets[next(iter(self._buckets))]
        if not allowed:
            raise too_many("rate_limit_exceeded", "too many requests a minute", (1 - tokens) / self._per_s)


class StreamLimit:
    """So many open streams for each caller."""

    def __init__(self, per_caller: int) -> None:
        self._per_caller = per_caller
        self._open: dict[str, int] = {}

    def take(self, caller: str) -> Callable[[], None]:
        """One stream; what is returned gives it back, once. Raises 429."""
        count = self._open.get(caller, 0)
        if count >= self._per_caller:
            message = f"{count} streams are open with this key, and no more may be: close one"
            raise too_many("too_many_streams", message, _STREAM_AGAIN_S)
        self._open[caller] = count + 1
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._open[caller] -= 1
                if not self._open[caller]:
                    del self._open[caller]

        return give_back

    @property
    def total(self) -> int:
        """How many are open."""
        return sum(self._open.values())
