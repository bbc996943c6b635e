"""Is this process alive, and does it do what it is for? Judged when somebody asks, so that a hung loop is noticed."""

import time
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Health:
    """What a process knows of itself. Written by its main thread, read by the thread that answers."""

    def __init__(self, *, hang_after_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """``hang_after_s``: without a heartbeat for so long, the process counts as hung."""
        self._hang_after_s = hang_after_s
        self._now = now
        self._beat: float | None = None
        self.stalled = ""  #: a sentence: what does not go on; empty: nothing
        self.not_ready: Callable[[], str] = lambda: "it is starting"  #: a sentence; empty: it is ready

    def beat(self) -> None:
        """The main loop turns."""
        self._beat = self._now()

    def rest(self) -> None:
        """The main loop does something that may take as long as it takes: no heartbeat is expected."""
        self._beat = None

    @property
    def beat_age_s(self) -> float:
        """Seconds since the last heartbeat; 0: none is expected."""
        beat = self._beat
        return 0.0 if beat is None else max(0.0, self._now() - beat)

    @property
    def hung(self) -> bool:
        """Has the main loop not turned for too long?"""
        return self.beat_age_s > self._hang_after_s

    def not_live(self) -> str:
        """Why it should be started again; empty: it should not."""
        if self.hung:
            return f"the main loop has not turned for {self.beat_age_s:.0f} s"
        return self.stalled


class HealthCollector(Collector):
    """The same for those who look at numbers."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def describe(self) -> list[Metric]:
        """Nothing is asked before somebody scrapes."""
        return []

    def collect(self) -> Iterator[Metric]:
        """1: yes, 0: no."""
        live = not self._health.not_live()
        ready = live and not self._health.not_ready()
        yield GaugeMetricFamily("turnlog_live", "1: /livez is green; 0: it is red.", value=float(live))
        yield GaugeMetricFamily("turnlog_ready", "1: /readyz is green; 0: it is red.", value=float(ready))
