"""``turnlog feed``: recorded conversations through Kafka, and the proof that nothing of them got lost."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, refuse_unservable
from turnlog.terminal import output
from turnlog_workers.base.extras import require

_MAX_DETAILS = 20


def feed(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help='One conversation per line: {"id": …, "messages": […]}, in the OpenAI chat format.'
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The model that answers: recorded:FILE (each session gets its own "
            "#ID) or any other. Default: the file itself.",
            show_default=False,
        ),
    ] = None,
    delta_ms: Annotated[
        int | None,
        typer.Option("--delta-ms", min=0, help="Pace of the recording in milliseconds per word.", show_default=False),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Afterwards compare the stored histories with the file, message by message.",
            show_default=False,
        ),
    ] = False,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Send recorded conversations, each as a session feed-ID, and wait until all have ended.

    Sessions run side by side, the turns of each in order. Running it again changes nothing: request ids come from the
    file.
    """
    if verify:
        require("sql", "turnlog feed --verify")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    refuse_unservable(settings, model)
    from turnlog.feed.feeding import run_feed
    from turnlog.feed.plan import FeedOptions, plan_feed
    from turnlog.terminal.feed_progress import progress_bar, report_line

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
