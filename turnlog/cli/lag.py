"""``turnlog lag``: what waits in each partition, for whom, and since when."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnlog.cli.common import Bootstrap, DataDir, Json, Prefix, Verbose, client_settings, finite
from turnlog.errors import EXIT_FAILED, EXIT_OK, TurnlogError
from turnlog.terminal import output
from turnlog_workers.base.counted import counted, duration
from turnlog_workers.base.extras import installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnlog.client.lag import Lag
    from turnlog_workers.base.config import Settings


def lag(
    max_waiting: Annotated[
        int | None,
        typer.Option("--max", metavar="COUNT", min=0, help="Exit code 1 if more requests wait in a partition."),
    ] = None,
    max_age_s: Annotated[
        float | None,
        typer.Option(
            "--max-age-s",
            metavar="SECONDS",
            min=0,
            callback=finite,
            help="Exit code 1 if a request has waited for longer.",
        ),
    ] = None,
    max_behind: Annotated[
        int | None,
        typer.Option(
            "--max-behind", metavar="COUNT", min=0, help="Exit code 1 if the snapshot here lacks more events of one."
        ),
    ] = None,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Show how many requests wait in each partition, how old the oldest is, who owns it, and how far the snapshot is.

    A request waits until an owner has decided it: a chat that is queued or running does not. Without --max and its
    like the exit code is 0 whatever waits.
    """
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    found, snapshot = measure(settings)
    problems = exceeded(found, max_waiting=max_waiting, max_age_s=max_age_s, max_behind=max_behind)
    if max_behind is not None and found.behind is None:
        problems.append(f"the snapshot's lag is not known: {snapshot}")
    if json:
        output.print_json({**document_of(found), "snapshot": snapshot, "exceeded": problems})
    else:
        _print(found)
        output.say(f"{summary(found)}; snapshot: {snapshot}")
        for problem in problems:
            output.say(problem)
    raise typer.Exit(EXIT_FAILED if problems else EXIT_OK)


def measure(settings: "Settings") -> "tuple[Lag, str]":
    """How it stands, and what is to be said of the snapshot. Raises as :func:`turnlog.client.lag.measure_lag`."""
    from turnlog.client.lag import measure_lag

    positions, told = positions_of(settings)
    return asyncio.run(measure_lag(settings, positions)), told


def positions_of(settings: "Settings") -> "tuple[Mapping[int, int] | None, str]":
    """How far the snapshot here is, and a few words on it. Blocks."""
    if not installed("sql"):
        return None, "not looked at (pip install 'turnlog[sql]')"
    from turnlog.snapshot.positions import read_positions
    from turnlog.terminal.sessions_table import snapshot_age

    try:
        positions = read_positions(settings.snapshot, settings.topics.events)
    except TurnlogError as error:
        return None, str(error)
    if positions is None:
        there = f"{settings.snapshot} is another deployment's" if settings.snapshot.exists() else "none here"
        return None, there
    return positions, snapshot_age(settings.snapshot)


def exceeded(found: "Lag", *, max_waiting: int | None, max_age_s: float | None, max_behind: int | None) -> list[str]:
    """A sentence for each partition that is above a bound."""
    problems = []
    for each in found.partitions:
        if max_waiting is not None and each.waiting > max_waiting:
            problems.append(
                f"partition {each.partition}: {counted(each.waiting, 'request')} wait, more than {max_waiting:,}"
            )
        if max_age_s is not None and (each.oldest_age_s or 0) > max_age_s:
            age = duration(each.oldest_age_s or 0)
            problems.append(f"partition {each.partition}: a request has waited for {age}, longer than {max_age_s:g} s")
        if max_behind is not None and (each.behind or 0) > max_behind:
            events = counted(each.behind or 0, "event")
            problems.append(f"partition {each.partition}: the snapshot lacks {events}, more than {max_behind:,}")
    return problems


def summary(found: "Lag") -> str:
    """How much waits, and for how many workers."""
    waits = f"{counted(found.waiting, 'request')} {'waits' if found.waiting == 1 else 'wait'}"
    age = "" if found.oldest_age_s is None else f", the oldest for {duration(found.oldest_age_s)}"
    if found.members is None:
        return f"{waits}{age}; the broker does not tell of the workers"
    return f"{waits}{age}; {counted(found.members, 'worker')} in the group"


def document_of(found: "Lag") -> dict[str, Any]:
    """The lag as JSON."""
    return {
        "waiting": found.waiting,
        "oldest_age_s": found.oldest_age_s,
        "workers": found.members,
        "behind": found.behind,
        "partitions": [
            {
                "partition": each.partition,
                "requests_end": each.requests_end,
                "decided": each.decided,
                "waiting": each.waiting,
                "oldest_age_s": each.oldest_age_s,
                "owner": each.owner,
                "log_end": each.log_end,
                "materialized": each.materialized,
                "behind": each.behind,
            }
            for each in found.partitions
        ],
    }


def _print(found: "Lag") -> None:
    def told(value: object) -> str:
        return "-" if value is None else str(value)

    rows = [
        (
            str(each.partition),
            str(each.requests_end),
            str(each.decided),
            str(each.waiting),
            "-" if each.oldest_age_s is None else duration(each.oldest_age_s),
            told(each.owner),
            told(each.log_end),
            told(each.behind),
        )
        for each in found.partitions
    ]
    output.print_table(
        ("partition", "requests", "decided", "waiting", "oldest", "owner", "events", "snapshot lacks"),
        rows,
        right=("partition", "requests", "decided", "waiting", "events", "snapshot lacks"),
    )
