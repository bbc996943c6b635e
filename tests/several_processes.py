"""How the tests are shared out when a run has several processes (``-n``)."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

#: What loads a machine most: one after the other.
FOLDERS = ("tests/faults/",)
#: The longest first, so that no process is alone with one of them in the end.
FIRST = (*FOLDERS, "tests/clients/", "tests/integration/")
_ROOT = Path(__file__).parents[1]


class WholeFiles(LoadFileScheduling):
    """A file's tests run in one process, in their order, and so do those of some folders."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((folder for folder in FOLDERS if file.startswith(folder)), file)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In each of the processes: they must agree about the order."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    return next((place for place, folder in enumerate(FIRST) if nodeid.startswith(folder)), len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """In a fresh clone compile the tests once, and not in each of the processes (14 s of CPU)."""
    if sys.dont_write_bytecode or any(_ROOT.glob("tests/unit/__pycache__/*-pytest-*.pyc")):
        return
    argv = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *config.args]
    subprocess.run(argv, cwd=_ROOT, stdout=subprocess.DEVNULL, check=False)  # what is wrong is said by the processes


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return WholeFiles(config, log) if config.getoption("dist") == "loadfile" else None
