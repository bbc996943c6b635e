"""A worker whose broker goes away for good: it can be stopped all the same."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment import START_S, Deployment
from tests.waiting import until
from turnlog import Client
from turnlog_workers.devstack.broker import DevBroker

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


@pytest.mark.timeout(180)
def test_a_command_says_what_it_waited_for_when_the_broker_goes(tmp_path: Path) -> None:
    with (
        DevBroker(tmp_path / "broker", preferred_port=None, extra_settings=SHORT_SESSIONS) as broker,
        Deployment(broker.bootstrap_server, tmp_path, partitions=3) as deployment,
    ):
        deployment.make_topics()
        deployment.ready_worker()
        slow = "script:slow?tools=0&words=3000&delta_ms=20"
        argv = ("send", "s", "Talk", "--wait", "--json", "--timeout-s", "12", "--model", slow)
        sent = subprocess.Popen(
            [sys.executable, "-m", "turnlog", *argv],
            env=deployment.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: asyncio.run(deployment.events_of("s")), "the turn is accepted")
        broker.kill()
        out, err = sent.communicate(timeout=60)
        assert sent.returncode == 6, err
        assert "Traceback" not in err
        assert "same request id" in err
        assert out == ""
