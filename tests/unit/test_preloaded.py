"""Forked processes of the tests are as fresh ones: arguments, environment, directory, outputs and ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import preloaded
from tests.waiting import until

HERE = [sys.executable, "-m", "tests.unit.test_preloaded"]


def test_it_has_its_own_arguments_environment_and_directory(tmp_path: Path) -> None:
    env = {**os.environ, "TURNLOG_CRASH_AT": "", "TZ": "Asia/Kolkata"}
    done = preloaded.run([*HERE, "a", "b c"], env=env, cwd=tmp_path)
    assert done.stdout.splitlines() == [f"['a', 'b c'] {tmp_path} IST True", "Asia/Kolkata"]
    assert (done.returncode, done.stderr) == (7, "to the other one\n")


def test_a_signal_ends_it_and_it_is_seen(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        process = preloaded.start([*HERE, "wait"], env=os.environ, stdout=out)
        assert isinstance(process, preloaded.ForkedProcess) == (sys.platform == "linux")
        until(lambda: "waits" in (tmp_path / "out").read_text(), "it waits", 60.0)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.kill()
        assert process.wait(60.0) == process.poll() == -9


def test_what_dies_at_a_place_dies_there() -> None:
    """The places are read from the environment as the module is imported."""
    done = preloaded.run([*HERE, "crash"], env={**os.environ, "TURNLOG_CRASH_AT": "here"})
    assert done.returncode == -9


def test_another_interpreter_s_settings_get_a_fresh_one(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        process = preloaded.start([*HERE, "x"], env={**os.environ, "PYTHONPATH": str(Path.cwd())}, stdout=out)
        assert isinstance(process, subprocess.Popen)
        assert process.wait(60.0) == 7


def _main() -> int:
    import time

    from turnlog_workers.base.crash_points import crash_point

    arguments = sys.argv[1:]
    if arguments == ["wait"]:
        print("waits", flush=True)
        signal.pause()
    if arguments == ["crash"]:
        crash_point("here")
    print(arguments, Path.cwd(), time.strftime("%Z"), "turnlog_workers.shard" in sys.modules)
    print(os.environ.get("TZ"))
    print("to the other one", file=sys.stderr)
    return 7


if __name__ == "__main__":
    sys.exit(_main())
