"""The first piece of an answer over HTTP, beside the Kafka client: the same turns, one after the other, in pairs."""

import asyncio
import contextlib
import json
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from benchmarks.deployment import WORKER, Deployment
from benchmarks.http_streams import GATEWAY, HOST, gateway_variables
from benchmarks.load import MODEL
from benchmarks.meter import foreign_cores, load_average, used
from turnlog.client.async_client import Client
from turnlog_schemas.frames import TextDelta
from turnlog_workers.devstack.broker_ports import free_port

_TEXT = "What is the way to the station?"
_TIMEOUT_S = 30.0
_WARM_UP = 10
_END = b'"type":"response.completed"'

#: A turn: how long its first piece took (ms), and what the next turn needs to go on from it.
Ask = Callable[[str | None], Awaitable[tuple[float, str]]]


async def measure(pairs: int, deployment: Deployment) -> dict[str, Any]:
    """New conversations, then one that goes on; who is first changes from pair to pair."""
    port = free_port()
    with (
        deployment.process("worker", WORKER),
        deployment.process("gateway", GATEWAY, gateway_variables(port)),
    ):
        async with Client(deployment.settings) as client:
            load_before, meter = load_average(), deployment.meter()
            before = meter.read()
            new = await _pairs(pairs, _kafka(client), _http(port), goes_on=False)
            following = await _pairs(pairs, _kafka(client), _http(port), goes_on=True)
            after = meter.read()
    return {
        "pairs": pairs,
        **_figures("new", *new),
        **_figures("next", *following),
        "gateway_cpu_ms_per_turn": 1000 * used(before, after)["gateway"] / (2 * (pairs + _WARM_UP)),
        "foreign_cores": foreign_cores(before, after),
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


async def _pairs(pairs: int, kafka: Ask, http: Ask, *, goes_on: bool) -> tuple[list[float], list[float]]:
    asks = (kafka, http)
    found: tuple[list[float], list[float]] = ([], [])
    last: list[str | None] = [None, None]
    for number in range(-_WARM_UP, pairs):
        for which in (0, 1) if number % 2 else (1, 0):
            took_ms, turn = await asks[which](last[which] if goes_on else None)
            last[which] = turn
            if number >= 0:
                found[which].append(took_ms)
    return found


def _figures(name: str, kafka: list[float], http: list[float]) -> dict[str, float]:
    return {
        f"{name}_kafka_p50_ms": statistics.median(kafka),
        f"{name}_http_p50_ms": statistics.median(http),
        f"{name}_added_p50_ms": statistics.median(
            by_http - by_kafka for by_kafka, by_http in zip(kafka, http, strict=True)
        ),
    }


def _kafka(client: Client) -> Ask:
    async def ask(session_id: str | None) -> tuple[float, str]:
        session_id = session_id or f"k-{uuid.uuid4().hex}"
        began, took_ms = time.perf_counter(), 0.0
        async for reply in client.chat(session_id, _TEXT, model=MODEL, timeout_s=_TIMEOUT_S):
            if isinstance(reply.frame, TextDelta) and not took_ms:
                took_ms = 1000 * (time.perf_counter() - began)
        return took_ms, session_id

    return ask


def _http(port: int) -> Ask:
    async def ask(previous: str | None) -> tuple[float, str]:
        body = {"model": MODEL, "input": _TEXT, "stream": True, "previous_response_id": previous}
        took_ms, response_id = 0.0, ""
        async with asyncio.timeout(_TIMEOUT_S), _connection(port) as (reader, writer):  # as a pool has them open
            began = time.perf_counter()
            writer.write(_request(json.dumps(body).encode()))
            async for line in reader:
                if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                    raise RuntimeError(f"{line!r}: {await reader.read(2000)!r}")
                if line.startswith(b"event: response.output_text.delta") and not took_ms:
                    took_ms = 1000 * (time.perf_counter() - began)
                if not response_id and line.startswith(b"data: "):
                    response_id = json.loads(line.removeprefix(b"data: "))["response"]["id"]
                if _END in line:
                    break
        return took_ms, response_id

    return ask


def _request(body: bytes) -> bytes:
    head = f"POST /v1/responses HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()
