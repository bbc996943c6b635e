"""``turnlog sql``: a question to the published snapshot."""

import json as json_module
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, finite, snapshot_or_fail
from turnlog.cli.proof import file_as_of
from turnlog.cli.sql_prompt import Completer, Prompt, columns_of, line_editing, on_a_terminal
from turnlog.errors import TurnlogError
from turnlog.terminal import output
from turnlog_workers.base.counted import counted
from turnlog_workers.base.extras import require

_TABLE_ROWS = 200
_LONGER_THAN_A_CELL = 1000  #: characters: tables cut cells by themselves


Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        help=f"Maximum number of rows; 0: all. Default: {_TABLE_ROWS} in a table, all with --json and --csv.",
        show_default=False,
    ),
]
Null = Annotated[
    str,
    typer.Option("--null", metavar="TEXT", help='What --csv prints for NULL; a text equal to it is quoted, as "" is.'),
]
TimeoutS = Annotated[
    float,
    typer.Option(
        "--timeout-s",
        metavar="SECONDS",
        min=0.0,
        callback=finite,
        help="Stop the query after this many seconds (exit code 6); 0: never.",
    ),
]
MemoryMb = Annotated[
    int, typer.Option("--memory-mb", metavar="MB", min=128, help="Stop the query if it needs more memory than this.")
]
BatchRows = Annotated[
    int,
    typer.Option(
        "--batch-rows",
        metavar="ROWS",
        min=1,
        max=100_000,
        help="Rows held in memory at a time: output starts before the query ends; a "
        "table repeats its header after this many.",
    ),
]


AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="TIME",
        help="Ask about a moment of the past, from the log: 2026-11-29T12:00 (UTC without a zone), 90m (ago), or an "
        "event as PARTITION:OFFSET. The first question of a moment takes longer.",
        show_default=False,
    ),
]


Csv = Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.", show_default=False)]


def sql(
    statement: Annotated[
        str | None,
        typer.Argument(
            metavar="[STATEMENT]",
            help='For example "SELECT * FROM sessions". Without one: a prompt, or what standard input says.',
            show_default=False,
        ),
    ] = None,
    limit: Limit = None,
    json: Json = False,
    csv: Csv = False,
    null: Null = "",
    as_of: AsOf = None,
    timeout_s: TimeoutS = 30.0,
    memory_mb: MemoryMb = 512,
    batch_rows: BatchRows = 1000,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Query all sessions with SQL (DuckDB), read-only.

    Reads the snapshot that the materializer publishes every few seconds. `turnlog sql "SHOW TABLES"` lists the tables.
    Times are in UTC. --json and --csv lose no value: docs/analysts.md says how each is written.
    """
    if json and csv:
        raise typer.BadParameter("Use --json or --csv, not both.")
    require("sql", "turnlog sql")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    past = file_as_of(settings, as_of) if as_of is not None else None
    answer = _Answer(limit, null, timeout_s, memory_mb, batch_rows)
    mode = "json" if json else "csv" if csv else "table"
    if statement is None and on_a_terminal():
        _prompt(lambda: past or snapshot_or_fail(settings), answer, mode)
    else:
        answer.print(past or snapshot_or_fail(settings), sys.stdin.read() if statement is None else statement, mode)


def _prompt(newest: Callable[[], Path], answer: "_Answer", mode: str) -> None:
    """Ask for statements and answer them; each is asked of the newest snapshot."""
    columns = columns_of(newest())
    prompt = Prompt(columns, mode)
    output.say("Statements end with ; and .help says more. Ctrl-D ends.")
    with line_editing(Completer(columns)):
        for statement in prompt.statements():
            try:
                answer.print(newest(), statement, prompt.mode)
            except TurnlogError as error:
                output.say(str(error))
            except KeyboardInterrupt:
                output.say("Stopped.")


@dataclass(frozen=True, slots=True)
class _Answer:
    """How statements are answered."""

    limit: int | None
    null: str
    timeout_s: float
    memory_mb: int
    batch_rows: int

    def print(self, path: Path, statement: str, mode: str) -> None:
        """Raises :class:`TurnlogError`, ``typer.Exit`` if nobody reads it to its end."""
        from turnlog.snapshot.query import Bounds, Form, SnapshotQuery

        whole = mode != "table"
        max_rows = self.limit if self.limit is not None else (0 if whole else _TABLE_ROWS)
        explain = statement.lstrip()[:7].lower() == "explain"
        forms: dict[str, Form] = {"json": "json", "csv": "csv"}
        query = SnapshotQuery(
            path,
            statement,
            form=forms.get(mode, "rows"),
            bounds=Bounds(
                timeout_s=self.timeout_s, memory_mb=self.memory_mb, batch_rows=self.batch_rows, max_rows=max_rows
            ),
            null=self.null,
            max_cell=0 if explain else _LONGER_THAN_A_CELL,
        )
        try:
            with _ended_by_sigterm(), query:
                if whole:
                    _pass_on(query)
                elif explain:
                    for row in islice(_lines(query), 1, None):
                        output.print_text(str(row[-1]))
                else:
                    _print_tables(_lines(query), self.batch_rows)
        except BrokenPipeError:
            # Whoever reads has enough. Python would complain of what is left in its buffer.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None
        for note in query.notes:
            output.say(f"note: {note}")
        if query.more:
            output.say(
                f"There {'is' if max_rows == 1 else 'are'} more than {counted(max_rows, 'row')}: --limit 0 shows all."
            )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """As any error would: the query's process and what it has on disk go, too."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pass_on(pieces: Iterable[bytes]) -> None:
    """UTF-8 whatever the terminal's encoding: that is what JSON is in, and CSV has no other place to say."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def _lines(pieces: Iterable[bytes]) -> Iterator[Any]:
    left = b""
    for piece in pieces:
        *lines, left = (left + piece).split(b"\n")
        yield from map(json_module.loads, lines)


def _print_tables(lines: Iterator[Any], batch_rows: int) -> None:
    described: list[Any] = next(lines, [])
    columns = [str(name) for name, _ in described]
    numbers = {name for name, numeric in described if numeric}
    wide = output.too_wide(columns)
    number = 0
    while (rows := list(islice(lines, batch_rows))) or not number:
        if wide:
            output.print_records(columns, rows, first=number + 1)
        else:
            output.print_table(columns, rows, right=numbers)
        number += len(rows) or 1
