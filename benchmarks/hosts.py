"""A host that is gone: a worker is killed and nobody starts it again; how long its sessions wait for another worker.

Two workers with default settings. What counts is the time from the kill to the first text of the next attempt: until
the group knows that a member is dead (``TURNLOG_SESSION_TIMEOUT_S``), nobody may take its partitions.
"""

import contextlib
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.deployment import WORKER, Deployment
from benchmarks.load import Broker
from benchmarks.meter import load_average
from benchmarks.restarts import waits_after_kill

_BEYOND_S = 10.0  #: a session whose text goes on for so long behind the session timeout is the other worker's


async def measure(kills: int, deployment: Deployment, *, sessions: int, say: Callable[[str], None]) -> dict[str, Any]:
    """So many kills, of either worker in turns; waits in seconds, also beyond the session timeout."""
    timeout_s = deployment.settings.session_timeout_s
    load_before, waits = load_average(), []
    async with Broker(deployment.settings) as broker:
        broker.consumer.assign(broker.tps(deployment.settings.topics.replies))
        stays, goes = "worker-1", "worker-2"
        with contextlib.ExitStack() as stack:
            stack.enter_context(_worker(deployment, stays, 0))
            for number in range(kills):
                with _worker(deployment, goes, number):
                    pid = deployment.pid(goes)
                    found = await waits_after_kill(
                        broker,
                        deployment,
                        pid,
                        f"gone-{number}",
                        sessions=sessions,
                        undisturbed_s=timeout_s + _BEYOND_S,
                    )
                say(f"host, kill {number + 1} of {kills}: {', '.join(f'{wait:.2f}' for wait in sorted(found))} s")
                waits += found
    waits.sort()
    p95 = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
    return {
        "kills": kills,
        "waited": len(waits),
        "session_timeout_s": timeout_s,
        "next_delta_p50_s": statistics.median(waits),
        "next_delta_p95_s": p95,
        "next_delta_max_s": waits[-1],
        "beyond_timeout_p95_s": p95 - timeout_s,
        "load_average": [round(load_before, 2), round(load_average(), 2)],
    }


def _worker(deployment: Deployment, name: str, number: int) -> contextlib.AbstractContextManager[None]:
    """Each is a host of its own: another name, and a folder without any file."""
    own = {
        "TURNLOG_WORKER_NAME": f"{name}-{number}",
        "TURNLOG_DATA_DIR": str(deployment.directory / f"{name}-{number}-data"),
    }
    return deployment.process(name, WORKER, own)
