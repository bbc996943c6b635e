"""Where a command finds its stack: flag, environment, ``stack.json``, default."""

import json
from pathlib import Path

import pytest

from turnlog.cli.common import resolve_settings


@pytest.fixture(autouse=True)
def _no_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("BOOTSTRAP_SERVER", "DATA_DIR", "PREFIX", "SNAPSHOT_PATH"):
        monkeypatch.delenv(f"TURNLOG_{name}", raising=False)


def write_stack(directory: Path, bootstrap_server: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    snapshot = directory / "published.duckdb"
    stack = {"bootstrap_server": bootstrap_server, "snapshot_path": str(snapshot)}
    (directory / "stack.json").write_text(json.dumps(stack))
    return snapshot


def test_nothing_said_is_localhost() -> None:
    settings = resolve_settings()
    assert settings.bootstrap_server == "localhost:9092"
    assert settings.snapshot == Path("turnlog-data/snapshot.duckdb")


def test_a_stack_in_the_default_directory_is_found() -> None:
    snapshot = write_stack(Path("turnlog-data"), "127.0.0.1:20001")
    settings = resolve_settings()
    assert (settings.bootstrap_server, settings.snapshot) == ("127.0.0.1:20001", snapshot)


def test_a_stack_in_the_named_directory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    write_stack(Path("turnlog-data"), "127.0.0.1:20001")
    write_stack(Path("other"), "127.0.0.1:20002")
    write_stack(Path("third"), "127.0.0.1:20003")
    monkeypatch.setenv("TURNLOG_DATA_DIR", "other")
    assert resolve_settings().bootstrap_server == "127.0.0.1:20002"
    assert resolve_settings(data_dir=Path("third")).bootstrap_server == "127.0.0.1:20003"


def test_the_environment_wins_over_the_file_and_the_flag_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    write_stack(Path("turnlog-data"), "127.0.0.1:20001")
    monkeypatch.setenv("TURNLOG_BOOTSTRAP_SERVER", "env:1")
    monkeypatch.setenv("TURNLOG_PREFIX", "env")
    assert resolve_settings().bootstrap_server == "env:1"
    assert resolve_settings().prefix == "env"
    settings = resolve_settings(bootstrap_server="flag:1", prefix="flag")
    assert (settings.bootstrap_server, settings.prefix) == ("flag:1", "flag")


def test_the_snapshot_of_a_stack_is_not_that_of_another_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = write_stack(Path("turnlog-data"), "127.0.0.1:20001")
    assert resolve_settings(bootstrap_server="elsewhere:9092").snapshot == Path("turnlog-data/snapshot.duckdb")
    assert resolve_settings(bootstrap_server="127.0.0.1:20001").snapshot == snapshot
    monkeypatch.setenv("TURNLOG_SNAPSHOT_PATH", "mine.duckdb")
    assert resolve_settings().snapshot == Path("mine.duckdb")


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', '{"children": {}}'])
def test_a_damaged_file_counts_as_none(content: str) -> None:
    write_stack(Path("turnlog-data"), "x:1")
    Path("turnlog-data/stack.json").write_text(content)
    assert resolve_settings().bootstrap_server == "localhost:9092"
