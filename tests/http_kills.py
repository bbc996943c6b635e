"""Streams of responses through kills of gateways and workers: every event once, with the same numbers, to its client.

A client is told its numbers by the stream that it reads. When that breaks off it asks for what comes after the last,
at whichever gateway answers.
"""

import argparse
import asyncio
import json
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.broker_fixture import run_broker
from tests.deployment import START_S, Deployment
from tests.http_stack import start_gateway
from tests.open_responses import check_events
from tests.waiting import eventually, until

_RETRY_S = 0.2
_TIMEOUT_S = 240.0
_LEAD_S = 5.0  #: streams are under way then


@dataclass
class StreamOutcome:
    """What one client has seen."""

    response_id: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    resumed: int = 0
    broken: int = 0  #: connections


async def follow_through(
    addresses: Callable[[], Sequence[str]], body: dict[str, Any], number: int, seen: StreamOutcome
) -> None:
    """Begin a response and follow it to its end, whatever breaks."""
    headers = {"idempotency-key": f"kills-{number}-{uuid.uuid4().hex}"}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _TIMEOUT_S
    turn = 0
    while not (seen.events and seen.events[-1]["type"] in _LAST):
        assert loop.time() < deadline, f"stream {number} did not end: {len(seen.events)} events"
        address = addresses()[(number + turn) % len(addresses())]
        turn += 1
        try:
            async with httpx2.AsyncClient(base_url=address, timeout=60.0) as http:
                if not seen.response_id:
                    await _read(http, "POST", "/v1/responses", seen, json={**body, "stream": True}, headers=headers)
                else:
                    seen.resumed += 1
                    after = f"&starting_after={seen.events[-1]['sequence_number']}" if seen.events else ""
                    await _read(http, "GET", f"/v1/responses/{seen.response_id}?stream=true{after}", seen)
        except httpx2.HTTPError:
            seen.broken += 1
        await asyncio.sleep(_RETRY_S)


async def _read(http: httpx2.AsyncClient, method: str, url: str, seen: StreamOutcome, **arguments: Any) -> None:
    async with http.stream(method, url, **arguments) as response:
        if response.status_code >= 500:
            return
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event["type"] == "error":
                return
            seen.events.append(event)
            if event["type"] == "response.created":
                seen.response_id = event["response"]["id"]


_LAST = ("response.completed", "response.failed", "response.incomplete")


# ---- the long form: python -m tests.http_kills


async def long_form(deployment: Deployment, *, streams: int, kills: int) -> None:
    """Kills, of a gateway and of a worker by turns, under so many streams. Raises for an event lost or twice."""
    gateways = [start_gateway(deployment, f"gateway-{number}") for number in range(2)]
    for process, _ in gateways:
        await eventually(lambda process=process: process.ready, "a gateway is ready", START_S)  # type: ignore[misc]
    workers = [process for process in deployment.processes if process.name.startswith("w")]
    addresses = [address for _, address in gateways]
    # Shorter than the time between two kills of a worker: a turn that never has that time never ends.
    body = {"model": "script:kills?tools=0&words=30&delta_ms=200", "input": "Go"}
    outcomes: list[StreamOutcome] = []
    stopping = asyncio.Event()

    async def client(number: int) -> None:
        while not stopping.is_set():
            outcome = StreamOutcome()
            await follow_through(lambda: addresses, body, number, outcome)
            outcomes.append(outcome)

    clients = [asyncio.create_task(client(number)) for number in range(streams)]
    await asyncio.wait(clients, timeout=_LEAD_S)
    for kill in range(kills):
        if kill % 2:
            number = kill // 2 % len(workers)
            workers[number].kill()
            workers[number] = deployment.worker(workers[number].name)
            started = workers[number]
        else:
            number = kill // 2 % len(gateways)
            gateways[number][0].kill()
            gateways[number] = start_gateway(deployment, f"gateway-{number}-{kill}")
            addresses[number] = gateways[number][1]
            started = gateways[number][0]
        await eventually(lambda started=started: started.ready, "it is back", 2 * START_S)  # type: ignore[misc]
        print(f"kill {kill + 1}: {len(outcomes)} streams have ended", flush=True)
        for task in clients:
            if task.done():
                task.result()
    stopping.set()
    await asyncio.gather(*clients)
    broken, resumed = sum(one.broken for one in outcomes), sum(one.resumed for one in outcomes)
    for outcome in outcomes:
        check_events(outcome.events)
    events = sum(len(outcome.events) for outcome in outcomes)
    print(
        f"{kills} kills under {streams} streams at a time: {len(outcomes)} responses, {events} events, {broken} broken "
        f"connections, {resumed} resumptions; 0 events lost or twice"
    )


def main() -> None:
    """Run it on a broker of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.http_kills", description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--kills", type=int, default=50)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="turnlog-http-kills-") as folder,
        run_broker(Path(folder) / "broker") as broker,
        Deployment(broker.bootstrap_server, Path(folder) / "deployment", partitions=6) as deployment,
    ):
        deployment.make_topics()
        workers = [deployment.worker(f"w{number}") for number in range(2)]
        for worker in workers:
            until(lambda worker=worker: worker.ready, "a worker is ready", 2 * START_S)  # type: ignore[misc]
        asyncio.run(long_form(deployment, streams=chosen.streams, kills=chosen.kills))


if __name__ == "__main__":
    main()
