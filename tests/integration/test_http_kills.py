"""Gateways and workers are killed in the middle of streams; their clients have every event once."""

import asyncio
from collections.abc import Iterator

import httpx2
import pytest

from tests.deployment import START_S, Deployment
from tests.http_kills import StreamOutcome, follow_through
from tests.http_stack import start_gateway
from tests.open_responses import check_events
from tests.waiting import eventually, until
from turnlog_workers.devstack.broker import DevBroker

STREAMS = 12
MODEL = "script:kills?tools=0&words=160&delta_ms=40"


@pytest.fixture(scope="module")
def deployment(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(broker.bootstrap_server, tmp_path_factory.mktemp("kills")) as deployment:
        deployment.make_topics()
        worker = deployment.worker()
        until(lambda: worker.ready, "the worker is ready", START_S)
        yield deployment


async def test_streams_go_on_through_kills_with_every_event_once(deployment: Deployment) -> None:
    gateways = [start_gateway(deployment, f"gateway-{number}") for number in range(2)]
    for process, _ in gateways:
        await eventually(lambda process=process: process.ready, "a gateway is ready", START_S)  # type: ignore[misc]
    addresses = [address for _, address in gateways]
    body = {"model": MODEL, "input": "Go"}
    seen = [StreamOutcome() for _ in range(STREAMS)]
    following = [
        asyncio.create_task(follow_through(lambda: addresses, body, number, outcome))
        for number, outcome in enumerate(seen)
    ]
    await eventually(lambda: all(len(outcome.events) > 10 for outcome in seen), "all are under way", START_S)
    gateways[0][0].kill()  # every second stream breaks off
    first, address = start_gateway(deployment, "gateway-2")
    await eventually(lambda: first.ready, "another gateway is ready", START_S)
    addresses[0] = address
    deployment.processes[0].kill()  # the worker, in the middle of all answers
    again = deployment.worker("w0")
    await eventually(lambda: again.ready, "the worker is back", START_S)
    await asyncio.gather(*following)
    assert sum(outcome.resumed for outcome in seen) >= STREAMS // 2
    async with httpx2.AsyncClient(base_url=address, timeout=60.0) as http:
        for outcome in seen:
            final = check_events(outcome.events)  # numbers from 0, each once
            assert final.status == "completed"
            whole = (await http.get(f"/v1/responses/{outcome.response_id}")).json()
            assert whole == outcome.events[-1]["response"]
    assert len({outcome.response_id for outcome in seen}) == STREAMS
