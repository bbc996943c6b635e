"""The proof of a feed: the histories in the published snapshot are the recordings. Needs DuckDB."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import duckdb

from turnlog.errors import SnapshotBehindError
from turnlog.feed.comparison import Mismatch, compare
from turnlog.feed.conversations import Summary
from turnlog.feed.feeding import Feed
from turnlog.feed.plan import CONFLICT, FeedPlan, FeedReport
from turnlog.snapshot.history import Histories, ended_turns, stored_summaries

_SNAPSHOT_POLL_S = 0.25
_SHOWN_DETAILS = 3


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
    fed_before = [r for r in feed.report.refused if r.code == CONFLICT and r.session_id not in different]
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
    wanted = feed.ended | feed.summarised
    least = len(wanted) + 1
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            missing = wanted - await asyncio.to_thread(ended_turns, snapshot, sessions)
            if missing & feed.summarised:
                missing -= {tuple(row[:2]) for row in await asyncio.to_thread(stored_summaries, snapshot, sessions)}
            if not missing:
                return
            if len(missing) < least:
                least, deadline = len(missing), time.monotonic() + timeout_s
            example = " ".join(min(missing))
            what = "turns that ended and summaries" if feed.summarised else "turns that ended"
            state = f"{len(missing)} of the {len(wanted)} {what} are not in it yet, such as {example}"
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
    summaries: dict[str, list[Summary]] = {}
    if any(conversation.summaries for conversation in plan.file.conversations):
        for session_id, _, from_seq, to_seq, text in stored_summaries(snapshot, sessions):
            made = Summary(from_seq=from_seq, to_seq=to_seq, text=text)
            summaries.setdefault(session_id, []).append(made)
    for conversation in plan.file.conversations:
        session_id = conversation.session_id
        instructions = histories.instructions.get(session_id)
        history = histories.messages(session_id)
        title = histories.titles.get(session_id)
        out += compare(
            conversation,
            instructions,
            history,
            users_only=not plan.is_recorded,
            title=title,
            summaries=summaries.get(session_id, ()),
        )
    return out
