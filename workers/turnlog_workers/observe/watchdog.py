"""Notices what stands still: a heartbeat of the event loop, and partitions with requests of which none is decided."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram

from turnlog_workers.observe.health import Health

log = logging.getLogger(__name__)
_INTERVAL_S = 0.5
_LOOKS_A_COUNT = 10
_MAX_TASKS = 200
_MAX_FRAMES = 12
_DELAYS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Of each partition that should get on: how many requests wait, and up to which one all are decided.
Progress = Mapping[int, tuple[int, int]]


class LoopMetrics:
    """How late the event loop is, and how many tasks it has."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._delay = Histogram(
            "turnlog_event_loop_delay_seconds",
            "How late the event loop gets to what is due, looked at twice a second.",
            buckets=_DELAYS_S,
            registry=registry,
        )
        self._tasks = Gauge(
            "turnlog_event_loop_tasks", "Tasks of the event loop, counted every 5 s.", registry=registry
        )
        self._looks = 0

    def look(self, late_s: float) -> None:
        """Twice a second; in the loop."""
        self._delay.observe(late_s)
        if self._looks % _LOOKS_A_COUNT == 0:  # to count thousands takes a millisecond
            self._tasks.set(len(asyncio.all_tasks()))
        self._looks += 1


class Watchdog:
    """Looks twice a second. ``progress`` leaves out what waits on purpose."""

    def __init__(
        self,
        health: Health,
        progress: Callable[[], Progress],
        *,
        timeout_s: float,
        loop: LoopMetrics | None = None,
        what: str = "requests wait, and none was decided",
        where: Callable[[], str] = lambda: f". Every task stands at:{tasks_stand_at()}",
    ) -> None:
        """``what`` is wrong, in words; ``where`` the process stands, for the log."""
        self._health = health
        self._progress = progress
        self._timeout_s = timeout_s
        self._loop = loop
        self._what = what
        self._where = where
        self._since: dict[int, tuple[int, float]] = {}  #: by partition: decided up to, and since when

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _INTERVAL_S
            await asyncio.sleep(_INTERVAL_S)
            if self._loop is not None:
                self._loop.look(max(0.0, loop.time() - due))
            self._health.beat()
            self.look(loop.time())

    def rest(self) -> None:
        """Nothing can go on from here to the next look: that time is held against nobody."""
        self._since, self._health.stalled = {}, ""
        self._health.rest()

    def look(self, now: float) -> None:
        """One look; ``now`` in monotonic seconds."""
        since: dict[int, tuple[int, float]] = {}
        stalled = []
        for partition, (lag, decided) in self._progress().items():
            if lag <= 0:
                continue
            before = self._since.get(partition)
            since[partition] = before if before is not None and before[0] == decided else (decided, now)
            if now - since[partition][1] > self._timeout_s:
                stalled.append(partition)
        self._since = since
        sentence = ""
        if stalled:
            names = ", ".join(str(partition) for partition in sorted(stalled))
            sentence = f"partitions {names}: {self._what} for {self._timeout_s:g} s"
            if not self._health.stalled:
                log.critical("%s%s", sentence, self._where())
        self._health.stalled = sentence


def tasks_stand_at() -> str:
    """Where every task of the running loop stands: names of files and functions, nothing of what they hold."""
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    lines = []
    for task in tasks[:_MAX_TASKS]:
        lines.append(f"\n{task.get_name()[:200]}")
        lines += [f"\n  {name}:{line} in {function}" for name, line, function in _places(task)]
    if len(tasks) > _MAX_TASKS:
        lines.append(f"\nand {len(tasks) - _MAX_TASKS} more")
    return "".join(lines)


def _places(task: "asyncio.Task[object]") -> list[tuple[str, int, str]]:
    """Through what each coroutine awaits, outermost first: the stack of a task has its first frame only."""
    places: list[tuple[str, int, str]] = []
    at: object = task.get_coro()
    while at is not None and len(places) < _MAX_FRAMES:
        frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None) or getattr(at, "ag_frame", None)
        if frame is None:
            break
        places.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        at = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None) or getattr(at, "ag_await", None)
    return places
