"""A real Prometheus scrapes real processes: it takes the rules, and every question of the dashboard has its answer."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.deployment import START_S, Deployment, eventually_async
from tests.http_stack import free_port, start_gateway
from tests.prometheus import ALERTS_FILE, ROOT, Prometheus, PrometheusError
from tests.waiting import until
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker

DASHBOARD = json.loads((ROOT / "deploy/grafana/turnlog.json").read_text())
TITLES = {target["expr"]: panel["title"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())}
#: What a deployment that nothing happened to has no series of.
NEVER = {
    "time() - max(turnlog_store_last_failure_timestamp_seconds)",
    "time() - max(turnlog_snapshot_last_failure_timestamp_seconds)",
}
FAILING = "script:bad?fatal=true&fail_attempts=1"
PARTITIONS = 3
JOBS = ("turnlog-worker", "turnlog-worker", "turnlog-materializer", "turnlog-gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A deployment and its Prometheus."""

    deployment: Deployment
    address: str
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory, prometheus: str) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    ports = [free_port() for _ in JOBS]
    with Deployment(broker.bootstrap_server, folder, partitions=PARTITIONS, publish_interval_s="0.3") as deployment:
        deployment.make_topics()
        deployment.ready_worker("w0", metrics_port=str(ports[0]))
        deployment.ready_worker("w1", metrics_port=str(ports[1]))  # it is handed some of the first one's
        materializer = deployment.start("materializer", "materialize", metrics_port=str(ports[2]))
        gateway, address = start_gateway(deployment, metrics_port=str(ports[3]))
        for process in (materializer, gateway):
            until(lambda process=process: process.ready, f"{process.name} is ready", START_S)  # type: ignore[misc]
        targets = {job: [port for name, port in zip(JOBS, ports, strict=True) if name == job] for job in JOBS}
        with Prometheus(folder / "prometheus", ALERTS_FILE, targets) as server:
            until(lambda: server.value("sum(up)") == len(JOBS), "every process is scraped")
            yield Watched(deployment=deployment, address=address, prometheus=server)


def test_it_takes_every_rule_and_a_healthy_deployment_wakes_nobody(watched: Watched) -> None:
    for number in range(3):
        a_turn(watched.address, number)
    watched.prometheus.wait_for_rounds()
    rules = watched.prometheus.rules()
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    assert len(rules) == ALERTS_FILE.read_text().count("- alert: ")
    assert watched.prometheus.firing() == {}


async def test_every_question_of_the_dashboard_has_an_answer(watched: Watched) -> None:
    prometheus, lacking = watched.prometheus, dict(TITLES)
    elsewhere = (partition_of(b"s-lost", PARTITIONS) + 1) % PARTITIONS
    async with watched.deployment.wire() as wire:
        await wire.chat_json("s-bad", "Fail", request_id="bad", model=FAILING)
        await wire.produce(b"poison", b"\x00 no request")
        await wire.produce(b"s-lost", lost(), partition=elsewhere)
        a_turn(watched.address, 0)
        assert (await wire.terminal("bad")).kind == "TurnFailed"
        assert (await wire.terminal("lost")).kind == "TurnCompleted"

        async def all_answer() -> bool:
            for expression in list(lacking):
                if prometheus.query(expression.replace("$__rate_interval", "1m")):
                    del lacking[expression]
            return set(lacking) <= NEVER

        try:
            await eventually_async(all_answer, "every question has an answer", 60.0, 0.5)
        except AssertionError:
            raise AssertionError(f"nothing is shown by {lacking}") from None


def test_a_question_that_cannot_be_asked_is_found(watched: Watched) -> None:
    with pytest.raises(PrometheusError, match="parse error"):
        watched.prometheus.query("rate(turnlog_appends_total)[5m]")
    assert watched.prometheus.query("turnlog_turns_runing") == []


def a_turn(address: str, number: int) -> None:
    """Over HTTP, as a stream."""
    body = json.dumps({"input": f"Hello {number}", "model": "echo:", "stream": True}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/responses", data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=START_S) as response:
        assert b"response.completed" in response.read()


def lost() -> bytes:
    """A request in a partition that is not its session's."""
    command = {"type": "chat", "text": "Hello"}
    return json.dumps({"session_id": "s-lost", "request_id": "lost", "command": command}).encode()
