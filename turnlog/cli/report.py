"""``turnlog report``: the newest days of the snapshot as a page."""

import contextlib
import webbrowser
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Prefix, Verbose, client_settings, snapshot_or_fail
from turnlog.errors import TurnlogError
from turnlog.terminal import output
from turnlog_workers.base.extras import require


def report(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the page.")] = Path(
        "turnlog-report.html"
    ),
    days: Annotated[int, typer.Option("--days", min=1, max=1000, help="Days before the newest event.")] = 30,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.", show_default=False)] = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Write a page with plots: activity, latency, cost, tools, history compaction, failures.

    One HTML file that fetches nothing and runs nothing: it can be sent around. It has session ids and reasons of
    failures, no messages.

    Examples: `turnlog report --open` · `turnlog report week.html --days 7`
    """
    require("sql", "turnlog report")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    snapshot = snapshot_or_fail(settings)
    from turnlog.report.figures import figures_of
    from turnlog.report.page import page

    text = page(figures_of(snapshot, days), days=days, made_at=datetime.now(UTC))
    new = file.with_name(f"{file.name}.tmp")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise TurnlogError(f"{file} cannot be written: {error.strerror or error}") from error
    output.print_text(f"Written: {file}")
    if open_it and not webbrowser.open(file.absolute().as_uri()):
        output.say("There is no browser to open it with.")
