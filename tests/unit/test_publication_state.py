"""How publishing is told of: in the log seldom, in its file always, in health after a while."""

import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from turnlog_workers.base.config import Settings
from turnlog_workers.materializer.process import Materializer
from turnlog_workers.materializer.publication_state import Publications, read_state

TARGET = Path("snapshot.duckdb")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_failure_is_repeated_ever_more_seldom(tmp_path: Path) -> None:
    clock = Clock()
    publications = Publications(tmp_path, clock=clock, now=clock)
    assert publications.may_try
    pauses = []
    for _ in range(9):
        publications.failed(TARGET, "no room")
        began = clock.now
        while not publications.may_try:
            clock.now += 0.5
        pauses.append(clock.now - began)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    publications.succeeded(TARGET)
    assert publications.may_try


def test_the_log_has_it_once_and_again_when_it_is_another_or_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    publications = Publications(tmp_path, clock=clock, now=clock)
    with caplog.at_level(logging.INFO):
        for error, seconds in (("no room", 1), ("no room", 1), ("a folder", 1), ("a folder", 599), ("a folder", 1)):
            publications.failed(TARGET, error)
            clock.now += seconds
        assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "ERROR"]
        publications.succeeded(TARGET)
        publications.succeeded(TARGET)
    assert [record.getMessage() for record in caplog.records][3:] == [
        "the snapshot snapshot.duckdb is published again, after 5 failures"
    ]


def test_the_moment_of_the_last_one_outlives_processes_that_publish_nothing(tmp_path: Path) -> None:
    clock = Clock()
    Publications(tmp_path, clock=clock, now=clock).succeeded(TARGET)
    for _ in range(3):
        clock.now += 100
        publications = Publications(tmp_path, clock=clock, now=clock)
        publications.failed(TARGET, "no room")
        assert publications.fresh_at == 1000.0


def test_health_suffers_when_it_lasts(tmp_path: Path) -> None:
    clock = Clock()
    publications = Publications(tmp_path, clock=clock, now=clock)
    publications.failed(TARGET, "no room")
    clock.now += 29
    assert publications.healthy
    clock.now += 1
    assert not publications.healthy
    state = read_state(tmp_path)
    assert state is not None
    assert state.describe(1030.0) == "publishing has failed 1 time in 30 s: no room"
    publications.succeeded(TARGET)
    assert publications.healthy


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    publications = Publications(tmp_path / "nowhere")
    for _ in range(3):
        publications.succeeded(TARGET)
    assert caplog.text.count("cannot be written") == 1


def test_the_readiness_file_goes_with_health_once_it_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tmp_path / "ready"
    monkeypatch.setenv("TURNLOG_READY_FILE", str(ready))
    clock = Clock()
    publications = Publications(tmp_path, clock=clock, now=clock)
    file = cast(Any, SimpleNamespace(publications=publications))
    materializer = Materializer(Settings(data_dir=tmp_path), threading.Event())

    def seen() -> bool:
        materializer._tell_health(file)
        return ready.exists()

    publications.failed(TARGET, "no room")
    clock.now += 60
    assert not seen()
    publications.succeeded(TARGET)
    assert not seen(), "it has not caught up"
    materializer._ready = True
    ready.touch()
    publications.failed(TARGET, "no room")
    assert seen()
    clock.now += 60
    assert not seen()
    publications.succeeded(TARGET)
    assert seen()
