"""A worker whose broker goes away for good: it can be stopped all the same."""

import os
import signal
from pathlib import Path

import pytest

from tests.deployment import START_S, Deployment
from tests.waiting import until
from turnlog import Client
from workers.broker import DevBroker

SHORT_SESSIONS = {"group.min.session.timeout.ms": "1000"}


@pytest.mark.timeout(180)
async def test_sigterm_ends_a_worker_without_its_broker(tmp_path: Path) -> None:
    with (
        DevBroker(tmp_path / "broker", preferred_port=None, extra_settings=SHORT_SESSIONS) as broker,
        Deployment(broker.bootstrap_server, tmp_path, partitions=3, drain_timeout_s="1") as deployment,
    ):
        deployment.make_topics()
        worker = deployment.ready_worker()
        async with Client(deployment.settings) as client:
            await client.chat("s", "Hello", model="echo:").result()
        broker.kill()
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: not worker.running, "the worker has ended", START_S)
        assert worker.exit_code == 0
