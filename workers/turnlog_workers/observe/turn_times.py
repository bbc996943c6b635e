"""How long turns take: from the confirmed events of a partition into histograms, bound once for each model."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from turnlog_schemas.events import EventHeader, TurnAccepted, TurnCancelled, TurnCompleted, TurnFailed, TurnStarted
from turnlog_workers.observe.counts import MAX_LABELS, OTHER

_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OUTCOMES = {TurnCompleted: "completed", TurnFailed: "failed", TurnCancelled: "cancelled"}
_NEVER_STARTED = "none"


class _OfModel:
    """One model's series."""

    def __init__(self, model: str, metrics: "TurnMetrics") -> None:
        self.queue = metrics.queue.labels(model)
        self.first_delta = metrics.first_delta.labels(model)
        self.ends = {kind: metrics.duration.labels(model, outcome) for kind, outcome in OUTCOMES.items()}
        self.input_tokens = metrics.tokens.labels(model, "input")
        self.output_tokens = metrics.tokens.labels(model, "output")


class TurnMetrics:
    """The histograms of one worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "turnlog_request_accept_seconds"
        self.accept = Histogram(
            name, "From when Kafka got a request to its decision in the log.", (), buckets=_SHORT, registry=registry
        )
        self.queue = Histogram(
            "turnlog_turn_queue_seconds",
            "From a turn's acceptance to its first attempt.",
            ("model",),
            buckets=_SHORT,
            registry=registry,
        )
        self.first_delta = Histogram(
            "turnlog_turn_first_delta_seconds",
            "From the start of the attempt that ended a turn to its first delta.",
            ("model",),
            buckets=_SHORT,
            registry=registry,
        )
        self.duration = Histogram(
            "turnlog_turn_duration_seconds",
            "From a turn's acceptance to its end.",
            ("model", "outcome"),
            buckets=_LONG,
            registry=registry,
        )
        self.tokens = Counter("turnlog_tokens", "Tokens that ended turns report.", ("model", "kind"), registry=registry)
        self._models: dict[str, _OfModel] = {}

    def of_model(self, model: str) -> _OfModel:
        """A model's series; beyond so many models, the rest share one."""
        found = self._models.get(model)
        if found is None:
            if len(self._models) >= MAX_LABELS and model != OTHER:
                return self.of_model(OTHER)
            found = self._models[model] = _OfModel(model, self)
        return found

    def accepted(self, timestamp_ms: int, now_ms: Callable[[], int]) -> None:
        """A request is decided."""
        self.accept.observe(max(0, now_ms() - timestamp_ms) / 1000)


class TurnTimes:
    """The turns of one claim. What an owner before accepted is not measured: nobody waited here."""

    def __init__(self, metrics: TurnMetrics) -> None:
        self._metrics = metrics
        self._accepted_ms: dict[str, int] = {}
        self._models: dict[str, _OfModel] = {}

    def confirmed(self, header: EventHeader, payload: Any) -> None:
        """An event of ours is in the log."""
        turn = header.turn_id
        if turn is None:
            return
        kind = type(payload)
        if kind is TurnAccepted:
            self._accepted_ms[turn] = header.recorded_at
        elif kind is TurnStarted:
            model = self._metrics.of_model(payload.model)
            first = turn not in self._models
            self._models[turn] = model
            if first and turn in self._accepted_ms:
                model.queue.observe(max(0, header.recorded_at - self._accepted_ms[turn]) / 1000)
        elif kind in OUTCOMES:
            self._ended(turn, header.recorded_at, payload)

    def _ended(self, turn: str, now_ms: int, payload: TurnCompleted | TurnFailed | TurnCancelled) -> None:
        accepted_ms = self._accepted_ms.pop(turn, None)
        model = self._models.pop(turn, None) or self._metrics.of_model(_NEVER_STARTED)
        if accepted_ms is not None:
            model.ends[type(payload)].observe(max(0, now_ms - accepted_ms) / 1000)
        if payload.first_delta_ms is not None:
            model.first_delta.observe(payload.first_delta_ms / 1000)
        if payload.usage is not None:
            model.input_tokens.inc(payload.usage.input_tokens or 0)
            model.output_tokens.inc(payload.usage.output_tokens or 0)
