"""What a Prometheus does to a process: it asks for the metrics every few seconds."""

import contextlib
import threading
import urllib.request
from collections.abc import Iterator

_INTERVAL_S = 5.0
_TIMEOUT_S = 10.0


@contextlib.contextmanager
def scraped(port: int) -> Iterator[None]:
    """Ask a port of this machine from now on. ``RuntimeError`` at the end when it did not answer each time."""
    ended = threading.Event()
    failures: list[OSError] = []

    def ask() -> None:
        while not failures:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT_S) as answer:
                    answer.read()
            except OSError as error:
                failures.append(error)
            if ended.wait(_INTERVAL_S):
                return

    asking = threading.Thread(target=ask, name="scraping", daemon=True)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join(_TIMEOUT_S)
    if failures:
        raise RuntimeError(f"the metrics could not be had: {failures[0]}")
