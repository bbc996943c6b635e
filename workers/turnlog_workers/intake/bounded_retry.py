"""Asking the broker again before giving up a partition."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from turnlog_workers.base.ports import (
    AppendUncertainError,
    LogAuthorizationError,
    LogBrokenError,
    LogError,
    RecordsRefusedError,
)

log = logging.getLogger(__name__)
_PAUSES_S = (0.2, 1.0, 3.0)
_MAX_PAUSE_S = 5.0
T = TypeVar("T")


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


async def persistently(step: Callable[[], Awaitable[T]]) -> T:
    """Take a step until the broker lets us, however long: only what cannot be decided without it waits.

    Doing it twice must do no harm. What waiting cannot help is raised at once: :class:`RecordsRefusedError`,
    :class:`LogAuthorizationError` and :class:`LogBrokenError`.
    """
    pause_s = _PAUSES_S[0]
    while True:
        try:
            return await step()
        except (RecordsRefusedError, LogAuthorizationError, LogBrokenError):
            raise
        except LogError as error:
            log.warning("again in %g s: %s", pause_s, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
