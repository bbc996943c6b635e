"""The command line without a broker: help, exit codes, one sentence on errors, JSON alone on standard output."""

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from tests.project import VERSION
from turnlog import errors
from turnlog.cli.app import app
from turnlog.cli.exits import explain
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerUnreachableError
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.devstack.broker_dir import DataDirInUseError
from turnlog_workers.devstack.broker_files import BrokerError
from turnlog_workers.devstack.broker_ports import PortTakenError
from turnlog_workers.devstack.stack_dir import DataDirError, StackError, StackInUseError
from turnlog_workers.kafka.topics_admin import TopicsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address where nobody answers: bound, so that nobody else takes it, and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the application, groups included, by its words."""
    command = command or get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


ALL = [pytest.param(path, command, id=" ".join(path) or "turnlog") for path, command in commands()]
NAMES = {" ".join(path) for path, _ in commands()}


def run(*arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    result = CliRunner(env=env).invoke(app, list(arguments), input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_the_commands_are_those_that_were_promised() -> None:
    promised = "demo|up|worker|materialize|topics init|send|chat|tail|sessions list|sessions show|sql|doctor|feed"
    assert set(promised.split("|")) <= NAMES
    lifecycle = "create|get|resolve|rotate|archive|active|history|compact|cancel|reset"
    assert {f"sessions {verb}" for verb in lifecycle.split("|")} <= NAMES
    assert {f"settings {verb}" for verb in ("set", "unset", "list")} <= NAMES


@pytest.mark.parametrize(("path", "command"), ALL)
def test_every_command_and_option_has_help(path: tuple[str, ...], command: Any) -> None:
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{' '.join(path)} {parameter.name} has no help"
    code, out, _ = run(*path, "--help")
    assert code == 0
    assert "Usage: " in out


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [f"turnlog {name}" for name in sorted(NAMES) if name and f"turnlog {name}" not in readme]
    assert not missing, f"README.md does not say what these are for: {', '.join(missing)}"


def test_help_imports_no_client_and_no_database() -> None:
    """So it is there in 0.3 s."""
    heavy = {"aiokafka", "duckdb", "faust", "kafka", "pydantic"}
    code = f"import sys, turnlog.cli.app; print(*(sys.modules.keys() & {heavy}))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert out.strip() == ""


def test_the_version_is_told() -> None:
    assert run("--version") == (0, f"turnlog {VERSION}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("send",),
        ("send", "web-1"),
        ("send", "web-1", "Hi", "--nonsense"),
        ("tail", "--max", "-1"),
        ("tail", "--offset", "middle"),
        ("up", "--workers", "0"),
        ("up", "--port", "70000"),
        ("feed",),
        ("sessions", "show"),
        ("sessions", "resolve"),
        ("sessions", "create", "web", "--meta", "novalue"),
        ("sessions", "history", "web-1", "--after", "-1"),
        ("sessions", "compact"),
        ("sessions", "create", "web", "--history-keep-tail", "-1"),
        ("settings", "set", "default-model"),
        ("send", "web-1", "Hi", "--on-busy", "wait"),
        ("topics", "nonsense"),
        *[("sessions", "get", "web-1", "--timeout-s", seconds) for seconds in ("nan", "inf", "-1")],
        *[("lag", "--max-age-s", seconds) for seconds in ("nan", "inf")],
        *[("tail", "--timeout-s", seconds) for seconds in ("nan", "inf")],
        *[("sql", "SELECT 1", "--timeout-s", seconds) for seconds in ("nan", "inf")],
        ("doctor", "--timeout-s", "inf"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize(
    "arguments",
    [
        ("send", "web-1", "Hi"),
        ("send", "web-1", "Hi", "--wait", "--json"),
        ("send", "web-1", "Hi", "--json"),
        ("chat", "web-1"),
        ("chat", "--json"),
        ("tail", "--json"),
        ("sessions", "resolve", "web", "--json"),
        ("sessions", "history", "web-1"),
        ("sessions", "compact", "web-1", "--json"),
        ("settings", "list", "--json"),
        ("settings", "set", "default-model", "echo:"),
        ("feed", "conversations.jsonl", "--json"),
        ("topics", "init", "--timeout-s", "1"),
    ],
)
def test_no_broker_is_3_at_once_and_says_what_to_do(closed_port: str, arguments: tuple[str, ...]) -> None:
    Path("conversations.jsonl").write_text('{"id": "a", "messages": [{"role": "user", "content": "Hi"}]}\n')
    started = time.monotonic()
    code, out, err = run(*arguments, "-b", closed_port, stdin="Hi\n")
    assert (code, out) == (3, "")
    assert closed_port in err
    assert "turnlog up" in err
    assert "Traceback" not in err
    assert time.monotonic() - started < 15


def test_the_doctor_says_3_without_a_broker_and_what_to_do(closed_port: str) -> None:
    code, out, err = run("doctor", "-b", closed_port)
    assert (code, err) == (3, "")
    assert "FAILED   broker" in out
    assert "turnlog up" in out


def test_the_doctor_has_a_json_form(closed_port: str) -> None:
    import json

    code, out, err = run("doctor", "-b", closed_port, "--json")
    assert (code, err, out.count("\n")) == (3, "", 1)
    document = json.loads(out)
    assert document["ok"] is False
    assert [(check["check"], check["ok"]) for check in document["checks"]] == [
        ("python", True),
        ("broker", False),
    ]


@pytest.mark.parametrize("arguments", [("sessions", "list"), ("sessions", "show", "web-1"), ("sql", "SELECT 1")])
def test_no_snapshot_is_4(arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (4, "")
    assert "turnlog up" in err


def test_a_file_that_is_not_there_is_4() -> None:
    code, out, err = run("feed", "nowhere.jsonl")
    assert (code, out) == (4, "")
    assert "nowhere.jsonl" in err


def test_a_file_that_is_not_of_the_form_is_2() -> None:
    Path("bad.jsonl").write_text("{}\n")
    assert run("feed", "bad.jsonl")[0] == 2


def test_a_setting_that_cannot_be_used_is_2_and_named() -> None:
    code, out, err = run("sql", "SELECT 1", env={"TURNLOG_PARTITIONS": "none"})
    assert (code, out) == (2, "")
    assert err.startswith("turnlog: A setting cannot be used. TURNLOG_PARTITIONS: ")


def test_verbose_shows_where_an_error_comes_from() -> None:
    code, _, err = run("sql", "SELECT 1", "--verbose")
    assert code == 4
    assert "Traceback" in err
    assert err.rstrip().splitlines()[-1].startswith("turnlog: There is no snapshot")


def settings_error() -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        Settings(partitions=0)
    return caught.value


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TurnFailedError("failed", "x", "y"), 1),
        (errors.HistoryCompactionFailedError("s", "x", "y"), 1),
        (errors.UsageError("x"), 2),
        (settings_error(), 2),
        (PortTakenError("x"), 2),
        (DataDirInUseError("x"), 2),
        (StackInUseError("x"), 2),
        (DataDirError("x"), 2),
        (errors.BrokerUnreachableError("x"), 3),
        (BrokerError("x"), 3),
        (errors.NotFoundError("x"), 4),
        (errors.RequestRefusedError("busy", "x"), 5),
        (errors.TurnTimedOutError("x"), 6),
        (errors.SnapshotBehindError("x"), 6),
        (TimeoutError(), 6),
        (BrokerUnreachableError("x"), 3),
        (TopicsError("x"), 4),
        (StackError("x"), 1),
        (ValueError("x"), 1),
    ],
)
def test_each_error_has_its_exit_code_and_a_sentence(error: Exception, code: int) -> None:
    got, sentence = explain(error)
    assert got == code
    assert sentence


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/srv/data/workers"), "/srv/data/workers cannot be written or "),
        (OSError(errno.ENOSPC, "No space left on device"), "A file cannot be written or read: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/srv/x"), "/srv/x cannot be written or read: Permission "),
    ],
)
def test_what_the_disk_does_not_let_us_do_is_no_unexpected_error(error: OSError, said: str) -> None:
    code, sentence = explain(error)
    assert code == 1
    assert sentence.startswith(said)
    assert sentence.endswith("Check the disk and its rights.")


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr("turnlog.cli.sessions.client_settings", lambda *_, **__: broken())
    code, out, err = run("sessions", "list")
    assert (code, out) == (1, "")
    assert err == ("turnlog: Unexpected RuntimeError: what nobody thought of (--verbose shows where it comes from.)\n")


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("turnlog.cli.sessions.client_settings", interrupted)
    assert run("sessions", "list")[0] == 130


def test_a_command_that_raises_exit_keeps_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object, **__: object) -> None:
        raise typer.Exit(5)

    monkeypatch.setattr("turnlog.cli.sessions.client_settings", leave)
    assert run("sessions", "list")[0] == 5
