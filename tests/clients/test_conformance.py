"""Every case with every client whose packages install on a plain machine; `make clients` has the others."""

from collections.abc import Iterator

import pytest

from tests.clients.adapter import Adapter
from tests.clients.cases import CASES, Case
from tests.clients.catalog import CLIENTS, Client
from tests.clients.kit import CaseUnderTest, ClientUnderTest, Kit
from tests.deployment import Deployment, Process
from turnlog_workers.devstack.broker import DevBroker

PLAIN = [client for client in CLIENTS if client.plain]


@pytest.fixture(scope="module")
def served(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kit, Process]]:
    """One worker for all clients: what one does to it, the next one feels."""
    folder = tmp_path_factory.mktemp("clients")
    with Deployment(broker.bootstrap_server, folder, partitions=12) as deployment:
        deployment.make_topics()
        yield Kit(deployment, broker), deployment.ready_worker()


@pytest.fixture(scope="module", params=PLAIN, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest, served: tuple[Kit, Process]) -> Iterator[ClientUnderTest]:
    kit, _ = served
    chosen: Client = request.param
    log_path = kit.deployment.folder / f"{chosen.name}.adapter.log"
    with Adapter(chosen, kit.deployment.settings.bootstrap_server, log_path) as adapter:
        yield ClientUnderTest(kit, chosen, adapter)


def test_the_pinned_version_is_what_runs(client: ClientUnderTest) -> None:
    assert client.adapter.version.split()[0] == client.client.pinned.removeprefix("v")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(client: ClientUnderTest, served: tuple[Kit, Process], case: Case) -> None:
    if client.client.reason_not(case) is None:
        CaseUnderTest(client, case).play()
    assert served[1].running, f"the worker died:\n{served[1].log[-3000:]}"
