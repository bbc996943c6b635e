"""``python -m benchmarks.model_stream``: how long from a model server's bytes to the runner's output?

A server in a process of its own streams pieces that say when they were sent. They are read by a bare reader (aiohttp,
lines, JSON, nothing else), by ``http:``, ``openai:`` and ``anthropic:``, and by ``openai:`` through its library
(``pydantic-ai:``, which the bar is not for), one after the other in each round. Reported are the delays
of each, in milliseconds. The exit code is 1 if the p99 of a runner is more than 5 ms above that of the bare reader.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from turnlog_schemas.parts import text_content
from turnlog_workers.base.config import Settings
from turnlog_workers.runners.base import Runner, TextDelta, TurnInput
from turnlog_workers.runners.models.http import HttpRunners
from turnlog_workers.runners.models.providers import ProviderRunners

MOST_ADDED_MS = 5.0
_WITH_A_BAR = ("http", "openai", "anthropic")
_RESULT = Path(__file__).parent / "results" / "model_stream.json"
_WARM_UP_PIECES = 20  #: of each stream: a first connection, a first import
Delays = list[float]


# ---- the server


async def _serve(interval_s: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split()[0])
            pieces = int(json.loads(await reader.readexactly(length))["model"])
            _event, _end = _ANTHROPIC if "/v1/messages" in head else _OPENAI
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            for _ in range(pieces):
                writer.write(_event(f"{time.monotonic_ns()} "))
                await writer.drain()
                await asyncio.sleep(interval_s)
            writer.write(_end)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _chunk(delta: dict[str, Any], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return _data(chunk)


def _data(chunk: dict[str, Any]) -> bytes:
    name = f"event: {chunk['type']}\n" if "type" in chunk else ""
    return f"{name}data: {json.dumps(chunk)}\n\n".encode()


_STOP = ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"})
#: A piece of text as an event, and the end of the answer.
_OPENAI = (lambda text: _chunk({"content": text}, None)), _chunk({}, "stop") + b"data: [DONE]\n\n"
_ANTHROPIC = (
    (lambda text: _data({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})),
    b"".join(map(_data, _STOP)),
)


@contextlib.contextmanager
def _server(interval_ms: float) -> Iterator[str]:
    argv = [sys.executable, "-m", "benchmarks.model_stream", "--serve", "--interval-ms", str(interval_ms)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


# ---- the readers


async def _bare(url: str, pieces: int) -> AsyncIterator[str]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
        session.post(f"{url}/chat/completions", json={"model": str(pieces)}) as response,
    ):
        async for line in response.content:
            if line.startswith(b"data: {"):
                text = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if text:
                    yield text


async def _of_runner(runner: Runner, model: str) -> AsyncIterator[str]:
    turn = TurnInput(
        session_id="s",
        turn_id="t",
        attempt=1,
        turn_number=1,
        fencing_token=1,
        model=model,
        instructions=None,
        user_content=text_content("Go."),
    )
    async for output in runner.run(turn):
        if isinstance(output, TextDelta):
            yield output.text
    await runner.aclose()


async def _delays(pieces: AsyncIterator[str]) -> Delays:
    found = []
    async for text in pieces:
        now = time.monotonic_ns()
        found += [(now - int(sent)) / 1e6 for sent in text.split()]
    return found[_WARM_UP_PIECES:]


async def _measure(url: str, streams: int, pieces: int, rounds: int) -> dict[str, Delays]:
    os.environ |= {"OPENAI_BASE_URL": url, "ANTHROPIC_BASE_URL": url.removesuffix("/v1")}
    os.environ |= {"OPENAI_API_KEY": "none-needed", "ANTHROPIC_API_KEY": "none-needed"}
    http = HttpRunners(Settings(http_servers=json.dumps({"it": {"url": url}})))  # type: ignore[arg-type]
    providers = ProviderRunners(Settings())
    await providers.clients()
    readers: dict[str, Callable[[], AsyncIterator[str]]] = {
        "bare": lambda: _bare(url, pieces),
        "http": lambda: _of_runner(http(f"http:it#{pieces}"), "http:it"),
        "openai": lambda: _of_runner(providers(f"openai:{pieces}"), "openai:m"),
        "anthropic": lambda: _of_runner(providers(f"anthropic:{pieces}"), "anthropic:m"),
        "openai through its library": lambda: _of_runner(providers(f"pydantic-ai:openai:{pieces}"), "openai:m"),
    }
    found: dict[str, Delays] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, make in readers.items():
            for delays in await asyncio.gather(*(_delays(make()) for _ in range(streams))):
                found[name] += delays
    return found


def _summary(delays: Delays) -> dict[str, float]:
    cuts = statistics.quantiles(delays, n=100)
    return {"p50_ms": round(cuts[49], 3), "p99_ms": round(cuts[98], 3), "max_ms": round(max(delays), 3)}


def main(argv: list[str] | None = None) -> int:
    """Measure and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_stream", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--streams", type=int, default=4, help="at a time (default: 4)")
    parser.add_argument("--pieces", type=int, default=300, help="of each stream (default: 300)")
    parser.add_argument("--interval-ms", type=float, default=20.0, help="between two pieces (default: 20)")
    parser.add_argument("--output", type=Path, default=_RESULT)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        uvloop.run(_serve(options.interval_ms / 1000))
        return 0
    with _server(options.interval_ms) as url:
        found = uvloop.run(_measure(url, options.streams, options.pieces, options.rounds))
    result = {name: {"pieces": len(delays), **_summary(delays)} for name, delays in found.items()}
    for name, figures in result.items():
        print(f"{name:26}", figures)
    added = {name: round(result[name]["p99_ms"] - result["bare"]["p99_ms"], 3) for name in result if name != "bare"}
    print("added to the p99 of the bare reader, in ms:", added)
    load = round(os.getloadavg()[0], 1)
    print("load average:", load, "on", os.cpu_count(), "cores")
    told = {"readers": result, "added_p99_ms": added, "load_average": load, "cores": os.cpu_count()}
    options.output.write_text(json.dumps(told, indent=1) + "\n")
    return int(max(added[name] for name in _WITH_A_BAR) > MOST_ADDED_MS)


if __name__ == "__main__":
    sys.exit(main())
