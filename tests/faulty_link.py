"""A TCP proxy on this event loop that does to a connection what networks do: delays, silence, resets, half a link.

What is held back is kept, as a peer's TCP would send it again: after :meth:`FaultyLink.heal` it arrives, late and in
order, unless the connection was reset meanwhile. A new connection to a silent link is accepted, and nobody answers.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum

HOST = "127.0.0.1"
_READ_BYTES = 1 << 20
_LINGER_0 = struct.pack("ii", 1, 0)  #: what is closed so says RST


class LinkFault(StrEnum):
    """What can be wrong with a link."""

    LATENCY = "latency"
    BLACK_HOLE = "black hole"
    RESET = "reset"
    ONLY_TO_SERVER = "only to the server"  #: requests arrive, answers do not
    ONLY_FROM_SERVER = "only from the server"


class _Direction:
    """The bytes of all connections that go one way."""

    def __init__(self) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self.latency_s = 0.0

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Until the source ends."""
        while data := await source.read(_READ_BYTES):
            if self.latency_s:
                await asyncio.sleep(self.latency_s)  # what comes meanwhile is read at once, after it
            await self.passes.wait()
            sink.write(data)
            await sink.drain()


class FaultyLink:
    """Listens on ``port`` and passes on to ``target``. Use :func:`faulty_links`."""

    def __init__(self, target: int) -> None:
        self.target = target  #: port on this machine; may be away, then connections are closed as they come
        self._to, self._back = _Direction(), _Direction()
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accepted, HOST, self.port, limit=_READ_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more; every connection ends."""
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # ---- faults

    def begin(self, fault: LinkFault, latency_s: float = 0.5) -> None:
        """From now on, for every connection; a reset is one moment."""
        if fault is LinkFault.LATENCY:
            self._to.latency_s = self._back.latency_s = latency_s
        if fault in (LinkFault.BLACK_HOLE, LinkFault.ONLY_FROM_SERVER):
            self._to.passes.clear()
        if fault in (LinkFault.BLACK_HOLE, LinkFault.ONLY_TO_SERVER):
            self._back.passes.clear()
        if fault is LinkFault.RESET:
            self.reset()

    def heal(self) -> None:
        """No fault any more: what was held back goes on."""
        for direction in (self._to, self._back):
            direction.latency_s = 0.0
            direction.passes.set()

    def reset(self) -> None:
        """Every connection is reset (RST) on both sides; what was on its way is lost."""
        for task, writers in self._connections.items():
            for writer in writers:
                sock: socket.socket = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                writer.transport.abort()
            task.cancel()

    # ---- connections

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._connections[task] = [writer]
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                far_reader, far_writer = await asyncio.open_connection(HOST, self.target, limit=_READ_BYTES)
                writers.append(far_writer)
                ways = [
                    asyncio.create_task(self._to.pump(reader, far_writer)),
                    asyncio.create_task(self._back.pump(far_reader, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                for each in writers:
                    each.close()
                del self._connections[task]


@contextlib.asynccontextmanager
async def faulty_links(targets: Sequence[int]) -> AsyncIterator[list[FaultyLink]]:
    """A link to each of these ports."""
    links = [FaultyLink(target) for target in targets]
    async with contextlib.AsyncExitStack() as stack:
        for link in links:
            await link.start()
            stack.push_async_callback(link.stop)
        yield links
