"""How the tests are shared out when a run has several processes (``-n``)."""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

#: What loads a machine most: one after the other.
FOLDERS = ("tests/faults/",)


class WholeFiles(LoadFileScheduling):
    """A file's tests run in one process, in their order, and so do those of some folders."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((folder for folder in FOLDERS if file.startswith(folder)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return WholeFiles(config, log) if config.getoption("dist") == "loadfile" else None
