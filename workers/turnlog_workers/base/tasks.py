"""Background tasks that somebody hears of when they die: nothing of a worker ends without a word."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine
from types import TracebackType
from typing import Any

from turnlog_workers.base.backoff import Backoff

log = logging.getLogger(__name__)
_AGAIN = Backoff(0.5, 30.0)
_STEADY_S = 60.0  #: of running: ends a row of deaths
_NAME, _TRACEBACK = type.__dict__["__name__"], BaseException.__dict__["__traceback__"]
MAX_DEATHS = 8  #: in a row: about two minutes of trying


def watched(
    work: Coroutine[Any, Any, None], name: str, *, died: Callable[[BaseException], None] | None = None
) -> asyncio.Task[None]:
    """A task whose death is logged and told. Cancelled by us is no death; cancelled by nobody (a library's future
    that was cancelled comes as that) is one.

    ``died`` must not raise.
    """

    async def watch() -> None:
        try:
            await work
        except BaseException as error:
            if was_cancelled(error):
                raise
            log.critical("%s died: %s%s", name, describe(error), frames(error))
            if died is not None:
                died(error)

    task = asyncio.create_task(watch(), name=name)
    task.add_done_callback(lambda _: work.close())  # one that was cancelled before it began
    return task


def kept_running(
    work: Callable[[], Awaitable[None]], name: str, *, gave_up: Callable[[str], None], backoff: Backoff = _AGAIN
) -> asyncio.Task[None]:
    """A task that is to run for ever: started again when it ends, ever later, and given up in the end.

    ``gave_up`` hears why, in a sentence.
    """

    async def again() -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while True:
            began = loop.time()
            try:
                await work()
                reason = "it ended"
            except BaseException as error:
                if was_cancelled(error):
                    raise
                reason = describe(error)
                log.error("%s died: %s%s", name, reason, frames(error))
            deaths = 1 if loop.time() - began > _STEADY_S else deaths + 1
            if deaths >= MAX_DEATHS:
                gave_up(f"{name} died {deaths} times in a row; the last time: {reason}")
                return
            await asyncio.sleep(backoff.next_delay(deaths))

    return watched(again(), name, died=lambda error: gave_up(f"{name} died: {describe(error)}"))


def was_cancelled(error: BaseException) -> bool:
    """Was the current task asked to end? A ``CancelledError`` alone does not say so: it may be a library's own."""
    if not issubclass(type(error), asyncio.CancelledError):  # not isinstance: a plug-in's error may say anything
        return issubclass(type(error), GeneratorExit)
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def describe(error: BaseException) -> str:
    """Type and place of an error. Not its text: that may hold anything."""
    place = ""
    trace = traceback_of(error)
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{_NAME.__get__(type(error))}{place}"


def traceback_of(error: BaseException) -> TracebackType | None:
    """Where it was raised. Not asked of the error itself: a plug-in's may answer anything, or raise."""
    found: TracebackType | None = _TRACEBACK.__get__(error)
    return found


def frames(error: BaseException) -> str:
    """The lines of its traceback, each below the other, for a log; without its text, as above."""
    return "".join("\n" + line.rstrip() for line in traceback.format_tb(traceback_of(error)))


async def end(task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task and see it end, whatever it ends with."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def all_within(steps: Collection[tuple[str, Awaitable[object]]], limit_s: float) -> None:
    """Steps of a shutdown, side by side; one that fails or takes too long is logged, and keeps none from its end."""

    async def take(what: str, step: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await step
        except BaseException as error:
            if was_cancelled(error):
                raise
            late = isinstance(error, TimeoutError)
            log.error("%s: %s", what, f"not within {limit_s:g} s" if late else describe(error) + frames(error))

    await asyncio.gather(*(take(what, step) for what, step in steps))
