"""``turnlog feed``: recorded conversations through Kafka, and the proof that nothing of them got lost."""

import asyncio
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.cli import output
from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, refuse_unservable
from turnlog_workers.base.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnlog.feed_plan import FeedProgress, FeedReport

_MAX_DETAILS = 20


def feed(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help='A conversation a line: {"id": …, "messages": […]}, OpenAI chat format.'),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Who answers: recorded:FILE (each session gets its own #ID) or any model. Default: the fed file.",
            show_default=False,
        ),
    ] = None,
    delta_ms: Annotated[
        int | None,
        typer.Option("--delta-ms", min=0, help="Pace of the recording, milliseconds a word.", show_default=False),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Then compare the materialized histories with the file, message for message.",
            show_default=False,
        ),
    ] = False,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Send recorded conversations, each as a session feed-ID, and wait for their ends.

    Sessions run side by side, turns of one in order. Running it again changes nothing: request ids come from the file.
    """
    if verify:
        require("sql", "turnlog feed --verify")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    refuse_unservable(settings, model)
    from turnlog.feed_plan import FeedOptions, plan_feed
    from turnlog.feeding import run_feed

    plan = plan_feed(file, FeedOptions(model=model, delta_ms=delta_ms, verify=verify))
    with progress_bar() as on_progress:
        report = asyncio.run(run_feed(plan, settings, on_progress))
    if json:
        output.print_json(report.as_json())
    else:
        output.print_text(report_line(report))
    for detail in report.details[:_MAX_DETAILS]:
        output.say(detail)
    raise typer.Exit(report.exit_code)


@contextmanager
def progress_bar() -> "Iterator[Callable[[FeedProgress], None]]":
    """A bar on standard error while a feed runs; nothing when that is no terminal."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    on_terminal = output.is_terminal(sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("turns"))
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True, disable=not on_terminal
    ) as bar:
        task = bar.add_task("feeding", total=None)

        def show(progress: "FeedProgress") -> None:
            bar.update(task, description=progress.stage, completed=progress.turns_ended, total=progress.turns)

        yield show


def report_line(report: "FeedReport") -> str:
    """What came of a feed, in one line."""
    counts = f"{report.conversations} conversations, {report.turns_in_words}, {report.messages} messages"
    if not report.verified:
        return f"{counts}; not compared (--verify does)"
    what = " (only what the users said: the model is no recording)" if report.users_only else ""
    return f"{counts} compared with the file{what}: {len(report.mismatches)} mismatches"
