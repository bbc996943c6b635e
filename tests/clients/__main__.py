"""``make clients``: every case with every client, and docs/clients.md written from what came of it."""

import argparse
import datetime
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.broker_fixture import run_broker
from tests.clients.adapter import Adapter
from tests.clients.cases import CASES, Case
from tests.clients.catalog import CLIENTS, Client
from tests.clients.kit import CaseUnderTest, ClientUnderTest, Kit
from tests.clients.report import YES, outcomes, write_page
from tests.deployment import Deployment, Process
from turnlog_workers.devstack.broker_files import KAFKA_VERSION

PARTITIONS = 12


def outcome_of(client: ClientUnderTest, case: Case) -> str:
    """:data:`YES`, why the client cannot, or what went wrong."""
    reason = client.client.reason_not(case)
    if reason is not None:
        return reason
    try:
        CaseUnderTest(client, case).play()
    except Exception as error:  # one that went wrong is a result, too
        traceback.print_exc()
        return f"failed: {type(error).__name__}: {str(error)[:300]}"
    return YES


def run_client(kit: Kit, worker: Process, client: Client, chosen: Sequence[Case]) -> dict[str, Any]:
    """Version, and what came of each case."""
    log_path = kit.deployment.folder / f"{client.name}.adapter.log"
    found: dict[str, str] = {}
    with Adapter(client, kit.deployment.settings.bootstrap_server, log_path) as adapter:
        tested = ClientUnderTest(kit, client, adapter)
        for case in chosen:
            found[case.name] = outcome_of(tested, case)
            print(f"{client.name:20} {case.name:30} {found[case.name]}", flush=True)
            assert worker.running, f"the worker died:\n{worker.log[-5000:]}"
        return {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "version": adapter.version,
            "broker": KAFKA_VERSION,
            "worker_deaths": 0,  # the first one ends it
            "cases": found,
        }


def run(clients: Sequence[Client], chosen: Sequence[Case], folder: Path) -> dict[str, Any]:
    """By client, on a broker of their own."""
    with (
        run_broker(folder / "broker") as broker,
        Deployment(broker.bootstrap_server, folder / "deployment", partitions=PARTITIONS) as deployment,
    ):
        deployment.make_topics()
        worker = deployment.ready_worker()
        return {client.name: run_client(Kit(deployment, broker), worker, client, chosen) for client in clients}


def wrong(result: Mapping[str, Any], clients: Sequence[Client]) -> list[str]:
    """What is not as it must be."""
    return [
        f"{client.name}, {name}: {outcome}"
        for client in clients
        for name, outcome in result[client.name]["cases"].items()
        if outcome != outcomes(client)[name]
    ]


def main() -> int:
    """Exit code 1: something is not as it must be, and nothing is written."""
    parser = argparse.ArgumentParser(prog="make clients", description=__doc__)
    parser.add_argument(
        "--client",
        action="append",
        choices=[client.name for client in CLIENTS],
        help="only this one: its column is renewed",
    )
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], help="only this one: nothing is written"
    )
    chosen = parser.parse_args()
    clients = [client for client in CLIENTS if chosen.client is None or client.name in chosen.client]
    some = [case for case in CASES if chosen.case is None or case.name in chosen.case]
    for name in [name for name in os.environ if name.startswith("TURNLOG_") and name != "TURNLOG_CACHE_DIR"]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="turnlog-clients-") as folder:
        result = run(clients, some, Path(folder))
    if found := wrong(result, clients):
        print("\n".join(["", *found]))
        return 1
    if chosen.case is None and not write_page(result):
        print("docs/clients.md is written once every client was tried")
    return 0


if __name__ == "__main__":
    sys.exit(main())
