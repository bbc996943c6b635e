"""``turnlog export``: copies of the published snapshot for other tools."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, snapshot_or_fail
from turnlog.errors import UsageError
from turnlog.terminal import output
from turnlog_workers.base.counted import counted
from turnlog_workers.base.extras import require


class Format(Enum):
    """What the files hold."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    OPENAI = "openai"


Into = Annotated[
    str | None,
    typer.Option(
        "--into",
        metavar="LAKE",
        help="Instead of DIR: ducklake:FILE, or ducklake:postgres:PARAMETERS. Needs the extra lake.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="PLACE", help="Folder or s3://BUCKET/PREFIX of a new lake.", show_default=False),
]


def export(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Folder for the files and their manifest.json.", show_default=False),
    ] = None,
    form: Annotated[
        Format,
        typer.Option(
            "--format", help="parquet and jsonl: the tables, by day. openai: sessions as conversations, one a line."
        ),
    ] = Format.PARQUET,
    into: Into = None,
    data: Data = None,
    schema: Annotated[str, typer.Option("--schema", metavar="NAME", help="Schema of the lake's tables.")] = "main",
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Copy the published snapshot to Parquet, JSON lines, conversations or a DuckLake.

    Run it again to add what is new. A killed export leaves nothing twice and nothing half: the next one goes on.

    Examples: `turnlog export backup` · `turnlog export chats --format openai` ·
    `turnlog export --into ducklake:chats.ducklake --data chats-data`
    """
    if (folder is None) == (into is None):
        raise UsageError("Name a folder, or a lake with --into ducklake:…")
    require("sql", "turnlog export")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    snapshot = snapshot_or_fail(settings)
    if into is not None:
        from turnlog.export.lake import export_to_lake

        report = export_to_lake(snapshot, into, data=data, schema=schema)
    else:
        from turnlog.export.files import export_files

        assert folder is not None
        report = export_files(snapshot, folder, form.value)
    if json:
        output.print_json(report.as_json())
    elif report.rows:
        what = "line" if form is Format.OPENAI and into is None else "row"
        where = counted(report.files, "file")
        if into is not None:
            where = counted(report.files, "table of the lake", "tables of the lake")
        output.print_text(f"{counted(report.rows, what)} in {where}.")
    else:
        output.print_text("Nothing is new.")
