"""Asking the broker again before giving up a partition."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.ports import (
    AppendUncertainError,
    LogAuthorizationError,
    LogBrokenError,
    LogError,
    RecordsRefusedError,
)

log = logging.getLogger(__name__)
_AGAIN = Backoff(0.2, 5.0)
_TRIES = 5  #: about three seconds
T = TypeVar("T")


async def patiently(store: Callable[[], Awaitable[None]]) -> None:
    """Store something outside of the event log, a few times if need be; storing it twice must do no harm.

    Giving up means a release, and each release costs every running turn of the partition an attempt.
    Raises what the last attempt raises; anything but :class:`AppendUncertainError` at once.
    """
    for failures in range(1, _TRIES):
        try:
            return await store()
        except AppendUncertainError as error:
            pause_s = _AGAIN.next_delay(failures)
            log.warning("again in %g s: %s", pause_s, error)
            await asyncio.sleep(pause_s)
    return await store()


async def persistently(step: Callable[[], Awaitable[T]]) -> T:
    """Take a step until the broker lets us, however long: only what cannot be decided without it waits.

    Doing it twice must do no harm. What waiting cannot help is raised at once: :class:`RecordsRefusedError`,
    :class:`LogAuthorizationError` and :class:`LogBrokenError`.
    """
    for failures in count(1):
        try:
            return await step()
        except (RecordsRefusedError, LogAuthorizationError, LogBrokenError):
            raise
        except LogError as error:
            pause_s = _AGAIN.next_delay(failures)
            log.warning("again in %g s: %s", pause_s, error)
            await asyncio.sleep(pause_s)
    raise AssertionError("a count has no end")
