"""A broker of the fault runs' own, which can be killed and started again under load, and the links that lead to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faulty_link import HOST, FaultyLink, faulty_links
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_ports import free_port

#: A dead worker is to be noticed soon, and the node is let in again once its last life has run out.
SETTINGS = {"group.min.session.timeout.ms": "1000", "broker.session.timeout.ms": "2500"}
#: Whose way to the broker can be broken. Each is a listener of its own, so that the broker names the link's address.
LINKS = ("w0", "w1", "w2", "materializer", "load")


class FaultNode:
    """One Kafka node. It ends with the thread that started it, so it has one of its own, as long as itself."""

    def __init__(self, node: DevBroker) -> None:
        self._node = node
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fault-broker")

    @property
    def bootstrap_server(self) -> str:
        """``host:port``."""
        return self._node.bootstrap_server

    @property
    def pid(self) -> int:
        """Process id, while it runs."""
        return self._node.pid

    async def start(self) -> None:
        """On an empty folder, or on what was left. The loop goes on meanwhile."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._node.start)

    async def kill(self) -> None:
        """``kill -9``."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._node.kill)

    async def stop(self) -> None:
        """SIGTERM, and its end; one that does not run is left alone."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._node.stop)

    async def close(self) -> None:
        """Stop it for good."""
        await self.stop()
        self._thread.shutdown()


class FaultBroker(FaultNode):
    """A node alone, with a link for each process that uses it."""

    def __init__(self, folder: Path, port: int, controller: int, links: Mapping[str, FaultyLink]) -> None:
        """``links`` are there already; their targets are the ports of this node."""
        self.links = dict(links)
        listeners = [f"PLAINTEXT://{HOST}:{port}", f"CONTROLLER://{HOST}:{controller}"]
        advertised = [listeners[0]]
        protocols = ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"]
        for name, link in links.items():
            listeners.append(f"{name.upper()}://{HOST}:{link.target}")
            advertised.append(f"{name.upper()}://{link.address}")
            protocols.append(f"{name.upper()}:PLAINTEXT")
        ways = {
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(protocols),
            "controller.quorum.voters": f"1@{HOST}:{controller}",
        }
        super().__init__(DevBroker(folder / "broker", port=port, extra_settings=SETTINGS | ways))

    def way_of(self, name: str) -> str:
        """The address that one of :data:`LINKS` is given."""
        return self.links[name].address


@contextlib.asynccontextmanager
async def fault_broker(folder: Path) -> AsyncIterator[FaultBroker]:
    """A broker that runs, with whole links."""
    ports: list[int] = []
    for _ in range(2 + len(LINKS)):
        ports.append(free_port(frozenset(ports)))
    async with faulty_links(ports[2:]) as links:
        broker = FaultBroker(folder, ports[0], ports[1], dict(zip(LINKS, links, strict=True)))
        await broker.start()
        try:
            yield broker
        finally:
            await broker.close()
