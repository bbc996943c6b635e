"""Driving a runner as a session does, and as the worst moment of a session would: cancelled at each await."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

from turnlog.runner import (
    AssistantMessage,
    Runner,
    RunnerError,
    RunnerOutput,
    ToolCall,
    ToolResult,
    TurnInput,
)
from turnlog_workers.runners.checked import checked
from turnlog_workers.runners.contained import CLOSE_TIMEOUT_S

MAX_OUTPUTS = 100_000


async def outputs_of(runner: Runner, turn: TurnInput) -> list[RunnerOutput]:
    """All outputs of a turn, each checked as a session checks them. Raises what the runner raises."""
    found: list[RunnerOutput] = []
    running = runner.run(turn)
    assert hasattr(running, "__anext__"), f"run() returned {type(running).__name__}, not an async iterator"
    async for output in running:
        found.append(checked(output))
        assert len(found) <= MAX_OUTPUTS, f"more than {MAX_OUTPUTS} outputs in one turn"
    return found


async def outputs_or_error(runner: Runner, turn: TurnInput) -> tuple[list[RunnerOutput], RunnerError | None]:
    """Outputs, and the error that ended them; any exception but a :class:`RunnerError` is a fault of the runner."""
    found: list[RunnerOutput] = []
    try:
        async for output in runner.run(turn):
            found.append(checked(output))  # noqa: PERF401 - what came before an error counts
    except RunnerError as error:
        return found, error
    except Exception as error:
        raise AssertionError(
            f"the runner raised {type(error).__name__}: a runner raises RunnerError, with a code and a reason"
        ) from error
    return found, None


async def until_client_calls(runner: Runner, turn: TurnInput, client_tool: str) -> list[RunnerOutput]:
    """The outputs of a turn until nothing but calls of its client's tool is open: that is its end."""
    found: list[RunnerOutput] = []
    running = runner.run(turn)
    waiting: list[ToolCall] = []
    async for output in running:
        found.append(checked(output))
        if isinstance(output, AssistantMessage):
            waiting = list(output.tool_calls)
        elif isinstance(output, ToolResult):
            waiting = [call for call in waiting if call.call_id != output.call_id]
        if waiting and all(call.name == client_tool for call in waiting):
            await ended(running)
            return found
    raise AssertionError(f"the turn ended without a call of {client_tool!r}, which its request brought")


class Suspended:
    """A coroutine that says when it is about to wait for the n-th time."""

    def __init__(self, work: Coroutine[Any, Any, None], at: int, then: Callable[[], None]) -> None:
        self._work = work
        self._left = at
        self._then = then

    def __await__(self) -> Generator[Any, Any, None]:
        """Passes on what the coroutine waits for."""
        waits = self._work.__await__()
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited_for = waits.throw(error) if error is not None else waits.send(answer)
            except StopIteration:
                return
            self._left -= 1
            if self._left == 0:
                self._then()
            error = None
            try:
                answer = yield waited_for
            except BaseException as thrown:  # a cancellation: it is the coroutine's to see
                error = thrown


async def cancelled_at(work: Coroutine[Any, Any, None], at: int) -> bool:
    """Run it, cancel it at its n-th wait, and see that it ends in time. False: it came to its end before.

    Raises what it raises, and ``AssertionError`` if it takes no notice.
    """
    loop = asyncio.get_running_loop()
    waiting = loop.create_future()

    def cancel() -> None:
        waiting.set_result(None)
        loop.call_soon(task.cancel)

    async def run() -> None:
        await Suspended(work, at, cancel)

    task = loop.create_task(run())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        task.result()
        return False
    await asyncio.wait((task,), timeout=CLOSE_TIMEOUT_S)
    assert task.done(), f"cancelled at wait {at}, it still runs after {CLOSE_TIMEOUT_S:g} s"
    assert task.cancelled() or task.exception() is not None, f"the cancellation at wait {at} was swallowed"
    if not task.cancelled():
        error = task.exception()
        raise AssertionError(f"cancelled at wait {at}, it raised {type(error).__name__}") from error
    return True


async def ended(iterator: AsyncIterator[Any]) -> None:
    """End an iteration in the middle, in the time that a session has for it."""
    close = getattr(iterator, "aclose", None)
    assert close is not None, "the outputs of a turn come from an async generator: a session must be able to end it"
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await close()
    except TimeoutError:
        raise AssertionError(f"closing the outputs took longer than {CLOSE_TIMEOUT_S:g} s") from None


async def nothing_left(before: set[asyncio.Task[Any]]) -> None:
    """Every task that came since has ended."""
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=CLOSE_TIMEOUT_S)
    running = sorted(task.get_name() for task in left if not task.done())
    assert not running, f"tasks of the runner still run: {running}"
