"""``turnlog config``: every setting, where its value comes from, and no secret."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from turnlog.cli.app import app
from turnlog.cli.config import ProcessKind
from turnlog_workers.base.config import Settings
from turnlog_workers.base.shown_settings import is_of

SECRET = "planted-secret-of-a-test"
OF_A_PLAN = "https://other.example/mcp?plan-7"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TURNLOG_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def shown(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["config", "--json", *arguments])
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_every_setting_is_shown_at_its_default() -> None:
    document = shown()
    assert list(document) == [f"TURNLOG_{name.upper()}" for name in Settings.model_fields]
    assert {each["source"] for each in document.values()} == {"default"}
    assert all(each["value"] == each["default"] for each in document.values())
    assert document["TURNLOG_PARTITIONS"]["value"] == "12"
    assert document["TURNLOG_ALLOW_MODELS"]["value"] == "echo:*"
    assert shown("--changed") == {}


def test_what_is_shown_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings()
    for name, each in shown().items():
        monkeypatch.setenv(name, each["value"])
    again = Settings()
    assert [name for name in Settings.model_fields if getattr(again, name) != getattr(default, name)] == []


def test_where_a_value_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "stack.json").write_text(
        json.dumps({"bootstrap_server": "localhost:19092", "snapshot_path": "/srv/snapshot.duckdb"}), encoding="utf-8"
    )
    monkeypatch.setenv("TURNLOG_DATA_DIR", str(folder))
    monkeypatch.setenv("TURNLOG_MAX_RUNNING_TURNS", "7")
    monkeypatch.setenv("TURNLOG_GROUP", "")
    found = {name: (each["value"], each["source"]) for name, each in shown("--changed", "--prefix", "p2").items()}
    assert found == {
        "TURNLOG_BOOTSTRAP_SERVER": ("localhost:19092", "file"),
        "TURNLOG_PREFIX": ("p2", "option"),
        "TURNLOG_DATA_DIR": (str(folder), "environment"),
        "TURNLOG_SNAPSHOT_PATH": ("/srv/snapshot.duckdb", "file"),
        "TURNLOG_MAX_RUNNING_TURNS": ("7", "environment"),
    }


@pytest.mark.parametrize("arguments", [["config"], ["config", "--json"], ["config", "gateway"]])
def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]) -> None:
    password_file = tmp_path / "password"
    password_file.write_text(SECRET, encoding="utf-8")
    monkeypatch.setenv("TURNLOG_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("TURNLOG_SASL_USERNAME", "worker")
    monkeypatch.setenv("TURNLOG_SASL_PASSWORD_FILE", str(password_file))
    monkeypatch.setenv("TURNLOG_HTTP_KEYS", json.dumps({"a": {"hash": SECRET}}))
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    server = {"command": ["server", f"--token={SECRET}"], "env_from": ["SOME_API_KEY"]}
    web = {"url": f"https://tools.example/{'x' * 20}?key={SECRET}"}
    monkeypatch.setenv("TURNLOG_MCP_SERVERS", json.dumps({"files": server, "web": web, "other": {"url": OF_A_PLAN}}))
    monkeypatch.setenv("TURNLOG_WORKER_NAME", f"worker-{SECRET}")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    assert "plan-7" not in done.output, "who knows what an address says behind its ?"
    assert "(hidden)" in done.output


def test_a_password_of_a_file_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TURNLOG_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("TURNLOG_SASL_USERNAME", "worker")
    monkeypatch.setenv("TURNLOG_SASL_PASSWORD_FILE", str(tmp_path / "password"))
    assert shown()["TURNLOG_SASL_PASSWORD"] == {
        "value": "(hidden)",
        "source": "file",
        "where": str(tmp_path / "password"),
        "default": "",
    }


def test_each_process_has_its_settings_and_none_is_nobody_s() -> None:
    of = {kind: {name for name in Settings.model_fields if is_of(name, kind)} for kind in ProcessKind}
    together = of[ProcessKind.WORKER] | of[ProcessKind.MATERIALIZER] | of[ProcessKind.GATEWAY]
    assert of[ProcessKind.ALL] - together == {"partitions", "replication_factor"}  # who makes the topics
    everybody = of[ProcessKind.WORKER] & of[ProcessKind.MATERIALIZER] & of[ProcessKind.GATEWAY]
    assert {"bootstrap_server", "sasl_password", "log_level", "metrics_port"} <= everybody
    assert "http_port" in of[ProcessKind.GATEWAY] - of[ProcessKind.WORKER] - of[ProcessKind.MATERIALIZER]
    assert "http_servers" in of[ProcessKind.WORKER] - of[ProcessKind.GATEWAY]
    assert "max_running_turns" in of[ProcessKind.WORKER] - of[ProcessKind.MATERIALIZER] - of[ProcessKind.GATEWAY]
    assert "publish_interval_s" in of[ProcessKind.MATERIALIZER] - of[ProcessKind.WORKER]
