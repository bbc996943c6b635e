"""Every metric of every process with its type and labels: as the code has them, and as docs/metrics.md lists them."""

import re
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from turnlog.serve.measured import HttpMetrics
from turnlog.serve.open_streams import OpenStreams
from turnlog_workers.observe.health import Health, HealthCollector
from turnlog_workers.observe.materializer_metrics import MaterializerCollector, MaterializerNow
from turnlog_workers.observe.turn_times import TurnMetrics
from turnlog_workers.observe.watchdog import LoopMetrics
from turnlog_workers.observe.worker_metrics import PartitionNow, WorkerCollector, WorkerNow

ROOT = Path(__file__).resolve().parents[1]
#: By name: type and labels.
Families = Mapping[str, tuple[str, frozenset[str]]]


def worker_now(*partitions: int) -> WorkerNow:
    """One that has something of everything."""
    one = PartitionNow(
        serving=True, running_turns=1, queued_turns=2, lag=3, unsaved_events=4, saved_at=5.0, save_failed_at=6.0
    )
    return WorkerNow(
        partitions=dict.fromkeys(partitions, one),
        appends=1,
        claims=1,
        releases={"fenced": 1},
        frames_sent=1,
        frames_joined=1,
        frames_dropped=1,
        misrouted={"a client": 1},
        dead_letters={"too_long": 1},
    )


def worker_families() -> Families:
    """A worker's."""
    registry = CollectorRegistry()
    turns = TurnMetrics(registry)
    model = turns.of_model("echo:")
    model.queue.observe(1)
    turns.accepted(1, lambda: 2)
    LoopMetrics(registry)
    registry.register(WorkerCollector(lambda: worker_now(0)))
    return _of(registry)


def materializer_families() -> Families:
    """The materializer's."""
    registry = CollectorRegistry()
    now = MaterializerNow(lag={0: 1}, fresh_at=1.0, failed_at=1.0)
    registry.register(MaterializerCollector(lambda: now))
    return _of(registry)


def gateway_families() -> Families:
    """A gateway's."""
    registry = CollectorRegistry()
    streams = OpenStreams(heartbeat_s=1, slow_reader_timeout_s=1, clock=lambda: 0.0)
    streams.ended["whole"] += 1
    metrics = HttpMetrics(registry, streams)
    metrics.requests.labels("/", "200").inc()
    metrics.first_byte.labels("/").observe(1)
    LoopMetrics(registry)
    return _of(registry)


def _of(registry: CollectorRegistry) -> Families:
    registry.register(HealthCollector(Health(hang_after_s=1)))  # the port does
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        if not family.name.endswith("_created"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert family.samples, f"{name} has no sample here, so its labels are not seen"
            labels = frozenset(label for sample in family.samples for label in sample.labels)
            found[name] = (family.type, labels - {"le"})
    return found


def listed(page: str, section: str) -> Families:
    """What a section of the page says."""
    (text,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", page, re.M | re.S)
    rows = re.findall(r"^\| `(turnlog_\w+)` \| (\w+) \| ([^|]*)\|", text, re.M)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
