"""How the materializer and a gateway are seen from outside, and that no two processes of a stack share a port."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from tests.metric_families import ROOT, gateway_families, listed, materializer_families, worker_families
from tests.unit.test_observe import get
from turnlog.serve.app import create_app
from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.gateway import Gateway
from turnlog.serve.http_errors import json_response
from turnlog.serve.measured import HttpMetrics
from turnlog.serve.observation import Observation as GatewayObservation
from turnlog_streams.reader_rule import LogPosition
from turnlog_workers.base.config import Settings
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.devstack.stack import child_specs, http_spec, with_metrics_ports
from turnlog_workers.materializer.observation import Observation
from turnlog_workers.materializer.process import Materializer
from turnlog_workers.materializer.publication_state import Publications


def a_file(folder: Path, offset: int = 7) -> Any:
    """As much of an analysts' file as is looked at."""
    return SimpleNamespace(
        positions={0: LogPosition(next_offset=offset)},
        publications=Publications(folder),
        written_events=5,
        written_rows=9,
    )


def test_the_materializer_answers_with_its_lag_and_the_age_of_its_snapshot(tmp_path: Path) -> None:
    observation = Observation(Settings(metrics_port=0))
    sentences = ["it has not caught up with the log yet"]
    observation.start(lambda: sentences[0])
    try:
        port = observation._port.served
        assert port is not None
        assert get(port, "/livez") == (200, "ok\n")
        assert get(port, "/readyz") == (503, "it has not caught up with the log yet\n")
        assert not re.search(r"^turnlog_snapshot_age", get(port, "/metrics")[1], re.M), "an age without a snapshot"
        file = a_file(tmp_path)
        file.publications.failed(tmp_path / "s", "no room")
        file.publications.succeeded(tmp_path / "s", took_s=100)
        observation.follows(file, {0: 10})
        sentences[0] = ""
        assert get(port, "/readyz") == (200, "ok\n")
        text = get(port, "/metrics")[1]
    finally:
        observation.stop()
    values = dict(re.findall(r"^(turnlog_\S+) ([\d.e+]+)$", text, re.M))
    assert values['turnlog_materializer_lag_events{partition="0"}'] == "3.0"
    assert values["turnlog_materializer_rows_total"] == "9.0"
    assert values["turnlog_snapshot_failures_total"] == "1.0"
    assert 100 <= float(values["turnlog_snapshot_age_seconds"]) < 130
    assert "turnlog_snapshot_last_failure_timestamp_seconds" in values


def test_a_materializer_that_stands_still_is_red_and_one_without_a_broker_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = Observation(Settings(watchdog_timeout_s=10))
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("turnlog_workers.materializer.observation.time", clock)
    now = 0.0
    file = a_file(tmp_path)
    with observation.following():
        observation.follows(file, {0: 10})
        now = 11.0
        observation.follows(file, {0: 10})
        assert observation._health.not_live() == "partitions 0: events wait, and none was written for 10 s"
        file.positions = {0: LogPosition(next_offset=8)}
        observation.follows(file, {0: 10})
        assert observation._health.not_live() == ""
        now = 22.0
        observation.follows(file, {0: 10})
        assert observation._health.not_live() != ""
    assert observation._health.not_live() == ""
    assert observation.now().lag == {}
    now = 1000.0  # the broker was away
    with observation.following():
        observation.follows(file, {0: 10})
        assert observation._health.not_live() == "", "what it could not do meanwhile is no reason for a new start"
        now = 1009.0
        observation.rests()  # while the whole file is copied
        now = 2000.0
        observation.follows(file, {0: 10})
        assert observation._health.not_live() == ""
        now = 2011.0
        observation.follows(file, {0: 10})
        assert observation._health.not_live() != ""


def test_a_file_that_is_made_anew_again_and_again_is_so_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, pauses, made = SimpleNamespace(monotonic=lambda: now), list[float](), list[str]()
    monkeypatch.setattr("turnlog_workers.materializer.process.time", clock)
    now = 0.0
    stop = SimpleNamespace(wait=pauses.append)
    materializer = Materializer(Settings(data_dir=tmp_path), cast(Any, stop))
    file = cast(Any, SimpleNamespace(path="a file", start_anew=lambda reason, tolerant: made.append(reason)))
    for number in range(10):
        now += 100
        materializer._start_anew(file, str(number))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    now += 601
    materializer._start_anew(file, "10")
    assert made == [str(number) for number in range(11)]
    assert len(pauses) == 9, "the first time at once"


def test_an_idle_snapshot_stays_young_and_one_of_a_process_before_has_its_age(tmp_path: Path) -> None:
    now = 1000.0
    publications = Publications(tmp_path, now=lambda: now)
    assert publications.fresh_at is None
    publications.succeeded(tmp_path / "s", took_s=10)
    assert publications.fresh_at == 990
    now = 2000.0
    publications.current()
    assert publications.fresh_at == 2000
    assert Publications(tmp_path).fresh_at == 1000


async def answers(call: Call) -> Any:
    return json_response({"session": call.session()})


async def streams(call: Call) -> Any:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    return call.events(events())


async def test_requests_are_counted_by_path_and_status_and_streams_by_their_end() -> None:
    gateway = Gateway(Settings())
    registry = CollectorRegistry()
    endpoints = (Endpoint(path="/who/{session_id}", handler=answers), Endpoint(path="/stream", handler=streams))
    app = create_app(gateway, endpoints, HttpMetrics(registry, gateway.streams))
    base = "http://127.0.0.1:8080"
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=base) as client:
        for path in ("/who/a", "/who/b", "/who/%20", "/nowhere"):
            await client.get(path)
        await client.get("/stream")
    await gateway.streams.aclose()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"turnlog_http_{name}", labels)

    assert value("requests_total", path="/who/{session_id}", status="200") == 2
    assert value("requests_total", path="/who/{session_id}", status="404") == 1
    assert value("requests_total", path="none", status="404") == 1
    assert value("first_byte_seconds_count", path="/who/{session_id}") == 3
    assert value("first_byte_seconds_count", path="/stream") == 1
    assert value("streams_ended_total", end="whole") == 1
    assert value("open_streams") == 0


async def test_a_stream_past_the_application_is_measured_to_its_first_event_and_ends_with_its_reader() -> None:
    """As :mod:`turnlog.serve.server` has it: pieces go straight to the connection."""
    gateway, registry = Gateway(Settings()), CollectorRegistry()
    wait = asyncio.Event()
    written: list[bytes] = []

    async def waits(call: Call) -> Any:
        async def events() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            wait.set()
            await asyncio.Event().wait()

        return call.events(events())

    async def write(chunk: bytes) -> None:
        written.append(chunk)

    async def receive() -> dict[str, Any]:
        await wait.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert not message.get("body")

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/wait",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "state": {"write_chunk": write},
    }
    app = create_app(gateway, [Endpoint(path="/wait", handler=waits)], HttpMetrics(registry, gateway.streams))
    await app(scope, receive, send)
    await gateway.streams.aclose()
    assert written == [b"data: 1\n\n"]
    assert registry.get_sample_value("turnlog_http_first_byte_seconds_count", {"path": "/wait"}) == 1
    assert registry.get_sample_value("turnlog_http_streams_ended_total", {"end": "gone"}) == 1


async def test_a_gateway_s_port_is_its_own_and_says_what_it_waits_for() -> None:
    gateway = Gateway(Settings(metrics_port=0))
    accepting = [False]
    observation = GatewayObservation(gateway, lambda: accepting[0])
    observation.start()
    try:
        port = observation._port.served
        assert port is not None

        async def ready() -> str:
            return (await asyncio.to_thread(get, port, "/readyz"))[1]

        assert await ready() == "it is not connected to Kafka\n"
        gateway._client = cast(Any, SimpleNamespace(failure=None))
        assert await ready() == "it is starting\n"
        accepting[0] = True
        assert await ready() == "ok\n"
        gateway.streams.stop()
        assert await ready() == "it is stopping\n"
        assert "turnlog_http_open_streams 0.0" in (await asyncio.to_thread(get, port, "/metrics"))[1]
    finally:
        await observation.stop()


def test_no_two_processes_of_a_stack_have_the_same_port() -> None:
    _, children = child_specs(Path("/data"), workers=2, port=9092, env={})
    children.append(http_spec(8080, {}))
    given = with_metrics_ports(children, {8080, 9092}, {"TURNLOG_METRICS_PORT": "8079"})
    assert [child.env["TURNLOG_METRICS_PORT"] for child in given] == ["8079", "8081", "8082", "8083"]
    for any_port in ({"TURNLOG_METRICS_PORT": "0"}, {}):
        assert with_metrics_ports(children, {8080}, any_port) == children
    with pytest.raises(SettingsError, match="4 processes need a port each"):
        with_metrics_ports(children, {65535}, {"TURNLOG_METRICS_PORT": "65532"})


@pytest.mark.parametrize(
    ("section", "families"),
    [("A worker", worker_families), ("The materializer", materializer_families), ("A gateway", gateway_families)],
)
def test_the_page_lists_every_metric_with_its_labels_and_no_other(section: str, families: Any) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    assert listed(page, section) == families()
