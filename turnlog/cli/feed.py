"""``turnlog feed``: recorded conversations through Kafka, and the proof that nothing of them got lost."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, refuse_unservable
from turnlog.terminal import output
from turnlog_workers.base.counted import counted
from turnlog_workers.base.extras import require

_MAX_DETAILS = 20


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="The model that answers: recorded:FILE (each session gets its own "
        "#ID) or any other. Default: the file itself.",
        show_default=False,
    ),
]
Skip = Annotated[
    bool, typer.Option("--skip", help="Leave out conversations that cannot be stored.", show_default=False)
]


def feed(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Conversations, one per line: OpenAI's chat or fine-tuning format, or ShareGPT."
        ),
    ],
    model: Model = None,
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
    skip: Skip = False,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Send recorded conversations, each as a session feed-ID, and wait until all have ended.

    Sessions run side by side, the turns of each in order. Running it again changes nothing: request ids come from the
    file. A line without an id gets one made of it. What no history keeps is said by line.

    Examples: `turnlog feed talks.jsonl --verify` · `turnlog feed tuning.jsonl --model echo:`
    """
    if verify:
        require("sql", "turnlog feed --verify")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    refuse_unservable(settings, model)
    from turnlog.feed.feeding import run_feed
    from turnlog.feed.plan import FeedOptions, plan_feed
    from turnlog.terminal.feed_progress import progress_bar, report_line

    plan = plan_feed(file, FeedOptions(model=model, delta_ms=delta_ms, verify=verify, skip=skip))
    with progress_bar() as on_progress:
        report = asyncio.run(run_feed(plan, settings, on_progress))
    if json:
        output.print_json(report.as_json())
    else:
        output.print_text(report_line(report))
    _say("not fed", report.left_out)
    _say("not stored", report.not_stored_lines)
    for detail in report.details[:_MAX_DETAILS]:
        output.say(detail)
    raise typer.Exit(report.exit_code)


def _say(what: str, lines: tuple[str, ...]) -> None:
    for line in lines[:_MAX_DETAILS]:
        output.say(f"{what}: {line}")
    if len(lines) > _MAX_DETAILS:
        output.say(f"{what}: and something of {counted(len(lines) - _MAX_DETAILS, 'more line')}")
