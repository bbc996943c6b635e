"""Writes what is confirmed to the partition's store every few seconds, and says once what keeps it from that."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from turnlog_workers.base.tasks import describe, frames
from turnlog_workers.shard.serving import Serving
from turnlog_workers.store.port import DamagedStoreError, StoreError

log = logging.getLogger(__name__)
_UPKEEP_INTERVAL_S = 5.0  #: at most
_SAVE_AGAIN_S = 1.0
_SAY_AGAIN_S = 60.0


class Trouble:
    """What fails again and again is said once, then seldom, and when it is over: a full disk lasts."""

    def __init__(self, now: Callable[[], float], place: Mapping[str, object], over: str) -> None:
        """``over``: what is done again then, in words."""
        self._now, self._place, self._over = now, place, over
        self._since: float | None = None
        self._said = ("", 0.0)

    def is_there(self, what: str) -> None:
        """It failed, again perhaps."""
        now = self._now()
        self._since = now if self._since is None else self._since
        if self._said[0] != what or now >= self._said[1] + _SAY_AGAIN_S:
            self._said = (what, now)
            log.error("%s", what, extra=self._place)

    def is_over(self) -> None:
        """It worked."""
        if self._since is not None:
            log.info("%s again, after %.0f s", self._over, self._now() - self._since, extra=self._place)
        self._since, self._said = None, ("", 0.0)


class StoreTrouble:
    """Of one store: what goes well with it ends no trouble of another kind."""

    def __init__(self, now: Callable[[], float], place: Mapping[str, object]) -> None:
        self.writing = Trouble(now, place, "the store is written")
        self.upkeep = Trouble(now, place, "idle sessions are put away")


class Saver:
    """Of one claim."""

    def __init__(self, serving: Serving, *, interval_s: float, now: Callable[[], float], trouble: StoreTrouble) -> None:
        self._serving, self._interval_s, self._now, self._trouble = serving, interval_s, now, trouble

    def _failed(self, trouble: Trouble, what: str, error: Exception) -> None:
        # Another error is a defect of ours, and its text may hold anything.
        told = str(error) if isinstance(error, (StoreError, OSError)) else describe(error) + frames(error)
        trouble.is_there(f"{what}: {told}")
        if isinstance(error, DamagedStoreError):
            self._serving.unsaved.damage = error
            self._serving.wake()

    async def run(self) -> None:
        """Save when it is time or much has come, and put idle sessions away; without end."""
        saved_at = self._now()
        while True:
            await self._serving.unsaved.until_many(min(self._interval_s, _UPKEEP_INTERVAL_S))
            if self._serving.unsaved.are_many or self._now() - saved_at >= self._interval_s:
                saved_at = self._now()
                if not await self.save():
                    await asyncio.sleep(_SAVE_AGAIN_S)
            try:
                await self._serving.upkeep()
            except Exception as error:
                self._failed(self._trouble.upkeep, "idle sessions are not put away", error)
            else:
                self._trouble.upkeep.is_over()

    async def save(self) -> bool:
        """Write what there is. If that fails nothing is lost: the next call, or the next owner, has it to do."""
        try:
            await self._serving.save()
        except Exception as error:
            self._failed(self._trouble.writing, "the store cannot be written", error)
            return False
        self._trouble.writing.is_over()
        return True
