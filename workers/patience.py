"""Asking the broker again before giving up a partition."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from workers.ports import AppendUncertainError

log = logging.getLogger(__name__)
_PAUSES_S = (0.2, 1.0, 3.0)


async def patiently(store: Callable[[], Awaitable[None]]) -> None:
    """Store something outside of the event log, a few times if need be; storing it twice must do no harm.

    Giving up means a release, and each release costs every running turn of the partition an attempt.
    Raises what the last attempt raises; anything but :class:`AppendUncertainError` at once.
    """
    for pause_s in _PAUSES_S:
        try:
            return await store()
        except AppendUncertainError as error:
            log.warning("again in %s s: %s", pause_s, error)
            await asyncio.sleep(pause_s)
    return await store()
