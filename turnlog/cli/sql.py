"""``turnlog sql``: a question to the published snapshot."""

from typing import Annotated

import typer

from turnlog.cli import output
from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, snapshot_or_fail

_TABLE_ROWS = 200


def sql(
    statement: Annotated[str, typer.Argument(metavar="STATEMENT", help='For example "SELECT * FROM sessions".')],
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"At most so many rows, 0 for all. Default: {_TABLE_ROWS} in a table, all with --json and --csv.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.", show_default=False)] = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Query all sessions with SQL (DuckDB), read-only.

    Reads the snapshot that the materializer publishes every few seconds. `turnlog sql "SHOW TABLES"` lists the tables.
    """
    if json and csv:
        raise typer.BadParameter("Use --json or --csv, not both.")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    path = snapshot_or_fail(settings)
    from turnlog.snapshot_sql import open_snapshot, run

    max_rows = limit if limit is not None else (0 if json or csv else _TABLE_ROWS)
    with open_snapshot(path) as connection:
        result = run(connection, statement, max_rows=max_rows)
    if json:
        output.print_json(result.records())
    elif csv:
        output.print_csv(result.columns, result.rows)
    elif statement.lstrip()[:7].lower() == "explain":
        for row in result.rows:
            output.print_text(str(row[-1]))
    elif output.too_wide(result.columns):
        output.print_records(result.columns, result.rows)
    else:
        first = result.rows[0] if result.rows else ()
        numbers = {name for name, value in zip(result.columns, first, strict=False) if _is_number(value)}
        output.print_table(result.columns, result.rows, right=numbers)
    if result.more:
        output.say(f"There are more than {max_rows} rows: --limit 0 shows all.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
