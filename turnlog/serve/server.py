"""The process: a socket, uvicorn, signals, and an end in order."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from turnlog.errors import EXIT_OK, EXIT_UNREACHABLE, UsageError
from turnlog.serve.app import create_app
from turnlog.serve.endpoints import is_loopback
from turnlog.serve.gateway import Gateway
from turnlog.serve.observation import Observation
from turnlog_workers.base.config import Settings
from turnlog_workers.base.garbage import GarbagePasses
from turnlog_workers.base.readiness_file import mark_ready
from turnlog_workers.observe import tracing

log = logging.getLogger(__name__)
_GRACEFUL_S = 5
_BACKLOG = 2048


class _Protocol(H11Protocol):
    """HTTP/1.1, with a way for the application to drop its connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        state = {**app_state, "cut": self._cut, "hang_up": self._hang_up, "write_chunk": self._write_chunk}
        super().__init__(config, server_state, state, _loop)

    async def _write_chunk(self, chunk: bytes) -> None:
        """A piece of a response in chunks that has begun: framed here, for a tenth of what the whole way costs.

        Whoever tells the connection's parser of the end tells it nothing that it must know of the pieces.
        """
        if self.flow.write_paused:
            await self.flow.drain()
        if not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    def _cut(self) -> None:
        """Now, whatever waits to be sent: its reader does not read."""
        self.transport.abort()

    def _hang_up(self) -> None:
        """Once what waits is sent."""
        self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._garbage_passes = GarbagePasses(is_quiet=lambda: not len(gateway.streams))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._garbage_passes.start()
        mark_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Streams first: they would go on for as long as there is something to tell."""
        self._gateway.streams.stop()
        await super().shutdown(sockets)
        self._garbage_passes.stop()


def check_exposure(settings: Settings, *, has_keys: bool) -> None:
    """Without keys nobody but this machine is served. Raises :class:`UsageError`."""
    if not has_keys and not is_loopback(settings.http_host):
        raise UsageError(
            f"Without keys only this machine is served, and {settings.http_host} is more than that: name keys with "
            "TURNLOG_HTTP_KEYS or TURNLOG_HTTP_KEYS_FILE, or listen on 127.0.0.1."
        )


def listen(settings: Settings) -> socket.socket:
    """The socket, bound: with port 0 it knows now which one it got. Raises :class:`UsageError`."""
    host, port = settings.http_host, settings.http_port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise UsageError(
            f"{host} port {port} cannot be listened on: {error.strerror or error}. Name another port with --port."
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """Where it is reached, as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(settings: Settings, listening: socket.socket) -> int:
    """:func:`serve` on the fastest event loop that there is."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # it is not there on Windows
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(serve(settings, listening))


async def serve(settings: Settings, listening: socket.socket) -> int:
    """Until SIGTERM or Ctrl-C; the exit code. Raises :class:`UsageError` and as a client does."""
    gateway = Gateway(settings)
    check_exposure(settings, has_keys=not gateway.keys.open)
    # uvicorn puts back the handlers that it found and raises the signal again: ours then does nothing.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _nothing)
    server: _Server | None = None
    observation = Observation(gateway, lambda: server is not None and server.started)
    observation.start()
    tracing.start("turnlog-gateway")
    try:
        async with gateway:
            server = _Server(_config(create_app(gateway, metrics=observation.metrics)), gateway)
            return await _until_the_end(server, gateway, listening)
    finally:
        await observation.stop()
        if tracing.active is not None:
            await asyncio.to_thread(tracing.stop)


async def _until_the_end(server: uvicorn.Server, gateway: Gateway, listening: socket.socket) -> int:
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    broken = asyncio.create_task(gateway.broken.wait())
    await asyncio.wait((serving, broken), return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    broken.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await broken
    return EXIT_UNREACHABLE if gateway.broken.is_set() else EXIT_OK


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACEFUL_S,
    )


def _nothing() -> None:
    pass
