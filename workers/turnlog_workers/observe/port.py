"""The port: answered by a thread of its own, which can speak while the event loop hangs."""

import logging
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import UsageError
from turnlog_workers.observe.health import Health, HealthCollector

log = logging.getLogger(__name__)
_TEXT = "text/plain; charset=utf-8"
_REQUEST_LIMIT_S = 5.0
_MAX_FRAMES = 50


class ObservationPort(ThreadingHTTPServer):
    """Serves from the call on, until :meth:`stop`. ``port`` 0: any that is free. Raises :class:`UsageError`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, health: Health, registry: CollectorRegistry) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.health, self.registry = health, registry
        registry.register(HealthCollector(health))
        self._main = threading.get_ident()
        self._told = False
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"{host} port {port} cannot be listened on: {error.strerror or error}. "
                "Name another one with TURNLOG_METRICS_PORT"
            ) from error
        self._thread = threading.Thread(target=self.serve_forever, name="observation", daemon=True)
        self._thread.start()
        log.info("/livez, /readyz and /metrics are on %s port %d", host, self.server_port)

    def stop(self) -> None:
        """Answer no more."""
        self.shutdown()
        self.server_close()

    def service_actions(self) -> None:
        """Twice a second: a main loop that hangs is written down once, with the place where it does."""
        hung = self.health.hung
        if hung and not self._told:
            frame = sys._current_frames().get(self._main)
            lines = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=_MAX_FRAMES, lookup_lines=False)
            places = "".join(f"\n  {line.filename}:{line.lineno} in {line.name}" for line in lines)
            log.critical("%s; it stands at (innermost first):%s", self.health.not_live(), places)
        self._told = hung

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked is gone: no reason for a traceback."""
        log.debug("an answer was not sent: %s", type(sys.exc_info()[1]).__name__)


class PortOfSettings:
    """The port of a process, where ``TURNLOG_METRICS_PORT`` names one."""

    def __init__(self, settings: Settings, health: Health, registry: CollectorRegistry | None = None) -> None:
        self._settings, self._health, self._registry = settings, health, registry or CollectorRegistry()
        self.served: ObservationPort | None = None  #: ``None``: nobody is answered

    def open(self, *collectors: Collector) -> None:
        """Answer from now on, with these numbers too. Raises :class:`UsageError` when the port is taken."""
        if self._settings.metrics_port is None:
            return
        for collector in collectors:
            self._registry.register(collector)
        host, port = self._settings.metrics_host, self._settings.metrics_port
        self.served = ObservationPort(host, port, self._health, self._registry)

    def close(self) -> None:
        """Answer no more; blocks for up to half a second."""
        served, self.served = self.served, None
        if served is not None:
            served.stop()


class _Handler(BaseHTTPRequestHandler):
    server: ObservationPort
    timeout = _REQUEST_LIMIT_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/livez":
            self._verdict(self.server.health.not_live())
        elif path == "/readyz":
            self._verdict(self.server.health.not_live() or self.server.health.not_ready())
        elif path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.server.registry))
        else:
            self._answer(404, _TEXT, b"there are /livez, /readyz and /metrics\n")

    def _verdict(self, problem: str) -> None:
        self._answer(503 if problem else 200, _TEXT, f"{problem or 'ok'}\n".encode())

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants a line for each probe."""
