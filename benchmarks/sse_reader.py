"""Many event streams of one server, read by a process of its own that does as little as possible: bare connections.

A line comes in with the paths as JSON; it says ``open`` when all are answered, reads until every stream has had its
pieces (see :mod:`benchmarks.frame_source`) or too long nothing came, and prints what came.
"""

import asyncio
import json
import re
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

from benchmarks.latency import percentile

_PIECE = re.compile(rb"#(\d+)@(\d+);")
_LONGEST_PIECE = 40
_OPENING = 50  #: at a time
_SILENCE_S = 10.0
_TIMEOUT_S = 60.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What all streams have had."""

    frames: int
    lost: int
    doubled_or_late: int
    closed: int  #: streams that ended before their time
    p50_ms: float
    p99_ms: float
    max_ms: float


class _Connection(asyncio.Protocol):
    def __init__(self, path: str, delays_ms: "array[float]") -> None:
        self._path = path
        self._delays_ms = delays_ms
        self._rest = b""
        self.opened = asyncio.get_running_loop().create_future()
        self.next = 0
        self.doubled_or_late = 0
        self.lost = 0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.WriteTransport, transport)  # no subclass of it in uvloop
        transport.write(f"GET {self._path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now_ms = time.time() * 1000
        data = self._rest + data
        if not self.opened.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            if not head.startswith(b"HTTP/1.1 200 "):
                self.opened.set_exception(RuntimeError(f"{self._path}: {head[:200]!r} {data[:300]!r}"))
                return
            self.opened.set_result(None)
        end = 0
        for piece in _PIECE.finditer(data):
            number, end = int(piece[1]), piece.end()
            self._delays_ms.append(now_ms - int(piece[2]))
            if number < self.next:
                self.doubled_or_late += 1
            else:
                self.lost += number - self.next
                self.next = number + 1
        self._rest = data[max(end, len(data) - _LONGEST_PIECE) :]

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if not self.opened.done():
            self.opened.set_exception(RuntimeError(f"{self._path}: the connection was closed"))


async def _read(host: str, port: int, frames: int) -> Seen:
    paths = json.loads(await asyncio.to_thread(sys.stdin.readline))
    delays_ms: array[float] = array("d")
    room = asyncio.Semaphore(_OPENING)
    loop = asyncio.get_running_loop()

    async def connect(path: str) -> _Connection:
        async with room, asyncio.timeout(_TIMEOUT_S):
            _, connection = await loop.create_connection(lambda: _Connection(path, delays_ms), host, port)
            await connection.opened
            return connection

    connections = await asyncio.gather(*(connect(path) for path in paths))
    print("open", flush=True)
    had, since = -1, time.monotonic()
    limit_s = _TIMEOUT_S
    while len(delays_ms) < frames * len(paths) and time.monotonic() - since < limit_s:
        if len(delays_ms) != had:
            had, since = len(delays_ms), time.monotonic()
            limit_s = _SILENCE_S if had else _TIMEOUT_S
        await asyncio.sleep(_LOOK_S)
    ordered = sorted(delays_ms) or [0.0]
    return Seen(
        frames=len(delays_ms),
        lost=sum(each.lost + frames - each.next for each in connections),
        doubled_or_late=sum(each.doubled_or_late for each in connections),
        closed=sum(each.closed for each in connections),
        p50_ms=percentile(ordered, 50),
        p99_ms=percentile(ordered, 99),
        max_ms=ordered[-1],
    )


def arguments_of(host: str, port: int, frames: int) -> list[str]:
    """The command line of the process; ``frames``: of each stream."""
    return [sys.executable, "-m", "benchmarks.sse_reader", host, str(port), str(frames)]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(_read(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))), flush=True)
    sys.stdin.readline()  # what it took is looked at before it ends
