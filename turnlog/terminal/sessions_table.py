"""Sessions for people: as a table, and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from turnlog.snapshot.listing import ListedSession, age_s
from turnlog.terminal import output


def print_sessions(sessions: Sequence[ListedSession]) -> None:
    """A table of sessions for people."""
    columns = ("session", "title", "turns", "messages", "last active (UTC)", "state")
    rows = [
        (
            session.session_id,
            session.title,
            session.turns,
            session.messages,
            session.last_active_at.strftime("%Y-%m-%d %H:%M"),
            session_state(asdict(session)),
        )
        for session in sessions
    ]
    output.print_table(columns, rows, right=("turns", "messages"), elastic="title")


def session_state(session: Mapping[str, Any]) -> str:
    """What a session does, and how turns of it ended, in words."""
    words = ["archived"] if session["archived"] else []
    if session["running_turn_id"]:
        words.append("running")
    words += [f"{session[f'{s}_turns']} {s}" for s in ("failed", "cancelled") if session[f"{s}_turns"]]
    return ", ".join(words) or "idle"


def snapshot_age(path: Path) -> str:
    """How old the snapshot is, for people: a newer one appears only when there is something new."""
    return f"snapshot published {age_s(path):.0f} s ago"
