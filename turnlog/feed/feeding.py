"""Feeding recorded conversations through Kafka; ``feed_verification`` proves that the histories are the recordings.

Each conversation is one session (``feed-ID``), each user message one request, whose id is made of the file's digest and
the message's position: a second run changes nothing. One turn at a time per session; sessions side by side.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from turnlog.client.async_client import Client
from turnlog.errors import (
    BrokerUnreachableError,
    RequestRefusedError,
    TurnlogError,
    TurnTimedOutError,
)
from turnlog.feed.conversations import Conversation
from turnlog.feed.plan import CONFLICT, EndedTurn, FeedPlan, FeedProgress, FeedReport, OnProgress
from turnlog_schemas.parts import InitialMessage, NewSession
from turnlog_workers.base.config import Settings
from turnlog_workers.base.extras import require
from turnlog_workers.runners.recordings import Message

log = logging.getLogger(__name__)
_TURN_TIMEOUT_S = 86_400.0  #: the stall limit is what ends a feed; this is only a bound
_RECONNECT_PAUSE_S = 1.0


async def run_feed(plan: FeedPlan, settings: Settings, on_progress: OnProgress = lambda progress: None) -> FeedReport:
    """Connect, feed and, if asked for, verify.

    Raises :class:`BrokerUnreachableError`, :class:`NotFoundError` (topics), :class:`TurnTimedOutError` (no progress),
    :class:`SnapshotBehindError`, :class:`MissingExtraError`.
    """
    if plan.options.verify:
        require("sql", "comparing the histories with the file (--verify)")
    async with Client(settings) as client:
        feed = Feed(plan, client, on_progress)
        report = await feed.run()
    if not plan.options.verify:
        return report
    from turnlog.feed.verification import verify

    return await verify(plan, feed, settings.snapshot)


class Feed:
    """One run over a file."""

    def __init__(self, plan: FeedPlan, client: Client, on_progress: OnProgress) -> None:
        self.ended: set[tuple[str, str]] = set()  #: (session id, request id) of turns seen to their end
        self.summarised: set[tuple[str, str]] = set()  #: the same of summaries that were taken
        self.report = FeedReport(
            conversations=len(plan.file.conversations),
            turns=sum(len(conversation.user_messages) for conversation in plan.file.conversations),
            messages=sum(len(conversation.messages) for conversation in plan.file.conversations),
            verified=False,
            not_stored=plan.file.not_stored,
            not_stored_lines=plan.file.not_stored_lines,
            left_out=plan.file.left_out,
        )
        self._plan, self._client, self._on_progress = plan, client, on_progress
        self._failed: list[EndedTurn] = []
        self._refused: list[EndedTurn] = []
        self._done = 0
        self._running: dict[str, str] = {}  #: session id -> what it waits for
        self._progress_at = time.monotonic()

    async def run(self) -> FeedReport:
        """Feed all conversations. Raises :class:`TurnTimedOutError`, :class:`BrokerUnreachableError`."""
        self._progress_at = time.monotonic()
        self.tell("feeding")
        waiting = iter(self._plan.file.conversations)
        tasks = [asyncio.create_task(self._take(waiting)) for _ in range(self._plan.options.concurrency)]
        try:
            await self._watch(set(tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.report = replace(
            self.report,
            completed=len(self.ended) - len(self._failed),
            failed_turns=tuple(self._failed),
            refused=tuple(self._refused),
        )
        return self.report

    def tell(self, stage: str) -> None:
        """Report progress."""
        self._on_progress(
            FeedProgress(
                stage=stage,
                conversations=self.report.conversations,
                conversations_done=self._done,
                turns=self.report.turns,
                turns_ended=len(self.ended),
            )
        )

    async def _watch(self, pending: set[asyncio.Task[None]]) -> None:
        """Wait for all; an error of one, or a time without progress, ends it."""
        limit_s = self._plan.options.stall_timeout_s
        while pending:
            left_s = self._progress_at + limit_s - time.monotonic()
            if left_s <= 0:
                example = "; ".join(sorted(f"{session} {what}" for session, what in self._running.items())[:3])
                raise TurnTimedOutError(
                    f"no progress for {limit_s:g} s, {len(self.ended)} of {self.report.turns} turns ended; waiting: "
                    f"{example}. Are workers running (`turnlog doctor`)? Feed the file again to go on from here."
                )
            done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if task.cancelled():
                    raise TurnlogError("feeding was cancelled by what it sends with; feed the file again to go on")
                task.result()

    async def _take(self, waiting: Iterator[Conversation]) -> None:
        for conversation in waiting:
            await self._conversation(conversation)
            self._done += 1
            self._running.pop(conversation.session_id, None)
            self.tell("feeding")

    async def _conversation(self, conversation: Conversation) -> None:
        for number, user in enumerate(conversation.user_messages, start=1):
            try:
                await self._turn(conversation, number, user)
                await self._summaries(conversation, number)
            except RequestRefusedError as error:
                self._refused.append(_refusal(conversation, number, error))
                return  # what follows would not be the recording
            finally:
                self._progress_at = time.monotonic()
            self.tell("feeding")

    async def _turn(self, conversation: Conversation, number: int, user: Message) -> None:
        """One turn to its terminal frame. A broker that went away is waited for, up to the stall limit."""
        request_id = self._plan.request_id(conversation, number)
        new_session = None
        if number == 1:
            new_session = NewSession(
                title=conversation.title,
                instructions=conversation.instructions,
                model=self._plan.model(conversation),
                history_max_tokens=-1 if conversation.summaries else None,  # it has its own
                messages=tuple(map(_opening, conversation.opening)),
            )
        self._running[conversation.session_id] = f"turn {number}: nothing heard"
        while True:
            turn = self._client.chat(
                conversation.session_id,
                user.content or (),
                name=user.name,
                request_id=request_id,
                new_session=new_session,
                timeout_s=_TURN_TIMEOUT_S,
                resend_after_s=self._plan.options.resend_after_s,
            )
            try:
                async with turn:
                    async for _ in turn:
                        self._progress_at = time.monotonic()
                        self._running[conversation.session_id] = f"turn {number}: {turn.view.state}"
                    finished = await turn.result()
                break
            except BrokerUnreachableError as error:
                if self._client.failure is not None:
                    raise
                log.warning("session %s, turn %d: %s", conversation.session_id, number, error)
                self._running[conversation.session_id] = f"turn {number}: {error}"
                await asyncio.sleep(_RECONNECT_PAUSE_S)
        self.ended.add((conversation.session_id, request_id))
        if finished.status != "completed":
            self._failed.append(
                EndedTurn(
                    session_id=conversation.session_id,
                    turn_number=number,
                    status=finished.status,
                    code=finished.code or finished.status,
                    reason=finished.reason,
                )
            )

    async def _summaries(self, conversation: Conversation, number: int) -> None:
        """Those that stand for messages before the last one of a turn, once it has ended."""
        stored = len(conversation.opening) + sum(map(len, conversation.turns[:number]))
        before = stored - len(conversation.turns[number - 1]) if number > 1 else 0
        for summary in conversation.summaries:
            if not before <= summary.to_seq < stored:
                continue
            request_id = self._plan.summary_id(conversation, summary.to_seq)
            self._running[conversation.session_id] = f"summary up to message {summary.to_seq}: nothing heard"
            while True:
                try:
                    await self._client.compact(
                        conversation.session_id,
                        summary=summary.text,
                        to_seq=summary.to_seq,
                        request_id=request_id,
                        timeout_s=_TURN_TIMEOUT_S,
                        resend_after_s=self._plan.options.resend_after_s,
                    )
                    break
                except BrokerUnreachableError as error:
                    if self._client.failure is not None:
                        raise
                    log.warning("session %s, a summary: %s", conversation.session_id, error)
                    await asyncio.sleep(_RECONNECT_PAUSE_S)
            self.summarised.add((conversation.session_id, request_id))


def _opening(message: Message) -> InitialMessage:
    return InitialMessage(
        role=message.role,
        content=message.content,
        tool_calls=message.tool_calls,
        tool_call_id=message.tool_call_id,
        name=message.name,
    )


def _refusal(conversation: Conversation, number: int, error: RequestRefusedError) -> EndedTurn:
    reason = error.reason
    if error.code == CONFLICT:
        reason += (
            "; this file was fed here before with another --model or --delta-ms: repeat those to go on with it "
            "(--verify compares it as it is), or feed it anew under another topic prefix"
        )
    elif error.code == "model_not_allowed":
        reason += "; a refusal is kept for its request id: once the workers allow the model, use another topic prefix"
    return EndedTurn(
        session_id=conversation.session_id, turn_number=number, status="refused", code=error.code, reason=reason
    )
