"""One real Kafka broker for a whole test run. Every test uses topics and groups of its own on it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.broker import DevBroker
from workers.broker_files import cache_dir, ensure_jars

BROKER_FIXTURE = "broker"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch Kafka before the first test that needs it starts its clock: the first time may take long."""
    needs_broker = any(BROKER_FIXTURE in getattr(item, "fixturenames", ()) for item in session.items)
    if needs_broker and not session.config.option.collectonly:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        ensure_jars(cache_dir(), say=reporter.write_line if reporter is not None else print)


@pytest.fixture(scope="session")
def broker() -> Iterator[DevBroker]:
    """The run's broker, on any free port. Group session timeouts may be as short as 1 s, for tests of dead workers."""
    with tempfile.TemporaryDirectory(prefix="turnlog-test-broker-") as directory:
        broker = DevBroker(
            Path(directory), preferred_port=None, extra_settings={"group.min.session.timeout.ms": "1000"}
        )
        with broker:
            yield broker
