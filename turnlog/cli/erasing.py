"""``turnlog sessions erase``: sessions by their ids, or all of somebody's."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from turnlog.cli.common import (
    Bootstrap,
    DataDir,
    Json,
    Prefix,
    TimeoutS,
    Verbose,
    client_settings,
    metadata_of,
    snapshot_or_fail,
)
from turnlog.cli.lifecycle import ask_once
from turnlog.errors import NotFoundError, RequestRefusedError, TurnlogError, UsageError
from turnlog.terminal import output
from turnlog_workers.base.counted import counted
from turnlog_workers.base.extras import require

if TYPE_CHECKING:
    from turnlog.client.async_client import Client
    from turnlog.client.session_info import ErasureReceipt
    from turnlog_workers.base.config import Settings

_LEFT = {
    "requests_kept_ms": "requests",
    "replies_kept_ms": "replies",
    "dead_letters_kept_ms": "dead letters",
    "key_kept_ms": "the bytes of the dropped key, at the broker",
}


def erase(
    session_ids: Annotated[
        list[str] | None, typer.Argument(metavar="SESSION...", help="Their ids.", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--meta",
            metavar="NAME=VALUE",
            help="All sessions with this metadata, archived ones too, as the snapshot has it: --meta user_id=ada.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", show_default=False)] = False,
    timeout_s: TimeoutS = 60.0,
    json: Json = False,
    bootstrap_server: Bootstrap = None,
    data_dir: DataDir = None,
    prefix: Prefix = None,
    verbose: Verbose = False,
) -> None:
    """Make every text of sessions unreadable, for good, in the log and all that is made of it.

    Only where texts are sealed (TURNLOG_SEAL_TEXTS, when the topics are made). What is left, and until when, is told.
    """
    if bool(session_ids) == bool(metadata):
        raise UsageError("Name sessions by their ids, or all of somebody's with --meta NAME=VALUE.")
    settings = client_settings(bootstrap_server, data_dir, prefix, verbose=verbose)
    wanted = list(dict.fromkeys(session_ids)) if session_ids else _of(settings, metadata_of(metadata) or {})
    if not yes:
        typer.confirm(f"Erase {counted(len(wanted), 'session')} for good: {_shown(wanted)}?", abort=True, err=True)

    receipts: dict[str, ErasureReceipt] = {}
    errors: dict[str, TurnlogError] = {}

    async def all_of_them(client: "Client") -> None:
        for session_id in wanted:
            try:
                receipts[session_id] = await client.erase(session_id, timeout_s=timeout_s)
            except TurnlogError as error:
                errors[session_id] = error
                if not isinstance(error, RequestRefusedError):
                    return  # of the broker or the workers: the others would wait as long

    ask_once(settings, all_of_them)
    _tell(receipts, json=json, by_user=not session_ids)
    for session_id, error in errors.items():
        output.say(f"session {session_id} is not erased: {error}")
    if errors:
        if len(wanted) > 1:
            output.say(f"{len(receipts)} of {counted(len(wanted), 'session')} are erased: run it again for the others")
        raise next(iter(errors.values()))


def _tell(receipts: "dict[str, ErasureReceipt]", *, json: bool, by_user: bool) -> None:
    if json:
        output.print_json({session_id: asdict(receipt) for session_id, receipt in receipts.items()})
        return
    for session_id in receipts:
        output.print_text(session_id)
        output.say(f"session {session_id} is erased")
    for line in what_is_left(next(reversed(receipts.values()))) if receipts else ():
        output.say(line)
    if receipts and by_user:
        output.say("sessions that are newer than the snapshot were not looked at: run it again in a minute")


def _of(settings: "Settings", metadata: dict[str, str]) -> list[str]:
    require("sql", "turnlog sessions erase --meta")
    from turnlog.snapshot.listing import SessionFilter, list_sessions

    which = SessionFilter(include_archived=True, metadata=metadata)
    found = list_sessions(snapshot_or_fail(settings), which, limit=0)
    if not found.sessions:
        told = ", ".join(f"{name}={value}" for name, value in metadata.items())
        raise NotFoundError(f"The snapshot, {found.snapshot_age_s:.0f} s old, has no session with {told}.")
    return [session.session_id for session in found.sessions]


def _shown(session_ids: list[str]) -> str:
    shown = ", ".join(session_ids[:10])
    return shown if len(session_ids) <= 10 else f"{shown} and {len(session_ids) - 10} more"


def what_is_left(receipt: "ErasureReceipt") -> list[str]:
    """Lines for people: what an erasure does not reach, and when it is gone."""
    now = datetime.now(UTC)
    lines = []
    for name, what in _LEFT.items():
        kept_ms = getattr(receipt, name)
        if kept_ms < 0:
            lines.append(f"still there: {what}, for ever, as their topic keeps everything: delete them by hand")
        elif kept_ms:
            lines.append(f"still there: {what}, until {now + timedelta(milliseconds=kept_ms):%Y-%m-%d %H:%M} UTC")
    lines.append("exports and backups that were made are not reached: run `turnlog export` again, drop old backups")
    return lines
