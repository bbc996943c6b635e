"""Python's cyclic garbage collector, in small and frequent passes, for a process that holds much for long.

A pass stops every thread until it has looked at all that is young, and left to itself it lets hundreds of thousands
come together (docs/benchmarks.md has figures). So what is young is looked at often, and what survives is put away
(``gc.freeze``) until a full pass. Nothing of a turn is in a cycle: while the last look has found next to nothing, what
becomes too much is put away unseen, and a look every few seconds tells whether it is still so.
"""

import asyncio
import gc
import time
from collections.abc import Callable

from turnlog_workers.base.tasks import watched

_LOOK_EVERY_S = 0.1
_PASS_EVERY_S = 5.0  #: at least
_MANY = 20_000  #: made and not freed since the last pass: the next one is due
_TELLING = 2_000  #: a look at fewer objects tells nothing about others
_CLEAN = 0.01  #: of what was made, at the most: then what comes next may be put away unseen
_MANY_MISSED = 1_000_000  #: objects that nobody can reach: some 200 MB
_FULL_WHEN_QUIET_S, _FULL_AT_LEAST_S = 600.0, 3600.0
#: Should more be made between two looks, it is not left to them. What has survived one is put away: few are older.
_THRESHOLDS = (50_000, 20, 20)


class GarbagePasses:
    """The passes of a process, from its event loop."""

    def __init__(self, *, is_quiet: Callable[[], bool], now: Callable[[], float] = time.monotonic) -> None:
        """``is_quiet``: would nobody notice that the process stands still for a moment?"""
        self._is_quiet = is_quiet
        self._now = now
        self._passed_at = self._full_at = now()
        self._found = 1.0  #: by the last look that tells, of what was made
        self._missed = 0.0  #: unreachable objects that were put away unseen, as estimated
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on, in the running loop. What was imported and made so far is put away at once."""
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
        self._task = watched(self._run(), "garbage collection")

    def stop(self) -> None:
        """No more of them: Python goes on by itself."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            many = gc.get_count()[0] >= _MANY
            if self._now() - self._passed_at >= _PASS_EVERY_S or (many and self._found > _CLEAN):
                self.pass_once()
            elif many:
                self.put_away()

    def put_away(self) -> None:
        """Without a look at it."""
        self._missed += gc.get_count()[0] * self._found
        gc.freeze()

    def pass_once(self) -> None:
        """Look at what is young; at everything, if it is time for that."""
        self._passed_at = now = self._now()
        since_s = now - self._full_at
        is_time = since_s >= _FULL_AT_LEAST_S or (since_s >= _FULL_WHEN_QUIET_S and self._is_quiet())
        if is_time or self._missed >= _MANY_MISSED:
            gc.unfreeze()
            gc.collect()
            self._full_at, self._missed = now, 0.0
        else:
            made = gc.get_count()[0]
            found = gc.collect(0)
            if made >= _TELLING:
                self._found = found / made
        gc.freeze()
