"""A worker's first connections: one that breaks is made again, within the time limit of a start."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.kafka.unreachable import broke

log = logging.getLogger(__name__)
_AGAIN = Backoff(0.25, 2.0)
T = TypeVar("T")


async def unless_it_breaks(step: Callable[[], Awaitable[T]], limit_s: float) -> T:
    """What ``step`` gives; begun anew after a pause for as long as its connection breaks and ``limit_s`` are not over.

    Whatever else it raises is raised at once: a broker that does not let us in will not do so later.
    """
    loop = asyncio.get_running_loop()
    deadline, failures = loop.time() + limit_s, 0
    while True:
        try:
            return await step()
        except Exception as error:
            failures += 1
            delay_s = _AGAIN.next_delay(failures)
            if not broke(error) or loop.time() + delay_s >= deadline:
                raise
            log.warning("a connection to the broker broke (%s); trying again in %g s", type(error).__name__, delay_s)
            await asyncio.sleep(delay_s)
