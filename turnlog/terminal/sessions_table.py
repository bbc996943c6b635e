"""Sessions for people: as a table, and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from turnlog.snapshot.listing import ListedSession, age_s
from turnlog.terminal import output
from turnlog_workers.base.counted import counted, duration


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
    """What a session does, and behind it how many turns of it ended otherwise than well, in words."""
    ended = session["completed_turns"] + session["failed_turns"] + session["cancelled_turns"]
    if session["erased_at"] is not None:
        return "erased"
    words = ["archived"] if session["archived"] else []
    if session["running_turn_id"]:
        words.append("running")
    elif session["turns"] > ended:
        words.append("waiting")
    state = ", ".join(words) or "idle"
    wrong = [counted(session[f"{s}_turns"], f"{s} turn") for s in ("failed", "cancelled") if session[f"{s}_turns"]]
    return f"{state} ({', '.join(wrong)})" if wrong else state


def snapshot_age(path: Path) -> str:
    """Since when nothing new was published, for people: a newer one appears only when there is something new."""
    return f"last change published {duration(age_s(path))} ago"
