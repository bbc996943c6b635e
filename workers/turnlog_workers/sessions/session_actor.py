"""The session actor: holds the runner of one session, and runs its turns and history compactions.

They run one after the other, in the order in which they came. A turn whose history grows over its limit between two
tool steps is interrupted there: its runner is closed, the history compacted, and a new runner goes on behind the
stored messages, in the same attempt.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

from turnlog_schemas.parts import Usage
from turnlog_streams.history.compaction import MANUAL
from turnlog_streams.session.commands import CompleteTurn, FailAttempt, FailHistoryCompaction, SessionCommand
from turnlog_streams.session.state import OwedRun
from turnlog_streams.session.title import TitleTask
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.logs import at
from turnlog_workers.base.tasks import describe, frames, watched
from turnlog_workers.files.reader import FileReader
from turnlog_workers.observe.tracing import NOT_TRACED, TracedAttempt
from turnlog_workers.runners.base import CONTEXT_TOO_LONG, Runner, RunnerError, TurnInput
from turnlog_workers.runners.checked import OutputError
from turnlog_workers.runners.contained import (
    CLOSE_TIMEOUT_S,
    TookTooLongError,
    UnexpectedError,
    close_runner,
    contained,
    is_alive,
    new_runner,
)
from turnlog_workers.runners.fault_log import log_fault, texts_of
from turnlog_workers.sessions.history_compactor import HistoryCompactor, UnrecordableError
from turnlog_workers.sessions.titler import Titler
from turnlog_workers.sessions.turn_attempt import NotRecordedError, TurnAttempt
from turnlog_workers.sessions.turn_host import ActorLimits, TurnHost
from turnlog_workers.tools.toolbox import Toolbox

log = logging.getLogger(__name__)
_NO_TOOLBOX = Toolbox()


class SessionActor:
    """Holds the runner of one session and the tasks of its turns and history compactions."""

    def __init__(
        self,
        session_id: str,
        *,
        host: TurnHost,
        make_runner: Callable[[str], Runner],
        running: asyncio.Semaphore,
        limits: ActorLimits,
        toolbox: Toolbox | None = None,
        files: FileReader | None = None,
    ) -> None:
        self.session_id = session_id
        self._files = files
        self._toolbox = toolbox or _NO_TOOLBOX
        self._host = host
        self._make_runner = make_runner
        self._running = running
        self._limits = limits
        self._runner: Runner | None = None
        self._model = ""
        self._order = asyncio.Lock()  # whoever came first goes first
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: frozenset[asyncio.Task[None]] = frozenset()  #: those that were cancelled to stop
        self._turn_task: asyncio.Task[None] | None = None
        self._attempt: TurnAttempt | None = None
        self._fresh_runner = False
        self._retry_after_s = 0.0  # that the last attempt's runner asked for; a new owner does not know of it
        self._compactor = HistoryCompactor(
            session_id, host=host, make_runner=make_runner, timeout_s=limits.summary_timeout_s
        )

        self._titler = Titler(session_id=session_id, make_runner=make_runner, timeout_s=limits.summary_timeout_s)

    @property
    def partial_text(self) -> str:
        """What the running attempt has streamed since its last message."""
        return self._attempt.partial_text if self._turn_runs and self._attempt is not None else ""

    @property
    def unrecorded_usage(self) -> Usage:
        """What the running attempt has cost and the log does not have."""
        return self._attempt.unrecorded_usage if self._turn_runs and self._attempt is not None else Usage()

    @property
    def first_delta_ms(self) -> int | None:
        """From the running attempt's beginning to the first piece that it sent."""
        return self._attempt.first_delta_ms if self._turn_runs and self._attempt is not None else None

    @property
    def _turn_runs(self) -> bool:
        return self._turn_task is not None and not self._turn_task.done()

    @property
    def awaits_end(self) -> bool:
        """Is there an attempt whose end the log has not confirmed?"""
        return self._turn_runs and self._attempt is not None and not self._attempt.ended

    @property
    def busy(self) -> bool:
        """Is a turn or a history compaction running (or coming to its end)?"""
        return bool(self._tasks)

    @property
    def runner_is_dead(self) -> bool:
        """Does it hold a runner that takes no further turn?"""
        return self._runner is not None and not is_alive(self._runner, self.session_id, say=False)

    def cancel(self, turn_id: str) -> None:
        """The log says that this turn is over: stop its attempt, and send nothing more of it."""
        if self._turn_task is not None and self._attempt is not None and self._attempt.turn_id == turn_id:
            self._attempt.deltas.close()
            if not self._compactor.recording:  # else the next turn might see a summary that is not in the log yet
                self._turn_task.cancel()
            self._fresh_runner = True  # nobody knows in what state the runner was stopped

    def reset(self) -> None:
        """Close the runner before the next turn."""
        self._fresh_runner = True

    def start(
        self,
        turn_id: str,
        attempt: int,
        *,
        next_message_seq: int,
        failures: int,
        trace: AbstractContextManager[TracedAttempt | None] = NOT_TRACED,
    ) -> None:
        """Run an attempt that the log has confirmed. The one before it has ended."""
        one = self._attempt = TurnAttempt(self.session_id, turn_id, attempt, next_message_seq, self._host, self._limits)

        def failed(why: str) -> SessionCommand:
            return FailAttempt(
                turn_id=turn_id,
                attempt=attempt,
                code="internal_error",
                reason=f"the worker failed on it: {why}",
                retryable=False,
                usage=Usage(),
                duration_ms=0,
            )

        task = self._turn_task = self._task(self._traced(one, failures, trace), f"turn {turn_id}", failed)
        task.add_done_callback(self._turn_over)

    def _turn_over(self, task: asyncio.Task[None]) -> None:
        """Most sessions in memory are idle: they hold nothing of the turn that they had."""
        if self._turn_task is task:
            self._turn_task = self._attempt = None

    def compact(self, request: OwedRun) -> None:
        """Compact the history as somebody asked, once what runs has ended."""

        def failed(why: str) -> SessionCommand:
            return FailHistoryCompaction(
                history_seq=0,
                trigger=MANUAL,
                code="internal_error",
                reason=f"the worker failed on it: {why}",
                model="",
                usage=Usage(),
                duration_ms=0,
                request_id=request.request_id,
            )

        self._task(self._compact(request), f"history compaction {self.session_id}", failed)

    def _task(
        self, work: Coroutine[Any, Any, None], name: str, failed: Callable[[str], SessionCommand]
    ) -> asyncio.Task[None]:
        """Work that ends with an outcome: if it dies without one, that is its outcome."""

        def died(error: BaseException) -> None:
            self._host.failed(self.session_id, failed(describe(error)))

        task = watched(work, name, died=died)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def begin_to_stop(self) -> None:
        """Cancel what runs, each task once; :meth:`stop` is to follow."""
        running = frozenset(self._tasks - self._stopped)
        self._stopped |= running
        for task in running:
            task.cancel()

    async def stop(self) -> None:
        """Cancel what runs and close the runner. What was not confirmed is the next owner's to repeat."""
        self.begin_to_stop()
        if tasks := list(self._tasks):
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S + 1.0)  # a runner that does not end is left alone first
        await self.close_runner()

    async def close_runner(self) -> None:
        """Free the runner; the next turn makes a new one."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await close_runner(runner, self.session_id)

    async def _runner_for(self, model: str) -> Runner:
        runner = self._runner
        if runner is not None:
            stale = self._fresh_runner or self._model != model
            if stale or not is_alive(runner, self.session_id, say=True):
                await self.close_runner()
        if self._runner is None:
            self._runner = new_runner(self._make_runner, model)
            self._model = model
        self._fresh_runner = False
        return self._runner

    async def _compact(self, request: OwedRun) -> None:
        async with self._order, self._running:
            if await self._compactor.requested(request):
                self._fresh_runner = True

    async def _compact_if_due(self, usage: Usage | None = None) -> None:
        """Whatever becomes of it, the turn goes on; a runner that knew the longer history is replaced."""
        if await self._compactor.automatic(usage):
            self._fresh_runner = True

    async def _traced(
        self, attempt: TurnAttempt, failures: int, trace: AbstractContextManager[TracedAttempt | None]
    ) -> None:
        with trace as attempt.traced:
            await self._run(attempt, failures)

    async def _run(self, attempt: TurnAttempt, failures: int) -> None:
        async with self._order:
            if failures:
                back_off_s = Backoff(self._limits.retry_delay_s).next_delay(failures)
                await asyncio.sleep(max(back_off_s, self._retry_after_s))
            self._retry_after_s = 0.0
            async with self._running:
                ending = await self._ending(attempt)
            if not isinstance(ending, CompleteTurn):
                await self.close_runner()
            crash_point("actor.before_terminal")
            await self._record_end(attempt, ending)
            attempt.ended = True
            if attempt.traced is not None:
                attempt.traced.ended(ending.code if isinstance(ending, FailAttempt) else None)
            if isinstance(ending, CompleteTurn):  # while nobody waits for it, if it can be
                self._title_if_due()
                async with self._running:
                    await self._compact_if_due()

    def _title_if_due(self) -> None:
        """Beside what the session does next: nobody waits for a title."""
        task = self._host.title_task(self.session_id)
        if task is not None:
            titling = watched(self._title(task), f"title {self.session_id}", died=lambda _: None)
            self._tasks.add(titling)
            titling.add_done_callback(self._tasks.discard)

    async def _title(self, task: TitleTask) -> None:
        async with self._running:
            titled = await self._titler.title(task)
        if titled is None:
            return
        try:
            await self._host.submit(self.session_id, [titled])
        except UnrecordableError as error:
            log.warning("a title cannot be recorded: %s", error, extra=at(session=self.session_id))

    async def _record_end(self, attempt: TurnAttempt, ending: CompleteTurn | FailAttempt) -> None:
        """Hand in how the attempt ended; an end that cannot be recorded becomes a failure that can."""
        try:
            await self._host.submit(self.session_id, [*attempt.take_held(), ending])
        except UnrecordableError as error:
            failure = attempt.failure(NotRecordedError(error), ending.duration_ms / 1000)
            await self._host.submit(self.session_id, [failure])

    async def _ending(self, attempt: TurnAttempt) -> CompleteTurn | FailAttempt:
        """Run the attempt; the command that ends it."""
        loop = asyncio.get_running_loop()
        started = attempt.began = loop.time()
        try:
            await self._steps(attempt)
            return CompleteTurn(
                turn_id=attempt.turn_id,
                attempt=attempt.attempt,
                usage=attempt.unrecorded_usage,
                duration_ms=int((loop.time() - started) * 1000),
                first_delta_ms=attempt.first_delta_ms,
            )
        except RunnerError as error:
            self._tell_of(attempt, error)
            return attempt.failure(self._bounded_wait(error), loop.time() - started)
        except TookTooLongError:
            reason = f"the turn took longer than {self._limits.turn_timeout_s:g} s"
            return attempt.failure(RunnerError("turn_timeout", reason, retryable=False), loop.time() - started)
        except Exception as error:
            log.error("an attempt failed by a defect: %s%s", describe(error), frames(error), extra=self._place(attempt))
            reason = f"the worker failed on it: {describe(error)}"
            return attempt.failure(RunnerError("internal_error", reason, retryable=False), loop.time() - started)
        finally:
            attempt.deltas.close()

    def _bounded_wait(self, error: RunnerError) -> RunnerError:
        """The next attempt waits as long as the runner asks for; longer than a turn may wait, there is none."""
        wait_s, most_s = error.retry_after_s, self._limits.max_retry_after_s
        if wait_s is None or not error.retryable:
            return error
        if wait_s <= most_s:
            self._retry_after_s = wait_s
            return RunnerError(error.code, f"{error.reason}; it asks to wait {wait_s:.0f} s", retryable=True)
        reason = (
            f"{error.reason}; it asks to wait {wait_s:.0f} s, and a turn waits at most {most_s:g} s: try again then"
        )
        return RunnerError(error.code, reason, retryable=False)

    def _tell_of(self, attempt: TurnAttempt, error: RunnerError) -> None:
        """The operator's log: what a runner did wrong, not what it says went wrong."""
        if isinstance(error, UnexpectedError):
            said = texts_of(attempt.turn, attempt.partial_text) if attempt.turn is not None else ()
            log_fault(error, self.session_id, attempt.turn_id, said)
        elif isinstance(error, OutputError):
            log.error("a runner's output is not taken: %s: %s", error.code, error.reason, extra=self._place(attempt))

    def _place(self, attempt: TurnAttempt) -> dict[str, Any]:
        return at(session=self.session_id, turn=attempt.turn_id)

    async def _steps(self, attempt: TurnAttempt) -> None:
        """The attempt from one history compaction to the next; the time these take is not the turn's."""
        loop = asyncio.get_running_loop()
        left_s = self._limits.turn_timeout_s
        while True:
            await self._compact_if_due(attempt.usage)
            turn = self._host.turn_input(self.session_id, attempt.turn_id)
            if turn is None:
                return
            attempt.turn = turn
            began = loop.time()
            try:
                ended = await contained(
                    self._consumed(attempt, turn),
                    timeout_s=max(0.0, left_s),
                    what="the runner of a turn",
                    session_id=self.session_id,
                    stopping=attempt.stop,
                )
            except RunnerError as error:
                ended = False
                if error.code != CONTEXT_TOO_LONG or not attempt.may_be_asked_again:
                    raise
                left_s -= loop.time() - began
                attempt.shortened = True
                if not await self._compactor.too_long(attempt.usage, error.prompt_tokens, error.window_tokens):
                    raise
                began = loop.time()
            if ended:
                return
            await self.close_runner()
            left_s -= loop.time() - began

    async def _consumed(self, attempt: TurnAttempt, turn: TurnInput) -> bool:
        """Making a runner is a plug-in's code as well."""
        if self._files is not None:
            turn = self._files.offered(turn)
        runner = await self._runner_for(turn.model)
        turn = await self._toolbox.offered(turn)
        return await attempt.consume(runner, turn, self._compactor.due)
