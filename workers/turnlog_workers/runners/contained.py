"""Calls into runners that end, whatever the runner does: within a time, and with an error of ours.

A runner is somebody else's code. It may raise anything (also what ends a process), cancel itself, ignore that it is
cancelled, or hang where it is to be closed. None of that may reach further than the turn it was called for.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from types import AsyncGeneratorType, CoroutineType
from typing import Any, TypeVar, cast

from turnlog_workers.base.logs import at, without_known_secrets
from turnlog_workers.base.tasks import was_cancelled
from turnlog_workers.runners.base import Runner, RunnerError, RunnerOutput, TurnInput
from turnlog_workers.runners.checked import OutputError, described, one_line, type_name

T = TypeVar("T")
log = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 5.0  #: for a runner to close, and to end when it is cancelled
SLOW_FACTORY_S = 0.5
MAX_REASON_CHARACTERS = 1_000
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_FIELDS = ("code", "reason", "retryable", "retry_after_s", "prompt_tokens", "window_tokens")
_LARGEST = 10**12
_ABANDONED: set[asyncio.Task[Any]] = set()  # else they would be collected in the middle


class UnexpectedError(RunnerError):
    """A runner raised what is no :class:`RunnerError`: ``__cause__``, if it is known."""

    def __init__(self, reason: str) -> None:
        super().__init__(code="runner_error", reason=reason)


class TookTooLongError(Exception):
    """A call into a runner did not end in its time."""


def fault_of(error: BaseException) -> RunnerError:
    """What an error that came out of a runner is to everybody else. To be raised from it."""
    if issubclass(type(error), RunnerError):  # not isinstance: that asks the error what it would like to be
        return _cleaned(cast(RunnerError, error))
    return UnexpectedError(f"the runner raised {type_name(error)}")


def _cleaned(error: RunnerError) -> RunnerError:
    """A runner's own error with a code and a reason that can be stored."""
    try:
        code, reason, retryable, retry_after_s, prompt_tokens, window_tokens = (
            getattr(error, name, None) for name in _FIELDS
        )
    except BaseException as failed:  # they may be properties of a plug-in's class
        return UnexpectedError(f"the runner raised {type_name(error)}, whose fields raised {type_name(failed)}")
    code = str.__str__(code) if issubclass(type(code), str) else ""
    return RunnerError(
        code if _CODE.fullmatch(code) else "runner_error",
        one_line(_without_secrets(reason), MAX_REASON_CHARACTERS) or "the runner gave no reason",
        retryable=retryable is not False,
        retry_after_s=_number(retry_after_s),
        prompt_tokens=None if (prompt := _number(prompt_tokens)) is None else int(prompt),
        window_tokens=None if (window := _number(window_tokens)) is None else int(window),
    )


def _without_secrets(reason: object) -> object:
    """Of a text as much as a reason can hold, cut after its secrets are out."""
    if not issubclass(type(reason), str):
        return reason
    return without_known_secrets(str.__str__(cast(str, reason))[: 8 * MAX_REASON_CHARACTERS])


def _number(value: object) -> float | None:
    """A number that may be reckoned with; anything else was not said."""
    if type(value) not in (int, float) or not 0 <= value <= _LARGEST:  # type: ignore[operator]
        return None
    return value  # type: ignore[return-value]


# ---- a runner's life


def new_runner(make_runner: Callable[[str], Runner], model: str) -> Runner:
    """A runner of the model. Raises :class:`RunnerError`."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        runner = make_runner(model)
        is_runner = all(callable(getattr(runner, name, None)) for name in ("run", "aclose"))
    except BaseException as error:
        if was_cancelled(error):
            raise
        raise fault_of(error) from error
    if loop.time() - began > SLOW_FACTORY_S:
        log.warning(
            "making a runner of %r took %.1f s, and the whole worker waited for it",
            one_line(model.partition(":")[0], 60),
            loop.time() - began,
        )
    if not is_runner:
        _drop(runner)
        provider = one_line(model.partition(":")[0], 60)
        reason = f"the factory of {provider!r} returned {described(runner)}, which is no runner"
        raise RunnerError("broken_provider", reason, retryable=False)
    return runner


def is_alive(runner: Runner, session_id: str, *, say: bool) -> bool:
    """Does it take another turn? One that does not answer is replaced; ``say``: and told of in the log."""
    try:
        with OutsideOfTask():
            alive = runner.alive
    except BaseException as error:
        if say:
            log.warning("'alive' of a runner raised %s", type_name(error), extra=at(session=session_id))
        return False
    if say and type(alive) is not bool:
        log.warning("'alive' of a runner is %s, not a bool", described(alive), extra=at(session=session_id))
    return alive is True


class OutsideOfTask:
    """In here a plug-in that is asked something finds no task to cancel: it were ours, perhaps the partition's."""

    __slots__ = ("_loop", "_task")

    def __enter__(self) -> None:
        self._loop = asyncio._get_running_loop()
        self._task = asyncio.current_task(self._loop) if self._loop is not None else None
        if self._loop is not None and self._task is not None:
            asyncio.tasks._leave_task(self._loop, self._task)

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._task is not None:
            asyncio.tasks._enter_task(self._loop, self._task)


async def close_runner(runner: Runner, session_id: str) -> None:
    """Free what a runner holds; one that cannot be closed is only told of in the log."""

    async def close() -> None:
        try:
            await runner.aclose()
        except BaseException as error:
            if was_cancelled(error):
                raise
            raise fault_of(error) from error

    try:
        await contained(close(), timeout_s=CLOSE_TIMEOUT_S, what="closing a runner", session_id=session_id)
    except TookTooLongError:
        log.warning("closing a runner took longer than %g s", CLOSE_TIMEOUT_S, extra=at(session=session_id))
    except RunnerError as error:
        log.warning("closing a runner failed: %s", error.reason, extra=at(session=session_id))


# ---- a turn of it


def outputs_of(runner: Runner, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    """The iteration over a turn. Raises :class:`RunnerError` if there is none."""
    try:
        found = runner.run(turn)
        outputs = found.__aiter__() if hasattr(found, "__aiter__") else None
        if outputs is not None and callable(getattr(outputs, "__anext__", None)):
            return outputs
    except BaseException as error:
        if was_cancelled(error):
            raise
        raise fault_of(error) from error
    _drop(found)
    reason = f"run() of the runner returned {described(found)}, which is no async iterator"
    raise OutputError("invalid_output", reason)


async def close_outputs(outputs: AsyncIterator[RunnerOutput], session_id: str) -> None:
    """End an iteration, also one that is in the middle. A plug-in may return one that cannot be closed."""
    if type(outputs) is AsyncGeneratorType and outputs.ag_frame is None:
        return  # it came to its end
    try:
        close = getattr(outputs, "aclose", None)
        if close is not None:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await close()
    except BaseException as error:
        if was_cancelled(error):
            raise
        reason = fault_of(error).reason
        log.warning("closing the outputs of a turn failed: %s", reason, extra=at(session=session_id))


def _drop(found: object) -> None:
    """A coroutine that nobody will await."""
    if type(found) is CoroutineType:
        found.close()


# ---- in a task of its own


async def contained(
    work: Coroutine[Any, Any, T],
    *,
    timeout_s: float,
    what: str,
    session_id: str,
    stopping: Callable[[], None] | None = None,
) -> T:
    """Await work that calls a runner, for a bounded time, however it takes its cancellation.

    ``stopping`` is called right before it is cancelled. Raises :class:`TookTooLongError`, or what the work raises; what
    it leaves behind then is on its own.
    """
    task = asyncio.create_task(_ending_nothing_else(work))
    try:
        try:
            await asyncio.wait((task,), timeout=timeout_s)
        finally:
            in_time = task.done()
            if in_time:
                _heard(task)  # our caller may have been cancelled in this very moment
            else:  # its time is over, or that of its caller
                if stopping is not None:
                    stopping()
                await _stopped(task, what, session_id)
        if not in_time:
            raise TookTooLongError
        if task.cancelled():
            if not task.cancelling():  # what it waited for was cancelled: the partition is released
                raise asyncio.CancelledError
            raise UnexpectedError("the runner cancelled the task that it ran in")
        return task.result()
    except GeneratorExit:
        raise UnexpectedError("the runner raised GeneratorExit") from None
    finally:
        del task  # a traceback holds this frame: with the task, and so the exception, that were a cycle


async def _ending_nothing_else(work: Coroutine[Any, Any, T]) -> T:
    """Two errors end the loop, and the worker with it, wherever a task raises them."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise UnexpectedError(f"the runner raised {type_name(error)}") from error


async def _stopped(task: asyncio.Task[Any], what: str, session_id: str) -> None:
    """Cancel it, wait for a moment, and leave it alone then."""
    _ABANDONED.add(task)
    task.add_done_callback(_heard)
    task.cancel()
    await asyncio.wait((task,), timeout=CLOSE_TIMEOUT_S)
    if not task.done():
        log.error(
            "%s was cancelled, and still runs after %g s: it is left alone, and may hold memory and connections",
            *(what, CLOSE_TIMEOUT_S),
            extra=at(session=session_id),
        )
        asyncio._unregister_task(task)  # else whoever ends the loop waits for it, and the process with it


def _heard(task: asyncio.Task[Any]) -> None:
    """Nobody waits for it any more: its exception is nobody's."""
    _ABANDONED.discard(task)
    if not task.cancelled():
        task.exception()
