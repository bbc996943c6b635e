"""A broker of the fault runs' own, which can be killed and started again under load."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from turnlog_workers.devstack.broker import DevBroker

#: A dead worker is to be noticed soon.
SETTINGS = {"group.min.session.timeout.ms": "1000"}


class FaultBroker:
    """One Kafka node. It ends with the thread that started it, so it has one of its own, as long as itself."""

    def __init__(self, folder: Path) -> None:
        self._broker = DevBroker(folder / "broker", preferred_port=None, extra_settings=SETTINGS)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fault-broker")

    @property
    def bootstrap_server(self) -> str:
        """``host:port``."""
        return self._broker.bootstrap_server

    async def start(self) -> None:
        """On an empty folder, or on what was left. The loop goes on meanwhile."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._broker.start)

    async def kill(self) -> None:
        """``kill -9``."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._broker.kill)

    async def stop(self) -> None:
        """For good."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._broker.stop)
        self._thread.shutdown()


@contextlib.asynccontextmanager
async def fault_broker(folder: Path) -> AsyncIterator[FaultBroker]:
    """A broker that runs."""
    broker = FaultBroker(folder)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
