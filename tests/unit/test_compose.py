"""docker-compose.yml: valid by the compose schema, and in step with the settings, the CLI and the test broker."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from turnlog.serve.keys import SCOPES, read_keys
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker_files import KAFKA_VERSION
from turnlog_workers.observe.health import Health
from turnlog_workers.observe.port import ObservationPort

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
#: What models' keys are called; no value of one stands in the file.
MODEL_KEYS = {"ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GOOGLE_API_KEY", "MODEL_SERVER_KEY"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(COMPOSE)["services"])


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_file_fits_the_compose_schema() -> None:
    outcome = validate(COMPOSE)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("was", "becomes"),
    [("stop_grace_period", "stop_grace_periode"), ("condition: service_healthy", "condition: [healthy]")],
)
def test_the_schema_refuses_a_planted_fault(tmp_path: Path, was: str, becomes: str) -> None:
    text = COMPOSE.read_text()
    assert was in text
    faulty = tmp_path / "docker-compose.yml"
    faulty.write_text(text.replace(was, becomes))
    assert validate(faulty).returncode == 1


def test_start_order_is_broker_then_topics_then_the_rest(services: dict[str, Any]) -> None:
    order = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
        if "profiles" not in service
    }
    broker_first = {"kafka": "service_healthy"}
    topics_first = broker_first | {"topics": "service_completed_successfully"}
    others = dict.fromkeys(("worker", "materializer", "serve"), topics_first)
    assert order == {"kafka": {}, "topics": broker_first, **others}


def test_the_broker_is_the_version_that_the_tests_run_on(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert services["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


@pytest.mark.parametrize("name", ["worker", "materializer", "serve"])
def test_health_is_what_the_process_says_on_its_port(services: dict[str, Any], name: str) -> None:
    service = services[name]
    port = service["environment"]["TURNLOG_METRICS_PORT"]
    assert f"http://127.0.0.1:{port}/readyz" in service["healthcheck"]["test"][-1]
    published = [given.split(":")[-1] for given in service.get("ports", ())]
    assert str(port) not in published, "metrics are for the other containers"


def test_the_health_check_tells_ready_from_not(services: dict[str, Any]) -> None:
    _, python, *arguments = services["worker"]["healthcheck"]["test"]
    assert python == "python3"
    port = ObservationPort("127.0.0.1", 0, Health(hang_after_s=10), CollectorRegistry())
    command = [sys.executable, *(word.replace(":9464", f":{port.server_port}") for word in arguments)]
    try:
        assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 1
        port.health.not_ready = lambda: ""
        assert subprocess.run(command, check=False).returncode == 0
    finally:
        port.stop()


def test_prometheus_scrapes_every_process_and_monitoring_is_for_this_machine(services: dict[str, Any]) -> None:
    scraped = {
        name: lookup["port"]
        for job in YAML(typ="safe").load(ROOT / "deploy/prometheus/prometheus.yml")["scrape_configs"]
        for lookup in job["dns_sd_configs"]
        for name in lookup["names"]
    }
    assert scraped == {
        name: services[name]["environment"]["TURNLOG_METRICS_PORT"] for name in ("worker", "materializer", "serve")
    }
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
        for volume in services[name]["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source


def test_every_variable_is_a_setting(services: dict[str, Any]) -> None:
    known = {f"TURNLOG_{name.upper()}" for name in Settings.model_fields} | MODEL_KEYS
    known |= {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"}  # OpenTelemetry's own
    for name in ("topics", "worker", "materializer", "serve"):
        given = set(services[name]["environment"])
        assert given <= known, f"{name}: unknown settings {sorted(given - known)}"
        assert (
            services[name]["environment"]["TURNLOG_BOOTSTRAP_SERVER"]
            in (services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"])
        )


def test_a_worker_may_drain_before_it_is_killed(services: dict[str, Any]) -> None:
    grace = re.fullmatch(r"(\d+)s", services["worker"]["stop_grace_period"])
    assert grace
    assert int(grace[1]) >= 2 * Settings.model_fields["drain_timeout_s"].default


def test_http_is_for_this_machine_and_wants_the_key_that_the_file_names(services: dict[str, Any]) -> None:
    service = services["serve"]
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    given = {
        name.removeprefix("TURNLOG_").lower(): value
        for name, value in service["environment"].items()
        if name.startswith("TURNLOG_HTTP") and value is not None
    }
    ring = read_keys(Settings(**given))
    caller = ring.caller("turnlog")
    assert caller is not None
    assert caller.scopes == set(SCOPES)


@pytest.mark.parametrize("name", ["topics", "worker", "materializer", "serve"])
def test_every_command_is_one_that_turnlog_has(services: dict[str, Any], name: str) -> None:
    command = [sys.executable, "-c", "from turnlog.cli import main; main()", *services[name]["command"], "--help"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_models_and_keys_come_from_the_shell_and_keys_go_to_workers_alone(services: dict[str, Any]) -> None:
    given = {name: services[name]["environment"] for name in ("topics", "worker", "materializer", "serve")}
    assert given["worker"].keys() >= {"TURNLOG_DEFAULT_MODEL", "TURNLOG_HTTP_SERVERS"} | MODEL_KEYS
    assert all(given["worker"][name] is None for name in MODEL_KEYS)
    assert not any(MODEL_KEYS & given[name].keys() for name in ("topics", "materializer", "serve"))


@pytest.mark.parametrize("name", ["worker", "materializer", "serve"])
def test_a_service_has_a_limit_and_few_rights(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "/tmp" in service["tmpfs"]
