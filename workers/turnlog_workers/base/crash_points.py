"""Places where a fault test can kill this process: ``TURNLOG_CRASH_AT=name[:N]`` kills at the Nth hit (default 1).

Free when the variable is not set, as in every real deployment.
"""

import os
import signal
from collections import Counter

_WHERE, _, _COUNT = os.environ.get("TURNLOG_CRASH_AT", "").partition(":")
_hits: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Die here, as by ``kill -9``, if the environment asks for it."""
    if not _WHERE or name != _WHERE:
        return
    _hits[name] += 1
    if _hits[name] >= int(_COUNT or "1"):
        os.kill(os.getpid(), signal.SIGKILL)
