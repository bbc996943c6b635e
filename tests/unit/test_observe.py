"""How a worker is seen from outside: its port, its numbers, its watchdog."""

import asyncio
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.metric_families import worker_now
from turnlog_schemas.events import SESSION, EventHeader, TurnAccepted, TurnCompleted, TurnStarted
from turnlog_schemas.parts import Usage
from turnlog_workers.base.errors import UsageError
from turnlog_workers.observe.counts import MAX_LABELS
from turnlog_workers.observe.health import Health
from turnlog_workers.observe.port import ObservationPort
from turnlog_workers.observe.turn_times import TurnMetrics, TurnTimes
from turnlog_workers.observe.watchdog import Watchdog
from turnlog_workers.observe.worker_metrics import WorkerCollector


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def get(port: ObservationPort, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port.server_port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def port(clock: Clock) -> Iterator[ObservationPort]:
    registry = CollectorRegistry()
    registry.register(WorkerCollector(lambda: worker_now(7)))
    served = ObservationPort("127.0.0.1", 0, Health(hang_after_s=10, now=clock), registry)
    yield served
    served.stop()


def test_a_process_is_live_before_it_is_ready(port: ObservationPort) -> None:
    assert get(port, "/livez") == (200, "ok\n")
    assert get(port, "/readyz") == (503, "it is starting\n")
    port.health.not_ready = lambda: ""
    assert get(port, "/readyz") == (200, "ok\n")
    assert "turnlog_live 1.0\n" in get(port, "/metrics")[1]
    assert "turnlog_ready 1.0\n" in get(port, "/metrics")[1]
    assert get(port, "/metrics")[1].count('{partition="7"}') == 7
    assert get(port, "/else")[0] == 404


def test_a_loop_that_hangs_is_red_and_written_down_once(
    port: ObservationPort, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    port.health.beat()
    clock.now = 11
    assert get(port, "/livez") == (503, "the main loop has not turned for 11 s\n")
    assert "turnlog_live 0.0\n" in get(port, "/metrics")[1]
    port.service_actions()
    port.service_actions()
    assert caplog.text.count("it stands at") == 1
    assert "test_observe.py" in caplog.text
    port.health.beat()
    assert get(port, "/livez")[0] == 200


def test_a_taken_port_is_a_sentence(port: ObservationPort) -> None:
    with pytest.raises(UsageError, match="TURNLOG_METRICS_PORT"):
        ObservationPort("127.0.0.1", port.server_port, port.health, CollectorRegistry())


async def test_a_partition_that_stands_still_is_told_with_every_task(caplog: pytest.LogCaptureFixture) -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    waiting = asyncio.create_task(waits_for_ever(), name="somebody who waits")
    await asyncio.sleep(0)
    health, state = Health(hang_after_s=10), {0: (5, 1), 1: (0, 1), 2: (5, 1)}
    watchdog = Watchdog(health, lambda: state, timeout_s=10)
    watchdog.look(0.0)
    state[2] = (5, 2)
    watchdog.look(9.0)
    assert health.not_live() == ""
    with caplog.at_level(logging.CRITICAL):
        watchdog.look(10.5)
        watchdog.look(11.0)
    assert health.not_live() == "partitions 0: requests wait, and none was decided for 10 s"
    assert caplog.text.count("Every task stands at") == 1
    assert "somebody who waits" in caplog.text
    assert "in waits_for_ever" in caplog.text
    state[0] = (4, 2)
    watchdog.look(12.0)
    assert health.not_live() == ""
    waiting.cancel()


def test_a_dropped_partition_s_series_go() -> None:
    held = [1, 2]
    registry = CollectorRegistry()
    registry.register(WorkerCollector(lambda: worker_now(*held)))
    assert 'partition="1"' in generate_latest(registry).decode()
    held.remove(1)
    assert 'partition="1"' not in generate_latest(registry).decode()
    assert 'partition="2"' in generate_latest(registry).decode()


def header(at_ms: int, turn: str = "t") -> EventHeader:
    return EventHeader(
        stream_kind=SESSION,
        stream_id="s",
        stream_version=1,
        epoch=0,
        n=0,
        accepted=0,
        replied=0,
        turn_id=turn,
        recorded_at=at_ms,
    )


def test_a_turn_is_measured_by_model_and_outcome() -> None:
    registry = CollectorRegistry()
    times = TurnTimes(TurnMetrics(registry))
    times.confirmed(header(1_000), TurnAccepted(request_id="r", command_hash="h", content=()))
    times.confirmed(header(3_000), TurnStarted(model="echo:", cause="first"))
    times.confirmed(header(4_000), TurnStarted(model="echo:", cause="retry"))
    usage = Usage(input_tokens=7, output_tokens=9)
    times.confirmed(header(6_000), TurnCompleted(usage=usage, first_delta_ms=500))
    model = {"model": "echo:"}
    value = registry.get_sample_value
    assert value("turnlog_turn_queue_seconds_sum", model) == 2
    assert value("turnlog_turn_queue_seconds_count", model) == 1
    assert value("turnlog_turn_duration_seconds_sum", {**model, "outcome": "completed"}) == 5
    assert value("turnlog_turn_first_delta_seconds_sum", model) == 0.5
    assert value("turnlog_tokens_total", {**model, "kind": "output"}) == 9


def test_models_are_bounded() -> None:
    metrics = TurnMetrics(CollectorRegistry())
    names = [metrics.of_model(f"script:{number}") for number in range(MAX_LABELS + 5)]
    assert names[-1] is names[-2]
    assert names[0] is not names[1]
