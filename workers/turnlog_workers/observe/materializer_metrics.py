"""The materializer's numbers at the moment when somebody scrapes."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializerNow:
    """The materializer; counts are since it opened its file. Moments are seconds since 1970."""

    lag: Mapping[int, int] = field(default_factory=dict)  #: events that are in the log and not in the file
    events: int = 0
    rows: int = 0
    fresh_at: float | None = None  #: when the snapshot was as new as the file
    published: int = 0
    failures: int = 0
    failed_at: float | None = None


class MaterializerCollector(Collector):
    """Asks for the state at each scrape."""

    def __init__(self, look: Callable[[], MaterializerNow], now: Callable[[], float] = time.time) -> None:
        self._look = look
        self._now = now

    def describe(self) -> list[Metric]:
        """Nothing is asked before somebody scrapes."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family, also one without a sample."""
        state = self._look()
        lag = GaugeMetricFamily(
            "turnlog_materializer_lag_events",
            "Records of the event log that the file does not have yet.",
            labels=["partition"],
        )
        for number, events in state.lag.items():
            lag.add_metric([str(number)], events)
        yield lag
        counts = (
            ("materializer_events", "Events that were written to the file.", state.events),
            ("materializer_rows", "Rows that were written to the file, new and changed.", state.rows),
            ("snapshots_published", "Snapshots that were published.", state.published),
            ("snapshot_failures", "Snapshots that could not be published.", state.failures),
        )
        for name, meaning, total in counts:
            yield CounterMetricFamily(f"turnlog_{name}", meaning, value=total)
        age = None if state.fresh_at is None else max(0.0, self._now() - state.fresh_at)
        yield _gauge("snapshot_age_seconds", "Since the snapshot was as new as the file.", age)
        yield _gauge("snapshot_last_failure_timestamp_seconds", "When a snapshot failed last.", state.failed_at)


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"turnlog_{name}", meaning, labels=[])
    if value is not None:
        family.add_metric([], value)
    return family
