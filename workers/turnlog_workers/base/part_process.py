"""A process that makes a part of something for another one: what it is to do comes on its standard input, as a line.

The input stays open. When it is closed, whoever started the process is gone, and it ends. Another line tells it to go
on from where it waits. What it says are lines, too.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from turnlog_workers.base.config import Settings

_GC_THRESHOLD = 2_000_000  #: more than a batch makes: events and rows by the thousand, none of them in a cycle


def command_line(module: str) -> tuple[str, ...]:
    """Runs a module. -P: a folder of one of our names where somebody happens to be must not stand in for ours."""
    # What is imported stays: looked through as often as by default, it costs a sixth of the start.
    program = f"import gc, runpy; gc.set_threshold({_GC_THRESHOLD}); runpy.run_module({module!r}, run_name='__main__')"
    return (sys.executable, "-P", "-c", program)


def environment(settings: Settings) -> dict[str, str]:
    """Of such a process: it knows the same deployment."""
    named = {
        "TURNLOG_BOOTSTRAP_SERVER": settings.bootstrap_server,
        "TURNLOG_PREFIX": settings.prefix,
        "TURNLOG_DATA_DIR": str(settings.data_dir),
        "TURNLOG_STORE_BATCH_EVENTS": str(settings.store_batch_events),
    }
    return os.environ | named


def order_line(order: Mapping[str, Any]) -> str:
    """What it is to do."""
    return json.dumps(order) + "\n"


def begin() -> tuple[dict[str, Any], threading.Event]:
    """In the process: what it is to do, and what is set when it is told to go on."""
    logging.basicConfig(level=logging.CRITICAL + 1)
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        sys.exit(1)  # whoever started us is gone already
    order: dict[str, Any] = json.loads(line)
    told = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin, told), daemon=True).start()
    return order, told


def _listen(stdin: IO[str], told: threading.Event) -> None:
    while stdin.readline():
        told.set()
    os._exit(1)  # whoever started us is gone


def say(**what: object) -> None:
    """In the process: to whoever started it."""
    print(json.dumps(what), flush=True)
