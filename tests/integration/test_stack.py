"""The supervisor behind ``turnlog up`` with the real broker; the stack's other processes are tiny stand-ins here."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaAdminClient

from tests.fake_children import fake_child
from tests.kept_topics import KeptTopics
from tests.waiting import eventually, until
from turnlog.client.async_client import Client
from turnlog_workers.base.config import Settings
from turnlog_workers.base.json_file import read_json
from turnlog_workers.devstack.broker_ports import PortTakenError, free_port
from turnlog_workers.devstack.stack import child_specs, up
from turnlog_workers.devstack.stack_dir import StackInUseError
from turnlog_workers.devstack.stack_topics import init_stack_topics
from turnlog_workers.devstack.supervisor import ChildSpec


class DevStack:
    """`up` on a directory, its broker real."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.said: list[str] = []
        self.topics_made_for: list[str] = []

    def specs(
        self, data_dir: Path, *, workers: int, port: int, env: Mapping[str, str]
    ) -> tuple[ChildSpec, list[ChildSpec]]:
        broker, children = child_specs(data_dir, workers=workers, port=port, env=env)
        return broker, [fake_child(child.name, data_dir / "journal") for child in children]

    def init_topics(self, env: Mapping[str, str]) -> None:
        admin = KafkaAdminClient(bootstrap_servers=env["TURNLOG_BOOTSTRAP_SERVER"])
        try:
            if "made" not in admin.list_topics():
                admin.create_topics({"made": {"num_partitions": 1, "replication_factor": 1}})
        finally:
            admin.close()
        self.topics_made_for.append(env["TURNLOG_BOOTSTRAP_SERVER"])

    async def up(self, port: int | None = None) -> None:
        await up(
            self.data_dir, workers=2, port=port, init_topics=self.init_topics, say=self.said.append, specs=self.specs
        )

    @property
    def state(self) -> dict[str, Any]:
        return read_json(self.data_dir / "stack.json")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[dict[str, Any]]:
        """The stack, ready; SIGTERM ends it."""
        task = asyncio.create_task(self.up())
        try:
            await eventually(lambda: self.state.get("ready") is True or task.done(), "the stack is ready", 60)
            yield self.state
        finally:
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                task.cancel()  # it never came to supervise: the signal would end the tests
            elif not task.done():
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(task, 60)


@pytest.fixture
def stack(tmp_path: Path) -> DevStack:
    return DevStack(tmp_path)


def topics(bootstrap_server: str) -> list[str]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_server)
    try:
        return list(admin.list_topics())
    finally:
        admin.close()


def back_up(data_dir: Path, backup: Path) -> None:
    """The steps of docs/backup.md; afterwards everything is gone."""
    subprocess.run(["tar", "-C", data_dir, "-czf", backup, "."], check=True)
    shutil.rmtree(data_dir)


def restore(data_dir: Path, backup: Path) -> None:
    data_dir.mkdir()
    subprocess.run(["tar", "-C", data_dir, "-xzf", backup], check=True)
    subprocess.run(["find", data_dir, "-name", "*.duckdb*", "-delete"], check=True)


async def test_up_survives_a_killed_broker_and_comes_back_on_its_data_and_port_also_from_a_backup(
    tmp_path: Path,
) -> None:
    stack, backup = DevStack(tmp_path / "data"), tmp_path / "backup.tgz"
    async with stack.running() as state:
        address, broker_pid = state["bootstrap_server"], state["children"]["broker"]
        assert set(state["children"]) == {"broker", "worker-1", "worker-2", "materializer"}
        assert stack.topics_made_for == [address]
        with pytest.raises(StackInUseError, match=f"already up .*process {os.getpid()}"):
            await stack.up()

        (java,) = psutil.Process(broker_pid).children()
        java.kill()
        await eventually(lambda: stack.state["children"].get("broker") not in (None, broker_pid), "a new broker")
        ready = "broker: ready"
        await eventually(lambda: sum(line.startswith(ready) for line in stack.said) == 2, "the broker is back", 60)
        assert stack.state["bootstrap_server"] == address
        assert "made" in await asyncio.to_thread(topics, address)
        pids = dict(stack.state["children"])
        kept = KeptTopics(address, tmp_path / "kept")
        await kept.make()
        before = await kept.found()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids.values()), "nothing is left running")
    assert stack.state["running"] is False

    await asyncio.to_thread(back_up, stack.data_dir, backup)
    await asyncio.to_thread(restore, stack.data_dir, backup)
    async with stack.running() as state:
        assert state["bootstrap_server"] == address
        assert "made" in await asyncio.to_thread(topics, address)
        assert await kept.found() == before
        assert await kept.rows() == kept.expected


async def test_an_explicit_port_that_is_taken_stops_up_before_it_starts_anything(stack: DevStack) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortTakenError, match=f"Port {port} "):
        await stack.up(port)
    assert stack.state == {}


async def test_a_worker_that_always_dies_keeps_nobody_from_answering(tmp_path: Path) -> None:
    """The real processes; one worker has a setting that cannot be used."""
    said: list[str] = []

    def specs(data_dir: Path, *, workers: int, port: int, env: Mapping[str, str]) -> tuple[ChildSpec, list[ChildSpec]]:
        broker, children = child_specs(data_dir, workers=workers, port=port, env={**env, "TURNLOG_PARTITIONS": "2"})
        broken = {**children[1].env, "TURNLOG_MAX_RUNNER_ATTEMPTS": "many"}
        children[1] = replace(children[1], env=broken)
        return broker, children

    stack = asyncio.create_task(
        up(tmp_path, workers=2, port=None, init_topics=init_stack_topics, say=said.append, specs=specs)
    )
    try:
        await eventually(lambda: any(line.startswith("up: ") for line in said) or stack.done(), "it is up", 120)
        state = read_json(tmp_path / "stack.json")
        assert state["failing"] == ["worker-2"], said
        assert {"broker", "worker-1", "materializer"} <= set(state["children"])
        assert any("worker-2 died 5 times in a row before it was ready" in line for line in said)
        log = (tmp_path / "logs" / "worker-2.log").read_text()
        assert "TURNLOG_MAX_RUNNER_ATTEMPTS" in log
        settings = Settings(bootstrap_server=state["bootstrap_server"])
        async with Client(settings) as client:
            assert (await client.chat("web", "hello").result()).text
        assert not stack.done()
    finally:
        if not stack.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stack, 60)
