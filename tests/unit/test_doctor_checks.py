"""What ``turnlog doctor`` asks of a process, and whom it asks in each partition."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from turnlog.cli.doctor_checks import check_readiness, nobody
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings


class Process(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.server.server_name == "ready"
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"ok\n" if ready else b"it owns no partition\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def process() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Process)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_readiness_is_what_the_process_says(process: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody's business on this machine
    settings = Settings(metrics_host="0.0.0.0", metrics_port=process.server_port)
    check = await check_readiness(settings)
    assert check is not None
    assert (check.ok, check.needed) == (False, False)
    assert check.detail == f"http://127.0.0.1:{process.server_port}/readyz: it owns no partition"
    process.server_name = "ready"
    check = await check_readiness(settings)
    assert check is not None
    assert (check.ok, check.detail) == (True, f"http://127.0.0.1:{process.server_port}/readyz: ok")


async def test_a_port_where_nobody_answers() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    check = await check_readiness(Settings(metrics_port=port))
    assert check is not None
    assert not check.ok
    assert "nobody answers" in check.detail


async def test_a_readiness_file(tmp_path: Path) -> None:
    settings = Settings(ready_file=tmp_path / "ready")
    check = await check_readiness(settings)
    assert check is not None
    assert not check.ok
    (tmp_path / "ready").touch()
    check = await check_readiness(settings)
    assert check is not None
    assert check.ok
    assert await check_readiness(Settings()) is None


def test_each_partition_has_a_session_that_is_not_there() -> None:
    assert [partition_of(nobody(partition, 12).encode(), 12) for partition in range(12)] == list(range(12))
