"""A real Prometheus for tests of alerts and of the dashboard: the machine's own, or the one that a script unpacked.

CI brings one where it can. Where there is none the tests that need it are left out, and a line at the end says so.
"""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest
from ruamel.yaml import YAML

from tests.http_stack import free_port
from tests.left_out import leave_out
from tests.waiting import until
from turnlog_workers.devstack.broker_files import cache_dir
from turnlog_workers.devstack.launch import launch_argv

ROOT = Path(__file__).resolve().parents[1]
ALERTS_FILE = ROOT / "deploy/prometheus/alerts.yml"
FIXTURES = ("promtool", "prometheus")
_LEFT_OUT = pytest.StashKey[int]()
_ASK_S = 10.0
_STOP_S = 30.0


@cache
def program(name: str) -> str | None:
    """Where ``prometheus`` or ``promtool`` is."""
    unpacked = cache_dir().parent / "prometheus/usr/bin" / name  # by scripts/prometheus.sh
    return shutil.which(name) or (str(unpacked) if unpacked.exists() else None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out(config, items, _LEFT_OUT, FIXTURES, lambda name: program(name) is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{count} tests of alerts were left out: there is no Prometheus. "
            "scripts/prometheus.sh brings one where it can."
        )


@pytest.fixture(scope="session")
def promtool() -> str:
    """The program."""
    return _found("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    """The program; :class:`Prometheus` runs it."""
    return _found("prometheus")


def _found(name: str) -> str:
    found = program(name)
    assert found is not None, f"there is no {name} here: scripts/prometheus.sh brings one where it can"
    return found


class PrometheusError(Exception):
    """It refused a question, with its own reason."""


class Prometheus:
    """One that scrapes every second, on a free port of this machine; its files are in ``folder``."""

    def __init__(self, folder: Path, rules: Path, targets: Mapping[str, Sequence[int]]) -> None:
        """``targets``: by the jobs' names, as the rules and the dashboard ask for them, ports on this machine."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules.absolute())],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
                for job, ports in targets.items()
            ],
        }
        self._config = folder / "prometheus.yml"
        with self._config.open("w") as file:
            YAML().dump(config, file)
        self._address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        argv = [
            _found("prometheus"),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._folder / 'series'}",
            f"--web.listen-address={self._address}",
            "--log.level=warn",
        ]
        log_path = self._folder / "prometheus.log"
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                launch_argv(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, log_path.read_text()
            try:
                with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=_ASK_S):
                    return True
            except OSError:
                return False

        try:
            until(ready, "Prometheus is ready")
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Its answer now. Raises :class:`PrometheusError`."""
        data = self._get("query", query=expression)
        return list(data["result"])

    def value(self, expression: str) -> float | None:
        """Of the first series, if there is one."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def rules(self) -> list[dict[str, Any]]:
        """All rules, each with its health and its alerts; those that were not evaluated yet are ``unknown``."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """Labels of the alerts that fire, by name."""
        found: dict[str, list[dict[str, str]]] = {}
        for alert in self._get("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def wait_for_rounds(self, rounds: int = 2) -> None:
        """Until every rule has been evaluated so many times from now on, and each target was asked."""
        seen: set[tuple[str, str]] = set()

        def enough() -> bool:
            seen.update((rule["name"], rule["lastEvaluation"]) for rule in self.rules())
            names = [name for name, _ in seen]
            return all(names.count(name) > rounds for name in set(names)) and bool(names)

        until(enough, f"{rounds} rounds of rules")

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"http://{self._address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_ASK_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise PrometheusError(json.load(error).get("error", str(error))) from error


_UNITS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(?<=[\[:])(\d+)([smh])(?=[\]:])|(?<=offset )(\d+)([smh])\b")
_AGE = re.compile(r"(_age_seconds\) > )(\d+)")


def hastened(rules: Path, factor: int, into: Path) -> Path:
    """A copy of the rules in which everything that waits waits ``factor`` times shorter: ``for``, windows and ages."""

    def window(found: "re.Match[str]") -> str:
        number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
        return _shorter(f"{number}{unit}", factor)

    yaml = YAML()
    content = yaml.load(rules)
    for group in content["groups"]:
        for rule in group["rules"]:
            expression = _AGE.sub(lambda found: f"{found[1]}{int(found[2]) / factor:g}", rule["expr"])
            rule["expr"] = _DURATION.sub(window, expression)
            if "for" in rule:
                rule["for"] = _shorter(rule["for"], factor)
    with into.open("w") as file:
        yaml.dump(content, file)
    return into


def _shorter(duration: str, factor: int) -> str:
    seconds = int(duration[:-1]) * _UNITS[duration[-1]]
    return f"{max(1, round(seconds / factor))}s"
