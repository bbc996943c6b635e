"""``turnlog demo`` as a new user runs it: a stack of its own, the proof, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.waiting import until
from turnlog_workers.base.json_file import read_json

DEMO_TIMEOUT_S = 150.0
STOP_TIMEOUT_S = 30.0


@contextmanager
def running_demo(directory: Path, runtime_folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo, its output in ``out``; killed if it still runs at the end."""
    # The user's own settings must not reach it: nothing answers at this address.
    environment = {**os.environ, "TURNLOG_BOOTSTRAP_SERVER": "127.0.0.1:1", "TURNLOG_PREFIX": "mine"}
    environment["TURNLOG_RUNTIME_DIR"] = str(runtime_folder)
    with (directory / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "turnlog", "demo"],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(STOP_TIMEOUT_S)


def records(directory: Path) -> list[dict[str, Any]]:
    """What ``stack.json`` tells of the demo's processes."""
    return list(read_json(directory / "turnlog-data" / "demo" / "stack.json").get("processes", {}).values())


def lives(record: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(record["pid"])
        return bool(process.create_time() == record["started_at"] and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(DEMO_TIMEOUT_S + STOP_TIMEOUT_S)
def test_the_demo_kills_a_worker_and_proves_that_nothing_is_missing(
    tmp_path: Path, runtime_folder: Path, real_model: Path
) -> None:
    with running_demo(tmp_path, runtime_folder) as demo:
        code = demo.wait(DEMO_TIMEOUT_S)
    out = (tmp_path / "out").read_text()
    assert code == 0, out
    assert "kill -9" in out
    assert "(started again, attempt 2" in out
    assert "12 conversations, 78 turns, 270 messages compared with the file: 0 mismatches" in out
    assert "feed-airline-000-0" in out
    real = out.partition("== A real model")[2]
    assert "kill -9" in real
    assert "(started again, attempt 2" in real
    assert re.search(r"one question, one answer of the real model, of \d attempts the last one alone\.", real)
    assert "Try next" in out
    assert "\x1b" not in out
    assert read_json(tmp_path / "turnlog-data" / "demo" / "stack.json")["running"] is False


def test_ctrl_c_in_the_middle_stops_everything(tmp_path: Path, runtime_folder: Path) -> None:
    with running_demo(tmp_path, runtime_folder) as demo:
        until(lambda: "user>" in (tmp_path / "out").read_text() or demo.poll() is not None, "it streams", 60.0)
        started = records(tmp_path)
        assert len(started) == 4
        assert all(lives(record) for record in started)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(STOP_TIMEOUT_S) == 130
    assert not any(lives(record) for record in started)
    assert "Traceback" not in (tmp_path / "out").read_text()
