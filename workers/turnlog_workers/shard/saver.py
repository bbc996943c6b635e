"""Writes what is confirmed to the partition's store every few seconds, and says once what keeps it from that."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from turnlog_workers.shard.serving import Serving

log = logging.getLogger(__name__)
_UPKEEP_INTERVAL_S = 5.0  #: at most
_SAVE_AGAIN_S = 1.0
_SAY_AGAIN_S = 60.0


class StoreTrouble:
    """A store that cannot be written is said once, then seldom, and when it is over: a full disk lasts."""

    def __init__(self, now: Callable[[], float], place: Mapping[str, object]) -> None:
        self._now, self._place = now, place
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
            log.info("the store is written again, after %.0f s", self._now() - self._since, extra=self._place)
        self._since, self._said = None, ("", 0.0)


class Saver:
    """Of one claim."""

    def __init__(self, serving: Serving, *, interval_s: float, now: Callable[[], float], trouble: StoreTrouble) -> None:
        self._serving, self._interval_s, self._now, self._trouble = serving, interval_s, now, trouble

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
                self._trouble.is_there(f"idle sessions are not put away: {error}")

    async def save(self) -> bool:
        """Write what there is. If that fails nothing is lost: the next call, or the next owner, has it to do."""
        try:
            await self._serving.save()
        except Exception as error:
            self._trouble.is_there(f"the store cannot be written: {error}")
            return False
        self._trouble.is_over()
        return True
