"""Feeding recorded conversations through Kafka, and proving that the stored histories are the recordings.

Each conversation is one session (``feed-ID``), each user message one request, whose id is made of the file's digest and
the message's position: a second run changes nothing. One turn at a time per session; sessions side by side.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb

from turnlog.client import Client
from turnlog.conversations import Conversation, Mismatch, compare
from turnlog.errors import (
    BrokerUnreachableError,
    RequestRefusedError,
    SnapshotBehindError,
    TurnlogError,
    TurnTimedOutError,
)
from turnlog.feed_plan import EndedTurn, FeedPlan, FeedProgress, FeedReport, OnProgress
from turnlog.snapshot_history import Histories, ended_turns
from turnlog_schemas.parts import NewSession, content_text
from turnlog_workers.base.config import Settings

log = logging.getLogger(__name__)
_TURN_TIMEOUT_S = 86_400.0  #: the stall limit is what ends a feed; this is only a bound
_RECONNECT_PAUSE_S = 1.0
_SNAPSHOT_POLL_S = 0.25
_CONFLICT = "conflict"
_SHOWN_DETAILS = 3


async def run_feed(plan: FeedPlan, settings: Settings, on_progress: OnProgress = lambda progress: None) -> FeedReport:
    """Connect, feed and, if asked for, verify.

    Raises :class:`BrokerUnreachableError`, :class:`NotFoundError` (topics), :class:`TurnTimedOutError` (no progress),
    :class:`SnapshotBehindError`.
    """
    async with Client(settings) as client:
        feed = Feed(plan, client, on_progress)
        report = await feed.run()
    return await verify(plan, feed, settings.snapshot) if plan.options.verify else report


class Feed:
    """One run over a file."""

    def __init__(self, plan: FeedPlan, client: Client, on_progress: OnProgress) -> None:
        self.ended: set[tuple[str, str]] = set()  #: (session id, request id) of turns seen to their end
        self.report = FeedReport(
            conversations=len(plan.file.conversations),
            turns=sum(len(conversation.user_messages) for conversation in plan.file.conversations),
            messages=sum(len(conversation.messages) for conversation in plan.file.conversations),
            verified=False,
            not_stored=plan.file.not_stored,
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
                await self._turn(conversation, number, content_text(user.content) or "")
            except RequestRefusedError as error:
                self._refused.append(_refusal(conversation, number, error))
                return  # what follows would not be the recording
            finally:
                self._progress_at = time.monotonic()
            self.tell("feeding")

    async def _turn(self, conversation: Conversation, number: int, text: str) -> None:
        """One turn to its terminal frame. A broker that went away is waited for, up to the stall limit."""
        request_id = self._plan.request_id(conversation, number)
        new_session = None
        if number == 1:
            new_session = NewSession(instructions=conversation.instructions, model=self._plan.model(conversation))
        self._running[conversation.session_id] = f"turn {number}: nothing heard"
        while True:
            turn = self._client.chat(
                conversation.session_id,
                text,
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


def _refusal(conversation: Conversation, number: int, error: RequestRefusedError) -> EndedTurn:
    reason = error.reason
    if error.code == _CONFLICT:
        reason += (
            "; this file was fed here before with another --model or --delta-ms: repeat those to go on with it "
            "(--verify compares it as it is), or feed it anew under another topic prefix"
        )
    elif error.code == "model_not_allowed":
        reason += "; a refusal is kept for its request id: once the workers allow the model, use another topic prefix"
    return EndedTurn(
        session_id=conversation.session_id, turn_number=number, status="refused", code=error.code, reason=reason
    )


# ---- verification


async def verify(plan: FeedPlan, feed: Feed, snapshot: Path) -> FeedReport:
    """Wait for the snapshot to have the terminal event of every fed turn, then compare all histories with the file.

    Raises :class:`SnapshotBehindError`.
    """
    feed.tell("verifying")
    sessions = [conversation.session_id for conversation in plan.file.conversations]
    await _until_published(snapshot, sessions, feed, plan.options.verify_timeout_s)
    mismatches = await asyncio.to_thread(_compare_all, plan, snapshot, sessions)
    different = {mismatch.session_id for mismatch in mismatches}
    # Fed before in another way, and complete: the history is what the file says, so nothing is wrong.
    fed_before = [r for r in feed.report.refused if r.code == _CONFLICT and r.session_id not in different]
    before = {refused.session_id for refused in fed_before}
    turns = sum(len(each.user_messages) for each in plan.file.conversations if each.session_id in before)
    return replace(
        feed.report,
        verified=True,
        users_only=not plan.is_recorded,
        mismatches=tuple(mismatches),
        refused=tuple(refused for refused in feed.report.refused if refused not in fed_before),
        fed_before=tuple(refused.session_id for refused in fed_before),
        turns_fed_before=turns - sum(session_id in before for session_id, _ in feed.ended),
    )


async def _until_published(snapshot: Path, sessions: list[str], feed: Feed, timeout_s: float) -> None:
    """``timeout_s`` is for a snapshot that stands still: many turns may be on their way into it."""
    wanted, least = feed.ended, len(feed.ended) + 1
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            missing = wanted - await asyncio.to_thread(ended_turns, snapshot, sessions)
            if not missing:
                return
            if len(missing) < least:
                least, deadline = len(missing), time.monotonic() + timeout_s
            example = " ".join(min(missing))
            state = f"{len(missing)} of the {len(wanted)} turns that ended are not in it yet, such as {example}"
        except duckdb.Error as error:  # not published yet, or it has no tables yet
            state = str(error)
        if time.monotonic() >= deadline:
            raise SnapshotBehindError(
                f"the snapshot {snapshot} did not catch up, and has stood still for {timeout_s:g} s: {state}. Is the "
                "materializer running (`turnlog materialize`), and is this its snapshot (TURNLOG_SNAPSHOT_PATH)? "
                f"{_what_was_fed(feed.report)}"
            )
        await asyncio.sleep(_SNAPSHOT_POLL_S)


def _what_was_fed(report: FeedReport) -> str:
    """For an error that takes the report's place: it must not hide what the report would have said."""
    if not report.not_fed and not report.failed_turns:
        return "Everything was fed: run the same command again to verify."
    shown = "; ".join(report.details[:_SHOWN_DETAILS])
    more = len(report.details) - _SHOWN_DETAILS
    return f"Not everything was fed to a good end: {report.turns_in_words}. {shown}" + (
        f"; and {more} more" if more > 0 else ""
    )


def _compare_all(plan: FeedPlan, snapshot: Path, sessions: list[str]) -> list[Mismatch]:
    histories = Histories(snapshot, sessions)
    out: list[Mismatch] = []
    for conversation in plan.file.conversations:
        session_id = conversation.session_id
        instructions = histories.instructions.get(session_id)
        history = histories.messages(session_id)
        out += compare(conversation, instructions, history, users_only=not plan.is_recorded)
    return out
