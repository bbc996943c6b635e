"""One real Kafka broker for a whole test run. Every test uses topics and groups of its own on it.

Also when the run has several processes (``-n``): then the one that hands out the tests starts and stops it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from turnlog_workers.base.json_file import read_json, write_json
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_files import cache_dir, ensure_jars
from turnlog_workers.devstack.broker_ports import Ports

BROKER_FIXTURE = "broker"
_SHARED = pytest.StashKey["SharedBroker"]()
_FOLDER = "turnlog_broker_folder"  #: what the processes of a run are told


def run_broker(directory: Path) -> DevBroker:
    """The run's broker, on any free port. Group session timeouts may be as short as 1 s, for tests of dead workers."""
    return DevBroker(directory, preferred_port=None, extra_settings={"group.min.session.timeout.ms": "1000"})


class AttachedBroker(DevBroker):
    """The run's broker, in a process that did not start it: it can be used and neither stopped nor killed."""

    def __init__(self, data_dir: Path, *, ports: Ports, pid: int) -> None:
        super().__init__(data_dir)
        self._ports, self._pid = ports, pid

    @property
    def pid(self) -> int:
        return self._pid


class SharedBroker:
    """The broker of a run of several processes, kept by the one that hands out the tests."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="turnlog-test-broker-")))
        self._started = False

    def start_if_wanted(self) -> None:
        """Once, and only if a process has found a test that needs it."""
        if self._started or not wanted(self.folder).exists():
            return
        self._started = True
        broker = self._stack.enter_context(run_broker(self.folder / "data"))
        ports = broker.ports
        write_json(address(self.folder), {"client": ports.client, "controller": ports.controller, "pid": broker.pid})

    def stop(self) -> None:
        """Also if it was not started."""
        self._stack.close()


def wanted(folder: Path) -> Path:
    return folder / "wanted"


def address(folder: Path) -> Path:
    return folder / "address.json"


def shared_folder(config: pytest.Config) -> Path | None:
    """In one of a run's processes, where the shared broker is described."""
    told = getattr(config, "workerinput", {}).get(_FOLDER)
    return None if told is None else Path(told)


def _needs_broker(item: pytest.Item) -> bool:
    """By its fixtures, or by the mark of a parameter whose fixture asks for the broker as it goes."""
    return BROKER_FIXTURE in getattr(item, "fixturenames", ()) or item.get_closest_marker(BROKER_FIXTURE) is not None


@pytest.hookimpl(tryfirst=True)  # before the process says that it has collected
def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch Kafka before the first test that needs it starts its clock: the first time may take long."""
    needs_broker = any(_needs_broker(item) for item in session.items)
    if not needs_broker or session.config.option.collectonly:
        return
    folder = shared_folder(session.config)
    if folder is not None:
        wanted(folder).touch()
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    ensure_jars(cache_dir(), say=reporter.write_line if reporter is not None else print)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A process of the run is about to be started."""
    stash = node.config.stash
    if _SHARED not in stash:
        stash[_SHARED] = SharedBroker()
    node.workerinput[_FOLDER] = str(stash[_SHARED].folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    """No test is handed out before this is done for every process."""
    node.config.stash[_SHARED].start_if_wanted()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _SHARED in config.stash:
        config.stash[_SHARED].stop()


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[DevBroker]:
    """The run's broker."""
    folder = shared_folder(request.config)
    if folder is None:
        with (
            tempfile.TemporaryDirectory(prefix="turnlog-test-broker-") as directory,
            run_broker(Path(directory)) as own,
        ):
            yield own
    else:
        found = read_json(address(folder))
        assert found, "nobody said that the broker is needed: mark the parameter with pytest.mark.broker"
        ports = Ports(client=found["client"], controller=found["controller"])
        yield AttachedBroker(folder / "data", ports=ports, pid=found["pid"])
