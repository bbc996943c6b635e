"""Streams of responses through kills of gateways and workers: every event once, with the same numbers, to its client.

A client is told its numbers by the stream that it reads. When that breaks off it asks for what comes after the last,
at whichever gateway answers.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

_RETRY_S = 0.2
_TIMEOUT_S = 240.0


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
