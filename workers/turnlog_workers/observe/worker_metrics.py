"""A worker's numbers at the moment when somebody scrapes: read from what is there, so that a dropped partition's go."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionNow:
    """One assigned partition."""

    serving: bool
    running_turns: int
    queued_turns: int
    lag: int  #: requests
    unsaved_events: int
    saved_at: float | None  #: seconds since 1970
    save_failed_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerNow:
    """One worker; counts are since its start."""

    partitions: Mapping[int, PartitionNow]
    appends: int
    claims: int
    releases: Mapping[str, int]  #: by reason
    frames_sent: int
    frames_joined: int
    frames_dropped: int
    misrouted: Mapping[str, int]  #: by the producer's source
    dead_letters: Mapping[str, int]  #: by code


class WorkerCollector(Collector):
    """Asks for the state at each scrape."""

    def __init__(self, look: Callable[[], WorkerNow], now: Callable[[], float] = time.time) -> None:
        self._look = look
        self._now = now

    def describe(self) -> list[Metric]:
        """Nothing is asked before somebody scrapes."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family, also one without a sample."""
        state = self._look()
        yield from self._of_partitions(state.partitions)
        counts = (
            ("appends", "Appends to the event log that were confirmed.", state.appends),
            ("claims", "Claims that were opened.", state.claims),
            ("frames_sent", "Frames that the broker took.", state.frames_sent),
            ("frames_joined", "Frames that went out as part of another one.", state.frames_joined),
            ("frames_dropped", "Frames that were dropped or given up.", state.frames_dropped),
        )
        for name, meaning, total in counts:
            yield CounterMetricFamily(f"turnlog_{name}", meaning, value=total)
        labelled = (
            ("releases", "reason", "Partitions that were released.", state.releases),
            ("misrouted_requests", "client", "Requests in a wrong partition, that were sent on.", state.misrouted),
            ("dead_letters", "code", "Requests that were parked.", state.dead_letters),
        )
        for name, label, meaning, values in labelled:
            family = CounterMetricFamily(f"turnlog_{name}", meaning, labels=[label])
            for value, count in list(values.items()):
                family.add_metric([value], count)
            yield family

    def _of_partitions(self, partitions: Mapping[int, PartitionNow]) -> Iterator[Metric]:
        def gauge(name: str, meaning: str, read: Callable[[PartitionNow], float | None]) -> Metric:
            family = GaugeMetricFamily(f"turnlog_{name}", meaning, labels=["partition"])
            for number, partition in partitions.items():
                if (value := read(partition)) is not None:
                    family.add_metric([str(number)], value)
            return family

        yield gauge("partition_serving", "1: the partition is served; 0: assigned only.", lambda p: float(p.serving))
        yield gauge("turns_running", "Turns that have a runner at work.", lambda p: p.running_turns)
        yield gauge("turns_queued", "Turns that are accepted and wait.", lambda p: p.queued_turns)
        yield gauge("partition_lag_requests", "Requests that are there and not decided.", lambda p: p.lag)
        yield gauge("store_unsaved_events", "Events that the store does not have yet.", lambda p: p.unsaved_events)
        yield gauge(
            "store_age_seconds",
            "Since the store was as new as the log.",
            lambda p: None if p.saved_at is None else max(0.0, self._now() - p.saved_at),
        )
        yield gauge(
            "store_last_failure_timestamp_seconds", "When a write to the store failed last.", lambda p: p.save_failed_at
        )
