"""A feed for people: its progress, and what came of it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from turnlog.feed.plan import FeedProgress, FeedReport
from turnlog.terminal import output
from turnlog_workers.base.counted import counted


@contextmanager
def progress_bar() -> Iterator[Callable[[FeedProgress], None]]:
    """A bar on standard error while a feed runs; nothing when that is no terminal."""
    on_terminal = output.is_terminal(sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("turns"))
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True, disable=not on_terminal
    ) as bar:
        task = bar.add_task("feeding", total=None)

        def show(progress: FeedProgress) -> None:
            bar.update(task, description=progress.stage, completed=progress.turns_ended, total=progress.turns)

        yield show


def report_line(report: FeedReport) -> str:
    """What came of a feed, in one line."""
    conversations, messages = counted(report.conversations, "conversation"), counted(report.messages, "message")
    counts = f"{conversations}, {report.turns_in_words}, {messages}"
    if not report.verified:
        return f"{counts}; not compared (--verify does)"
    what = " (only what the users said: the model is no recording)" if report.users_only else ""
    return f"{counts} compared with the file{what}: {counted(len(report.mismatches), 'mismatch', 'mismatches')}"
