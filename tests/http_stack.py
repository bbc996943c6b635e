"""A worker, the materializer and a gateway on the run's broker, for tests that speak HTTP."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.deployment import START_S, Deployment, Process
from tests.waiting import until
from turnlog_workers.devstack.broker import DevBroker


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpStack:
    deployment: Deployment
    gateway: Process
    address: str  #: of the gateway, without a slash at the end


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def start_gateway(deployment: Deployment, name: str = "gateway", **settings: str) -> tuple[Process, str]:
    """A gateway and its address; not ready yet."""
    port = free_port()
    process = deployment.start(name, "serve", **{"http_port": str(port), **settings})
    return process, f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def http_stack(broker: DevBroker, folder: Path, **settings: str) -> Iterator[HttpStack]:
    """All of it, ready."""
    with Deployment(broker.bootstrap_server, folder, publish_interval_s="0.3", **settings) as deployment:
        deployment.make_topics()
        worker = deployment.worker()
        materializer = deployment.start("materializer", "materialize")
        gateway, address = start_gateway(deployment)
        for process in (worker, materializer, gateway):
            until(lambda process=process: process.ready, f"{process.name} is ready", START_S)  # type: ignore[misc]
        yield HttpStack(deployment=deployment, gateway=gateway, address=address)
