"""One look at a time at something that grows: who asks meanwhile waits for it, and shares what it finds.

New schemas and new reply topics are looked for when a record names one that is not known. Whoever writes garbage must
not make us busy by it, and must not get a verdict for others either: what is asked for was there before its record
was, so a look counts for a record if it *began* when the record was there.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.ports import LogError, RecordSender
from turnlog_workers.base.tasks import watched

log = logging.getLogger(__name__)
MIN_INTERVAL_S = 1.0  #: between the beginnings of two looks
_AGAIN = Backoff(0.2, 5.0)
_TRIES = 5  #: of a look that fails: about three seconds
Name = TypeVar("Name", bytes, str)


class SharedLook(Generic[Name]):
    """``look`` brings what is known up to date (or raises :class:`LogError`); ``known`` tells whether a name is."""

    def __init__(
        self,
        look: Callable[[], Awaitable[None]],
        *,
        known: Callable[[Name], bool],
        now: Callable[[], float],
        again: Backoff = _AGAIN,
    ) -> None:
        self._look = look
        self._known: Callable[[Name], bool] = known
        self._now = now
        self._again = again
        self._began_at = -MIN_INTERVAL_S  #: of the newest look
        self._looked_at = float("-inf")  #: the beginning of the newest look that succeeded
        self._running: asyncio.Future[None] | None = None
        self.looks = 0

    async def find(self, name: Name, there_since: float) -> None:
        """Look for a name, unless a look has begun since its record was there for sure (``there_since``).

        What was not found for one record may be there for the next: that it was in vain is not remembered.
        Raises :class:`LogError` when nobody can look: then nothing is known of the name.
        """
        while not self._known(name) and self._looked_at < there_since:
            await self._share()

    async def _share(self) -> None:
        """Wait for the look that goes on, or begin one."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_future()
            watched(self._once(self._running), "a look at the broker", died=self._died)
        await asyncio.shield(self._running)

    async def _once(self, told: asyncio.Future[None]) -> None:
        pause_s = self._began_at + MIN_INTERVAL_S - self._now()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        error: LogError | None = None
        for failures in range(_TRIES):
            await asyncio.sleep(self._again.next_delay(failures) if failures else 0.0)
            began_at = self._began_at = self._now()
            self.looks += 1
            try:
                await self._look()
            except LogError as failed:
                error = failed
                log.warning("%s", failed)
            else:
                self._looked_at, error = began_at, None
                break
        self._tell(told, error)

    def _died(self, error: BaseException) -> None:
        if self._running is not None:
            self._tell(self._running, LogError(f"a look at the broker failed: {type(error).__name__}"))

    def _tell(self, told: asyncio.Future[None], error: LogError | None) -> None:
        self._running = None
        if told.done():
            return
        if error is None:
            told.set_result(None)
        else:
            told.set_exception(error)
            told.exception()  # nobody may wait for it any more


def reply_topics(sender: RecordSender, now: Callable[[], float] = time.monotonic) -> SharedLook[str]:
    """Looks for reply topics that requests name."""
    return SharedLook(sender.look_for_reply_topics, known=sender.known_reply_topic, now=now)
