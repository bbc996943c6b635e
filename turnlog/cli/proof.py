"""``turnlog verify``, ``rebuild`` and ``diff``: what the tables say is what the log says, now and at any moment."""

import json as json_module
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings
from turnlog.errors import EXIT_FAILED, TurnlogError, UsageError
from turnlog.terminal import output
from turnlog_workers.base.counted import counted
from turnlog_workers.base.extras import require

if TYPE_CHECKING:
    from turnlog.snapshot.difference import SessionDifference
    from turnlog_workers.base.config import Settings
    from turnlog_workers.materializer.rebuilding import Progress
    from turnlog_workers.materializer.verification import Verification

_CELL = 300  #: characters of a value in a difference


def report(progress: "Progress") -> None:
    """A line of progress, on standard error."""
    output.say(f"reading the log: {progress.describe()}")


@contextmanager
def _failures() -> Iterator[None]:
    """What the rooms below cannot go on with ends the command with its sentence."""
    from turnlog_streams.projection.state import ProjectionError
    from turnlog_workers.base.ports import LogError
    from turnlog_workers.store.database_files import FileLockedError
    from turnlog_workers.store.port import StoreError

    try:
        yield
    except FileLockedError as error:
        raise TurnlogError(f"{error}: is this command running twice?") from error
    except (LogError, StoreError, ProjectionError) as error:
        raise TurnlogError(str(error)) from error


def verify(
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Prove that the published snapshot is what the log says: rebuild it, compare it table by table.

    Exit code 1 with the first difference: the table, the key, the row in the snapshot and the row from the log. Nothing
    is changed; the materializer may run.
    """
    require("worker", "turnlog verify")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    from turnlog_workers.materializer.verification import verify as run_verify

    with _failures():
        found = run_verify(
            settings, settings.snapshot, report=report, comparing=lambda table: output.say(f"comparing {table}")
        )
    if json:
        output.print_json(_verification(found))
    elif found.difference is None:
        records = sum(found.positions.values())
        output.print_text(
            f"No difference: {counted(found.rows, 'row')} in {counted(len(found.tables), 'table')} of "
            f"{settings.snapshot}: what the "
            f"{counted(records, 'record')} of the log in {counted(len(found.positions), 'partition')} say."
        )
    else:
        _print_difference(found)
    if found.difference is not None:
        raise typer.Exit(EXIT_FAILED)


def _verification(found: "Verification") -> dict[str, Any]:
    difference = found.difference
    return {
        "equal": difference is None,
        "positions": {str(partition): offset for partition, offset in found.positions.items()},
        "tables": [{"table": table.table, "rows": table.rows, "md5": table.md5} for table in found.tables],
        "difference": None
        if difference is None
        else {
            "table": difference.table,
            "key": difference.key,
            "columns": difference.columns,
            "snapshot": list(difference.left),
            "log": list(difference.right),
        },
    }


def _print_difference(found: "Verification") -> None:
    difference = found.difference
    assert difference is not None
    output.print_text(f"Table {difference.table} differs at {_line(difference.key)}")
    if difference.columns:
        output.print_text(f"in {', '.join(difference.columns)}:")
    for name, rows in (("snapshot", difference.left), ("log", difference.right)):
        for row in rows or [{}]:
            output.print_text(f"{name}: {_line(row) if row else 'no such row'}")
    output.print_text(
        "`turnlog rebuild` makes the file anew from the log. Please report it: within one version this should not be."
    )


def _line(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_cell(value)}" for name, value in row.items())


def _cell(value: object) -> str:
    text = json_module.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


def rebuild(
    until: Annotated[
        list[str] | None,
        typer.Option(
            "--until",
            metavar="TIME|P:OFFSET",
            help="Stop at a moment: a time (2026-11-29T12:00, UTC without a zone; 90m: ago), or right after the event "
            "at OFFSET of partition P. Needs --into. P:OFFSET may be repeated.",
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="FILE", help="Make this file, and leave the live one alone.", dir_okay=False),
    ] = None,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Make the analysts' file anew from the log, beside the live one, then put it in its place.

    Stopped or killed, it goes on where it was when it is run again. A materializer may run: it takes the new file over.

    Examples: `turnlog rebuild`; `turnlog rebuild --until 2026-11-29T12:00 --into noon.duckdb`;
    `turnlog rebuild --until 3:1042 --into then.duckdb`
    """
    require("worker", "turnlog rebuild")
    if until and into is None:
        raise UsageError("--until: name the file with --into; the live one always goes on with the log")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    if into is None:
        _rebuild_live(settings)
        return
    from turnlog_workers.materializer.moments import make_file, parse_until

    if into.exists():
        raise UsageError(f"{into} exists: remove it, or name another file")
    wanted = parse_until(until, now=datetime.now(UTC)) if until else None
    with _failures():
        make_file(settings, into, wanted, report)
    output.print_text(f"{into} is made{f', as of {wanted.mark}' if wanted else ''}.")


def _rebuild_live(settings: "Settings") -> None:
    from turnlog_workers.materializer.live_rebuild import rebuild_live

    with _failures():
        done = rebuild_live(settings, report)
    output.print_text(f"{done.progress.describe()}: {done.outcome}")


_First = Annotated[Path, typer.Argument(metavar="FILE", help="A snapshot, or what `turnlog rebuild --into` made.")]
_Second = Annotated[Path, typer.Argument(metavar="FILE", help="What it is compared with, as a rule a later one.")]
_COUNTS = ("state", "turns", "messages", "failed_turns", "cancelled_turns", "title", "model", "covered_to")


def diff(before: _First, after: _Second, json: Json = False, verbose: Verbose = False) -> None:
    """Show which sessions differ between two files, and in what: counts, state, turns, messages.

    Needs no broker. Exit code 0 whether they differ or not.

    Example: `turnlog rebuild --until 1h --into then.duckdb; turnlog diff then.duckdb turnlog-data/snapshot.duckdb`
    """
    require("sql", "turnlog diff")
    from turnlog.snapshot.difference import differences

    found = differences(before, after)
    if json:
        output.print_json([asdict(session) for session in found])
        return
    for session in found:
        shown = [
            f"{name} {_cell(old)} → {_cell(new)}" for name, (old, new) in session.columns.items() if name in _COUNTS
        ]
        others = [name for name in session.columns if name not in _COUNTS]
        output.print_text(f"{session.session_id}  {session.change}  {', '.join(shown or others)}")
        for turn in session.turns:
            output.print_text(f"  turn {turn.turn_id}: {turn.before or 'none'} → {turn.after or 'none'}")
        for message in session.messages:
            sign = {"added": "+", "removed": "-", "changed": "~"}[message.change]
            output.print_text(f"  {sign} {message.message_seq} {message.role}: {_cell(message.content)}")
    kinds = Counter(session.change for session in found)
    changes = ", ".join(f"{kinds[kind]} {kind}" for kind in ("added", "changed", "removed"))
    differ = f"{counted(len(found), 'session')} {'differs' if len(found) == 1 else 'differ'}"
    output.say(f"{differ}: {changes}" if found else "no session differs")


def _columns(session: "SessionDifference") -> str:
    """What people look at; if only the rest differs, its names."""
    place = {"added": 1, "removed": 0}.get(session.change)
    shown = [
        f"{name} {_cell(old)} → {_cell(new)}" if place is None else f"{name} {_cell((old, new)[place])}"
        for name, (old, new) in session.columns.items()
        if name in _COUNTS
    ]
    return ", ".join(shown or session.columns)


def file_as_of(settings: "Settings", moment: str) -> Path:
    """The file of a moment of the past, made where it is missing."""
    require("worker", "turnlog sql --as-of")
    from turnlog_workers.materializer import moments

    wanted = moments.parse_until([moment], now=datetime.now(UTC))
    with _failures():
        return moments.file_as_of(settings, wanted, report)
