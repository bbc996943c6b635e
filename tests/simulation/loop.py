"""An event loop in virtual time whose order is decided by a seed.

Every process of the simulation is a *lane*: what it schedules runs in its own order, as on a loop of its own; which
lane goes next is chance. A lane can be paused (nothing of it runs, time goes on: SIGSTOP) and killed (nothing of it
ever runs again: SIGKILL), also between any two of its callbacks. Time jumps to the next timer when nobody is ready.
"""

import asyncio
import contextlib
import heapq
import random
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

_ROUNDS = 10
_LANE: ContextVar["Lane"] = ContextVar("lane")


class StuckError(Exception):
    """Nothing is scheduled any more, or far too much was."""


class Lane:
    """One simulated process."""

    __slots__ = ("context", "cut_off", "dead", "fuse", "name", "on_fuse", "paused", "ready")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.paused = False
        self.dead = False
        self.cut_off = False  #: it was killed while something was about to go on
        self.fuse = -1  #: callbacks until ``on_fuse``
        self.on_fuse: Callable[[], None] | None = None
        self.context = Context()
        self.context.run(_LANE.set, self)

    def kill(self) -> None:
        """Nothing of it runs any more."""
        self.dead, self.cut_off = True, bool(self.ready)

    def light(self, callbacks: int, then: Callable[[], None]) -> None:
        """Do something to this lane after so many of its callbacks."""
        self.fuse = callbacks
        self.on_fuse = then


#: Not for type checkers: nobody needs the sockets, signals and processes that it declares.
_Base: Any = asyncio.AbstractEventLoop


class SimLoop(_Base):  # type: ignore[misc]
    """As much of an event loop as our code needs. Not for threads, sockets or signals."""

    def __init__(self, rng: random.Random, *, max_callbacks: int = 300_000) -> None:
        self.now = 0.0
        self.callbacks = 0
        self.errors: list[str] = []
        self.world = Lane("world")
        self.lanes = [self.world]
        self._rng = rng
        self._max_callbacks = max_callbacks
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Lane]] = []
        self._count = 0
        self.tasks: list[asyncio.Task[Any]] = []  # those of the dead must not be collected in the middle of a run
        self._lane_of: dict[asyncio.Task[Any], Lane] = {}

    # ---- what asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        self._lane_of[task] = (_LANE.get(None) if context is None else context.get(_LANE)) or self.world
        return task

    def unheard(self) -> list[asyncio.Task[Any]]:
        """Tasks whose exception nobody took, unless a kill may have come before whoever was about to."""
        return [
            task
            for task in self.tasks
            if task.done() and not task.cancelled() and task._log_traceback and not self._lane_of[task].cut_off
        ]

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        if context is None:
            context = copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        (context.get(_LANE) or self.world).ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if context is None:
            context = copy_context()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle, context.get(_LANE) or self.world))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is ignored when its time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {type(error).__name__}: {error}" if error else str(context))

    # ---- lanes

    def new_lane(self, name: str) -> Lane:
        """A new process."""
        lane = Lane(name)
        self.lanes.append(lane)
        return lane

    def in_world(self, delay_s: float, callback: Callable[..., object], *args: Any) -> None:
        """Do something later whatever becomes of the process that asks for it (a packet is on its way)."""
        self.call_at(self.now + delay_s, callback, *args, context=self.world.context)

    # ---- running

    def run_until(self, done: Callable[[], bool]) -> None:
        """Run until something is done. Raises :class:`StuckError`."""
        events._set_running_loop(self)
        try:
            while not done():
                self._run_once()
        finally:
            events._set_running_loop(None)

    def _run_once(self) -> None:
        runnable = [lane for lane in self.lanes if lane.ready and not lane.paused and not lane.dead]
        if not runnable:
            self._advance()
            return
        lane = runnable[int(self._rng.random() * len(runnable))] if len(runnable) > 1 else runnable[0]
        for _ in range(len(lane.ready)):
            if lane.fuse >= 0:
                lane.fuse -= 1
                if lane.fuse < 0 and lane.on_fuse is not None:
                    action, lane.on_fuse = lane.on_fuse, None
                    self.world.context.run(action)
                    return
            handle = lane.ready.popleft()
            if not handle._cancelled:
                self.callbacks += 1
                handle._run()
            if lane.dead or lane.paused:  # by what it just did: what was ready beside it does not run, either
                return
        if self.callbacks > self._max_callbacks:
            raise StuckError(f"more than {self._max_callbacks} callbacks at {self.now:.1f} s")

    def _advance(self) -> None:
        timers = self._timers
        while timers:
            when, _, handle, lane = timers[0]
            if handle._cancelled:
                heapq.heappop(timers)
                continue
            self.now = max(self.now, when)
            while timers and timers[0][0] <= self.now:
                _, _, handle, lane = heapq.heappop(timers)
                if not handle._cancelled:
                    lane.ready.append(handle)
            return
        raise StuckError(f"nothing is scheduled at {self.now:.1f} s")

    def close_down(self) -> None:
        """Let every task end, those of dead processes too, so that nothing is left to the garbage collector."""
        with warnings.catch_warnings():
            # A process that was killed never awaits what it was about to.
            warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
            self._cancel_all()
            self.tasks.clear()
            self._lane_of.clear()

    def _cancel_all(self) -> None:
        for lane in self.lanes:
            lane.dead = lane.paused = False
            lane.fuse = -1
        for _ in range(_ROUNDS):  # what is cancelled may start something
            tasks = [task for task in self.tasks if not task.done()]
            for task in tasks:
                task.cancel()
            self._max_callbacks = self.callbacks + 20_000
            with contextlib.suppress(StuckError):  # until the callbacks of what is done have run, too
                self.run_until(lambda tasks=tasks: all(task.done() for task in tasks) and self._at_rest)  # type: ignore[misc]
            if not tasks:
                return

    @property
    def _at_rest(self) -> bool:
        return not any(lane.ready for lane in self.lanes)
