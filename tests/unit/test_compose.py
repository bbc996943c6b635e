"""docker-compose.yml: valid by the compose schema, and in step with the settings, the CLI and the test broker."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from turnlog.serve.keys import SCOPES, read_keys
from turnlog_workers.base.config import Settings
from turnlog_workers.base.readiness_file import READY_FILE_VARIABLE
from turnlog_workers.devstack.broker_files import KAFKA_VERSION

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
    }
    broker_first = {"kafka": "service_healthy"}
    topics_first = broker_first | {"topics": "service_completed_successfully"}
    others = dict.fromkeys(("worker", "materializer", "serve"), topics_first)
    assert order == {"kafka": {}, "topics": broker_first, **others}


def test_the_broker_is_the_version_that_the_tests_run_on(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert services["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


@pytest.mark.parametrize("name", ["worker", "materializer", "serve"])
def test_health_is_the_file_that_the_process_writes_when_it_serves(services: dict[str, Any], name: str) -> None:
    service = services[name]
    ready_file = service["environment"][READY_FILE_VARIABLE]
    assert service["healthcheck"]["test"] == ["CMD", "test", "-f", ready_file]
    assert str(Path(ready_file).parent) in service["tmpfs"], "a restarted container would look ready at once"


def test_every_variable_is_a_setting(services: dict[str, Any]) -> None:
    known = {f"TURNLOG_{name.upper()}" for name in Settings.model_fields} | MODEL_KEYS
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
