"""How the development stack holds a child back until what it needs is there, while it does its imports already.

A worker's imports are a second of CPU time, and Kafka's start leaves half of two cores idle. The supervisor names a
file in ``TURNLOG_START_FILE`` and makes it once the topics exist; a process without that variable waits for nothing.
"""

import os
import time
from collections.abc import Mapping

START_FILE_VARIABLE = "TURNLOG_START_FILE"
_POLL_S = 0.02
_LIMIT_S = 600.0  #: of an orphan, where the kernel does not end it; it then finds no broker


def wait_for_start(environ: Mapping[str, str] = os.environ, *, limit_s: float = _LIMIT_S) -> None:
    """Return once the file is there, or the time is up."""
    path = environ.get(START_FILE_VARIABLE)
    deadline = time.monotonic() + limit_s
    while path and not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
