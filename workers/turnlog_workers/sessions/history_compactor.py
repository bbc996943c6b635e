"""Runs of history compaction for one session: ask the plan, call the summary model, tell the shard how it ended.

    plan -> nothing to do
         -> summary of the fast model ------------------> RecordHistoryCompaction
         -> no usable summary, automatic -> FailHistoryCompaction, then RecordHistoryCompaction (cut short, no model)
         -> no usable summary, on request -> FailHistoryCompaction

A run is never a turn's problem: whatever the model does, the turn goes on. What dies in the middle of a run leaves
nothing behind but a request that is still owed; the next owner's plan is made of the log alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from turnlog_schemas.parts import ReplyAddress, Usage, added, content_text, text_content
from turnlog_streams.history.compaction import AUTOMATIC, MANUAL, HistoryCompactionPolicy
from turnlog_streams.history.compaction_plan import HistoryCompactionPlan, SessionHistory, plan, session_tokens
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.history.summary_prompt import (
    SummaryPrompt,
    UnusableSummaryError,
    summary_task,
    usable_summary,
)
from turnlog_streams.history.summary_truncation import truncation_summary
from turnlog_streams.history.view import BY_MODEL, BY_TRUNCATION
from turnlog_streams.policy import Policy
from turnlog_streams.session.commands import (
    FailHistoryCompaction,
    RecordHistoryCompaction,
    SessionCommand,
    SkipHistoryCompaction,
)
from turnlog_streams.session.state import OwedRun
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.logs import at
from turnlog_workers.base.tasks import describe, frames
from turnlog_workers.observe import tracing
from turnlog_workers.runners.base import (
    Runner,
    RunnerError,
    TurnInput,
)
from turnlog_workers.runners.contained import (
    TookTooLongError,
    UnexpectedError,
    close_outputs,
    close_runner,
    contained,
    new_runner,
)
from turnlog_workers.runners.fault_log import log_fault
from turnlog_workers.runners.traced import traced_outputs
from turnlog_workers.sessions.task_reader import TaskReader
from turnlog_workers.store.port import StoreError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionInput:
    """All that a run depends on, as it is now."""

    history: SessionHistory
    bounds: HistoryCompactionPolicy
    policy: Policy
    fencing_token: int
    not_held_to: int = 0  #: of the messages up to here, some have to be asked for


class UnrecordableError(Exception):
    """What an actor submitted cannot be recorded, and left no trace. Submitting it again cannot help."""


class CompactionHost(Protocol):
    """What a run needs from its shard."""

    async def submit(self, session_id: str, commands: Sequence[SessionCommand]) -> None:
        """Decide and append; returns when confirmed. Cancels the caller when the partition is released.

        Raises :class:`UnrecordableError`.
        """
        ...

    async def earlier_messages(self, session_id: str, after: int, upto: int) -> list[HistoryMessage]:
        """Messages that the input does not hold, from behind one up to another: the newest of them, not all."""
        ...

    def history_fits(self, session_id: str, usage: Usage | None = None) -> bool:
        """Is the assembled history surely within its bounds? Asked twice a turn: most sessions are far from a limit."""
        ...

    def compaction_input(self, session_id: str, usage: Usage | None = None) -> CompactionInput:
        """The session as it stands. ``usage``: what the running attempt has reported."""
        ...


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run: what it is made of, and what came of it."""

    given: CompactionInput
    made: HistoryCompactionPlan
    request: OwedRun | None
    began: float
    text: str | None = None  #: of the model
    code: str = ""  #: why there is none
    reason: str = ""
    usage: Usage = field(default_factory=Usage)
    earlier: Sequence[HistoryMessage] = ()  #: that are to be summarised and are not held

    @property
    def source(self) -> list[HistoryMessage]:
        """What the summariser reads."""
        held = {message.message_seq: message for message in (*self.earlier, *self.given.history.messages)}
        return self.made.source([held[seq] for seq in sorted(held)])

    @property
    def previous(self) -> str | None:
        """The summary that this one continues."""
        return self.made.previous.text if self.made.previous else None

    @property
    def _request_id(self) -> str | None:
        return self.request.request_id if self.request else None

    def _duration_ms(self) -> int:
        return int((asyncio.get_running_loop().time() - self.began) * 1000)

    def record(self, text: str, method: str) -> RecordHistoryCompaction:
        """The command that ends the run well."""
        summary = self.made.summary(text, method)
        by_model = method == BY_MODEL
        after = replace(self.given.history, state=self.given.history.state.after_summary(summary))
        return RecordHistoryCompaction(
            summary=summary,
            trigger=self.made.trigger,
            model=self.given.policy.summary_model if by_model else None,
            tokens_before=self.made.tokens_before,
            tokens_after=self._as_counted(session_tokens(replace(after, measure=None))),
            usage=self.usage if by_model else Usage(),  # a failed call's is in its failure
            duration_ms=self._duration_ms(),
            request_id=self._request_id,
        )

    def _as_counted(self, estimate: int) -> int:
        """An estimate by the measure of ``tokens_before``, which a model may have counted otherwise than we do."""
        before = session_tokens(replace(self.given.history, measure=None))
        counted = self.made.tokens_before
        return estimate + counted - before if counted >= before else estimate * counted // before

    def failure(self) -> FailHistoryCompaction:
        """The command that says why the model made no summary."""
        return FailHistoryCompaction(
            history_seq=self.made.history_seq,
            trigger=self.made.trigger,
            code=self.code,
            reason=self.reason,
            model=self.given.policy.summary_model,
            usage=self.usage,
            duration_ms=self._duration_ms(),
            request_id=self._request_id,
        )


def shorter_history(
    given: CompactionInput, prompt_tokens: int | None, window_tokens: int | None
) -> HistoryCompactionPolicy | None:
    """The bounds of a run after a model could not take the history; ``None``: its session wants no automatic run.

    A window is in the model's own tokens: how many of ours that are, the size of the same prompt says.
    """
    if not given.bounds.automatic:
        return None
    tokens = session_tokens(given.history)
    limit = tokens // 2
    if prompt_tokens and window_tokens:
        limit = min(limit, tokens * window_tokens // max(prompt_tokens, window_tokens + 1))
    return given.bounds.overridden(max_tokens=max(1, limit))


class HistoryCompactor:
    """The runs of one session, one at a time: its actor calls them in the session's own order."""

    def __init__(
        self, session_id: str, *, host: CompactionHost, make_runner: Callable[[str], Runner], timeout_s: float
    ) -> None:
        self._session_id = session_id
        self._host = host
        self._make_runner = make_runner
        self._timeout_s = timeout_s
        self.recording = False  #: is the end of a run on its way to the log?

    def due(self, usage: Usage | None = None) -> bool:
        """Would an automatic run do something now?"""
        return self._run(None, usage) is not None

    async def automatic(self, usage: Usage | None = None) -> bool:
        """Bring the assembled history below its limit, if it is above. Did it change?"""
        return await self._automatic(self._run(None, usage))

    async def too_long(self, usage: Usage, prompt_tokens: int | None, window_tokens: int | None) -> bool:
        """A model could not take the assembled history: bring it to half, or to what the model said it can take.

        Did it change? Not where a session wants no automatic run.
        """
        given = self._host.compaction_input(self._session_id, usage)
        bounds = shorter_history(given, prompt_tokens, window_tokens)
        return await self._automatic(None if bounds is None else self._run(None, usage, bounds))

    async def _automatic(self, run: _Run | None) -> bool:
        if run is None:
            return False
        return await self._traced(run, AUTOMATIC, None, self._made)

    async def _traced(
        self, run: _Run, trigger: str, reply: ReplyAddress | None, made: Callable[[_Run], Awaitable[bool]]
    ) -> bool:
        with tracing.history_compaction(self._session_id, trigger, reply) as failed:
            changed = await made(run)
            if run.code:
                failed(run.code)
        return changed

    async def _made(self, run: _Run) -> bool:
        """An automatic run: where the model makes no summary, the history is cut short."""
        commands: list[SessionCommand] = []
        try:
            await self._fetch_earlier(run)
        except StoreError as error:  # the turn goes on with the longer history, and the next run tries again
            run.code = "internal_error"
            log.error("no summary of the history: %s", error, extra=at(session=self._session_id))
            return False
        if run.made.by_model:
            await self._summarise(run)
        if run.text is not None:
            commands.append(run.record(run.text, BY_MODEL))
        else:
            if run.made.by_model:
                commands.append(run.failure())
            text = truncation_summary(run.source, run.previous, max_tokens=run.made.max_summary_tokens)
            commands.append(run.record(text, BY_TRUNCATION))
        return await self._recorded(run, commands)

    async def requested(self, request: OwedRun) -> bool:
        """A run that somebody asked for. Did the assembled history change?"""
        run = self._run(request)
        if run is None:
            await self._end([SkipHistoryCompaction(request_id=request.request_id)])
            return False
        return await self._traced(run, MANUAL, request.reply, self._made_as_asked)

    async def _made_as_asked(self, run: _Run) -> bool:
        await self._fetch_earlier(run)
        await self._summarise(run)
        if run.text is None:
            await self._recorded(run, [run.failure()])
            return False
        return await self._recorded(run, [run.record(run.text, BY_MODEL)])

    async def _fetch_earlier(self, run: _Run) -> None:
        """What a summary without a model stands for is read again by the next one that a model makes."""
        first, upto = run.made.source_from, run.given.not_held_to
        if first <= upto:
            run.earlier = await self._host.earlier_messages(self._session_id, first - 1, upto)

    def _run(
        self, request: OwedRun | None, usage: Usage | None = None, bounds: HistoryCompactionPolicy | None = None
    ) -> _Run | None:
        if bounds is None and request is None and self._host.history_fits(self._session_id, usage):
            return None
        given = self._host.compaction_input(self._session_id, usage)
        if bounds is not None:
            given = replace(given, bounds=bounds)
        settings = given.policy.summaries(request.instructions if request else None)
        made = plan(given.history, given.bounds, settings, trigger=MANUAL if request else AUTOMATIC)
        if made is None:
            return None
        return _Run(given=given, made=made, request=request, began=asyncio.get_running_loop().time())

    async def _recorded(self, run: _Run, commands: list[SessionCommand]) -> bool:
        """Hand in how a run ended. False: that cannot be recorded, so it became a failure that can."""
        try:
            await self._end(commands)
            return True
        except UnrecordableError as error:
            run.code = "outcome_not_recorded"
            run.reason = f"the summary cannot be recorded: {error}"
            await self._end([run.failure()])
            return False

    async def _end(self, commands: list[SessionCommand]) -> None:
        crash_point("compaction.before_record")
        self.recording = True
        try:
            await self._host.submit(self._session_id, commands)
        finally:
            self.recording = False
        crash_point("compaction.after_record")

    # ---- the model

    async def _summarise(self, run: _Run) -> None:
        """Ask the summary model; never raises for what it does."""
        crash_point("compaction.before_summary")
        summarised = self._in_parts(run)
        try:
            run.text = await contained(
                summarised, timeout_s=self._timeout_s, what="a summary model's runner", session_id=self._session_id
            )
        except UnusableSummaryError as error:
            run.code, run.reason = error.code, str(error)
        except RunnerError as error:
            run.code, run.reason = error.code, error.reason
            if isinstance(error, UnexpectedError):
                said = [content_text(message.content) or "" for message in run.source]
                log_fault(error, self._session_id, "summary", said)
        except TookTooLongError:
            run.code, run.reason = "summary_timeout", f"the summary took longer than {self._timeout_s:g} s"
        except Exception as error:
            told = describe(error), frames(error)
            log.error("a summary failed by a defect: %s%s", *told, extra=at(session=self._session_id))
            run.code, run.reason = "internal_error", f"the worker failed on it: {describe(error)}"
        if run.text is None:
            log.warning("no summary of the history: %s", run.code, extra=at(session=self._session_id))

    async def _in_parts(self, run: _Run) -> str:
        model = run.given.policy.summary_model
        if not run.given.policy.allows(model):
            raise RunnerError("model_not_allowed", run.given.policy.not_allowed(model), retryable=False)
        task = summary_task(
            run.source,
            run.previous,
            window_tokens=run.given.policy.summary_window,
            max_summary_tokens=run.made.max_summary_tokens,
            wishes=run.request.instructions if run.request else None,
        )
        so_far = task.previous
        for part in range(len(task.parts)):
            text, called_tools = await self._call(run, task.prompt(part, so_far))
            so_far = usable_summary(text, called_tools=called_tools, max_tokens=task.max_summary_tokens)
        return so_far or ""

    async def _call(self, run: _Run, prompt: SummaryPrompt) -> tuple[str, bool]:
        """One model call without tools, by a runner of its own: its text, and whether it wanted a tool all the same."""
        model = run.given.policy.summary_model
        turn = TurnInput(
            session_id=self._session_id,
            turn_id="summary",
            attempt=1,
            turn_number=1,
            fencing_token=run.given.fencing_token,
            model=model,
            instructions=prompt.instructions,
            user_content=text_content(prompt.text),
            allow_tools=False,
        )
        runner = new_runner(self._make_runner, model)
        reader = TaskReader()
        try:
            outputs = traced_outputs(runner, turn)
            try:
                await reader.read(outputs)
            finally:
                await close_outputs(outputs, self._session_id)
        finally:
            run.usage = added(run.usage, reader.usage)
            await close_runner(runner, self._session_id)
        return reader.text, reader.called_tools
