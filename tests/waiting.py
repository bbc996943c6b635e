"""Waiting for a condition, with a deadline instead of a guess about time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sized
from typing import Any, TypeVar

POLL_INTERVAL_S = 0.02

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """The condition's first true answer; AssertionError naming ``what`` when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_INTERVAL_S)
    return answer


async def eventually(condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """As `until`, for a test on an event loop."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(POLL_INTERVAL_S)
    return answer


async def tried(attempt: Callable[[], Awaitable[T | None]], what: str, timeout_s: float = 60.0) -> T:
    """What an attempt gives that is not ``None``: made again until then."""
    deadline = time.monotonic() + timeout_s
    while (found := await attempt()) is None:
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(POLL_INTERVAL_S)
    return found


async def sends(work: Coroutine[Any, Any, object], sent: Sized, count: int) -> None:
    """Let work go on until so many requests are sent, and cancel it; AssertionError if it ends before, or too late."""
    task = asyncio.create_task(work)
    try:
        await eventually(lambda: len(sent) >= count or task.done(), f"{count} requests")
        assert len(sent) >= count
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
