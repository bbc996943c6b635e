"""deploy/kubernetes: whole, in step with the settings and the command line, and locked down."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.rights import ROLES

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
DEPLOYING = (FOLDER.parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
PARSER = YAML(typ="safe")
BASE = PARSER.load(FOLDER / "kustomization.yaml")
OBJECTS = [found for name in BASE["resources"] for found in PARSER.load_all(FOLDER / name)]
WORKLOADS = {found["metadata"]["name"]: found for found in OBJECTS if "template" in found.get("spec", {})}
LITERALS = dict(line.split("=", 1) for line in BASE["configMapGenerator"][0]["literals"])
NAMES = sorted(WORKLOADS)


def pod(name: str) -> dict[str, Any]:
    return dict(WORKLOADS[name]["spec"]["template"]["spec"])


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    return dict(only)


def variables(name: str) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container(name).get("env", ())}


def test_the_base_has_every_file() -> None:
    assert sorted(BASE["resources"]) == sorted(
        path.name for path in FOLDER.glob("*.yaml") if path.stem != "kustomization"
    )
    assert set(NAMES) == {"turnlog-topics", "turnlog-worker", "turnlog-materializer", "turnlog-gateway"}


def test_every_variable_is_a_setting() -> None:
    known = {f"TURNLOG_{name.upper()}" for name in Settings.model_fields}
    given = set(LITERALS).union(*(variables(name) for name in NAMES))
    assert given <= known
    Settings(**{name.removeprefix("TURNLOG_").lower(): value for name, value in LITERALS.items()})


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_has_no_more_rights_than_it_needs(name: str) -> None:
    assert pod(name)["automountServiceAccountToken"] is False
    assert pod(name)["enableServiceLinks"] is False
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    user = re.search(r"^USER (\d+)$", (FOLDER.parents[1] / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    assert pod(name)["securityContext"]["runAsUser"] == int(user[1])
    rights = container(name)["securityContext"]
    assert rights == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_a_process_writes_is_on_a_volume(name: str) -> None:
    claims = {claim["metadata"]["name"] for claim in WORKLOADS[name]["spec"].get("volumeClaimTemplates", ())}
    volumes = claims | {volume["name"] for volume in pod(name)["volumes"]}
    mounts = container(name)["volumeMounts"]
    assert {mount["name"] for mount in mounts} == volumes
    writable = [mount["mountPath"] for mount in mounts if not mount.get("readOnly")]
    for variable in ("TURNLOG_DATA_DIR", "TURNLOG_RUNTIME_DIR"):
        if path := variables(name).get(variable):
            assert any(f"{path}/".startswith(f"{mount}/") for mount in writable), variable


@pytest.mark.parametrize("name", NAMES)
def test_a_container_has_limits_and_says_when_it_serves(name: str) -> None:
    resources = container(name)["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert "memory" in resources["limits"]
    if WORKLOADS[name]["kind"] != "Job":
        (port,) = [port for port in container(name)["ports"] if port["name"] == "metrics"]
        assert str(port["containerPort"]) == LITERALS["TURNLOG_METRICS_PORT"]
        annotations = WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == LITERALS["TURNLOG_METRICS_PORT"]
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert container(name)[probe]["httpGet"] == {"path": path, "port": "metrics"}


def test_every_role_has_a_user_of_its_own() -> None:
    secrets = {
        name: next(each["secretRef"]["name"] for each in container(name)["envFrom"] if "secretRef" in each)
        for name in NAMES
    }
    roles = {name: "operator" if name == "turnlog-topics" else name.removeprefix("turnlog-") for name in NAMES}
    assert secrets == {name: f"turnlog-kafka-{role}" for name, role in roles.items()}
    assert set(roles.values()) <= set(ROLES), "`turnlog acls print` gives each its rights"
    (loop,) = re.findall(r"for role in ([a-z ]+); do\n.*turnlog-kafka-\$role", DEPLOYING)
    assert set(loop.split()) == set(roles.values())


def test_the_job_is_gone_before_it_is_applied_again() -> None:
    assert WORKLOADS["turnlog-topics"]["spec"]["ttlSecondsAfterFinished"] <= 60
    applied = re.findall(r"(.*)\n *kubectl apply -k", DEPLOYING)
    assert applied == [applied[0]]
    assert "kubectl -n turnlog delete job turnlog-topics --ignore-not-found" in applied[0]


def test_no_service_leads_to_the_metrics() -> None:
    ports = [port for found in OBJECTS if found["kind"] == "Service" for port in found["spec"].get("ports", ())]
    assert [port["targetPort"] for port in ports] == ["http"]


def selectors() -> Iterator[tuple[str, dict[str, str]]]:
    for found in OBJECTS:
        selector = found.get("spec", {}).get("selector")
        if selector:
            yield f"{found['kind']} {found['metadata']['name']}", selector.get("matchLabels", selector)


@pytest.mark.parametrize(("who", "labels"), list(selectors()))
def test_a_selector_finds_pods(who: str, labels: dict[str, str]) -> None:
    assert [w for w in WORKLOADS.values() if labels.items() <= w["spec"]["template"]["metadata"]["labels"].items()], who


def test_workers_keep_their_names_and_their_time_to_end() -> None:
    worker = WORKLOADS["turnlog-worker"]
    assert worker["kind"] == "StatefulSet"
    (name,) = [entry for entry in container("turnlog-worker")["env"] if entry["name"] == "TURNLOG_WORKER_NAME"]
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert worker["spec"]["replicas"] <= Settings.model_fields["partitions"].default
    assert (
        pod("turnlog-worker")["terminationGracePeriodSeconds"] >= 2 * Settings.model_fields["drain_timeout_s"].default
    )
    (service,) = [
        f for f in OBJECTS if f["kind"] == "Service" and f["metadata"]["name"] == worker["spec"]["serviceName"]
    ]
    assert service["spec"]["clusterIP"] == "None"


def test_there_is_one_materializer_and_its_snapshot_is_the_gateway_s() -> None:
    assert WORKLOADS["turnlog-materializer"]["spec"]["replicas"] == 1
    claims = [
        [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod(name)["volumes"]
            if volume["name"] == "snapshot"
        ]
        for name in ("turnlog-materializer", "turnlog-gateway")
    ]
    assert claims[0] == claims[1] == ["turnlog-snapshot"]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_one_that_turnlog_has(name: str) -> None:
    command = [sys.executable, "-c", "from turnlog.cli import main; main()", *container(name)["args"], "--help"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize("kubectl", [path for path in [shutil.which("kubectl")] if path])
def test_kubectl_builds_the_base(kubectl: str) -> None:
    built = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert len(list(PARSER.load_all(built.stdout))) == len(OBJECTS) + 1
