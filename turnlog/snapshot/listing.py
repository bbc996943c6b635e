"""Listing sessions from the published snapshot: filtered, paged by key, with how far the snapshot is behind."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from turnlog.errors import NotFoundError, UsageError
from turnlog_workers.base.extras import require

_COLUMNS = (
    "session_id, title, channel, model, metadata, archived, erased_at, active, turns, completed_turns, failed_turns, "
    "cancelled_turns, running_turn_id, messages, covered_to, input_tokens, output_tokens, created_at, last_active_at"
)

#: ``running``: a turn is at work; ``waiting``: one is accepted and none at work; ``idle``: neither. ``failed``: the
#: newest turn that ended has failed. ``archived``: it takes no more messages (named, it brings archived ones in).
State = Literal["running", "waiting", "idle", "failed", "archived"]
STATES: tuple[State, ...] = get_args(State)
_NEWEST_ENDED = (
    "(SELECT arg_max(status, accepted_offset) FROM internal.turns t WHERE t.partition = sessions.partition "
    "AND t.session_offset = sessions.session_offset AND ended_offset IS NOT NULL)"
)
_TEXT = (
    "(contains(lower(session_id), ?) OR contains(lower(title), ?) OR EXISTS (SELECT 1 FROM messages WHERE "
    "messages.partition = sessions.partition AND messages.session_offset = sessions.session_offset "
    "AND contains(lower(content), ?)))"
)
_OPEN = "turns > completed_turns + failed_turns + cancelled_turns"
_STATE_CONDITIONS: dict[State, str] = {
    "running": "running_turn_id IS NOT NULL",
    "waiting": f"running_turn_id IS NULL AND {_OPEN}",
    "idle": f"NOT ({_OPEN})",
    "failed": f"failed_turns > 0 AND {_NEWEST_ENDED} = 'failed'",
    "archived": "archived",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Which sessions; all conditions hold."""

    include_archived: bool = False
    channel: str | None = None
    no_channel: bool = False  #: only those that belong to none
    metadata: Mapping[str, str] | None = None  #: the session has these, and maybe more
    active_since: datetime | None = None  #: its last activity was then or later; without a zone: UTC
    active_before: datetime | None = None
    state: State | None = None
    text: str | None = None  #: in its id, its title or a message, whatever the case of letters
    id_prefix: str = ""  #: of its id


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSession:
    """A session as the snapshot has it. Times are the workers' clocks, UTC."""

    session_id: str
    title: str | None
    channel: str | None  #: ``None``: it belongs to none
    model: str | None
    metadata: Mapping[str, str]
    archived: bool
    active: bool | None  #: is it its channel's active session? ``None``: it has no channel
    turns: int  #: accepted
    completed_turns: int
    failed_turns: int
    cancelled_turns: int
    running_turn_id: str | None
    messages: int
    covered_to: int  #: the newest summary stands for the messages up to this number; 0: there is none
    input_tokens: int
    output_tokens: int
    created_at: datetime
    last_active_at: datetime
    erased_at: datetime | None = None  #: its texts are gone


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionList:
    """A page of sessions, the most recently active first."""

    sessions: tuple[ListedSession, ...]
    total: int  #: that pass the filter, on all pages
    next_after: str | None  #: give it as ``after`` for the next page; ``None``: there is none
    snapshot_age_s: float  #: since it was published; a newer one appears only when there is something new
    lag_events: int | None = None  #: records of the log that are not in it; ``None``: not asked, or not known


def snapshot_file(path: Path) -> Path:
    """The path itself. Raises ``NotFoundError`` with what to run when there is no snapshot."""
    if not path.is_file():
        raise NotFoundError(
            f"There is no snapshot at {path} yet: it is published while `turnlog up` or `turnlog materialize` runs. "
            "Name another place with --data-dir or TURNLOG_SNAPSHOT_PATH.",
        )
    return path


def age_s(path: Path) -> float:
    """How long ago the snapshot was published."""
    return max(0.0, time.time() - path.stat().st_mtime)


def list_sessions(
    path: Path,
    which: SessionFilter,
    *,
    after: str | None = None,
    limit: int = 100,
    log_end: Mapping[int, int] | None = None,
) -> SessionList:
    """A page of the snapshot at ``path``, at most ``limit`` sessions (0: all). Blocks.

    ``log_end``: by partition, the offset of the log's next record. Raises :class:`NotFoundError` (no snapshot),
    :class:`UsageError` (a key or a limit that cannot be), :class:`MissingExtraError`.
    """
    require("sql", "listing sessions from the snapshot")
    from turnlog.snapshot.sql import open_snapshot, run

    if limit < 0:
        raise UsageError(f"limit: {limit} is below 0")
    where, values = _conditions(which)
    page_where, page_values = _behind(after) if after is not None else ("TRUE", [])
    with open_snapshot(snapshot_file(path)) as connection:
        age = age_s(path)
        total = run(connection, f"SELECT count(*) FROM sessions WHERE {where}", values).rows[0][0]
        statement = (
            f"SELECT {_COLUMNS} FROM sessions WHERE {where} AND {page_where} ORDER BY last_active_at DESC, session_id"
        )
        found = run(connection, statement, [*values, *page_values], max_rows=limit)
        covered = dict(run(connection, "SELECT partition, next_offset FROM partitions").rows)
    sessions = tuple(_listed(record) for record in found.records())
    lag = None if log_end is None else sum(max(0, end - covered.get(p, 0)) for p, end in log_end.items())
    return SessionList(
        sessions=sessions,
        total=total,
        next_after=_key(sessions[-1]) if found.more else None,
        snapshot_age_s=age,
        lag_events=lag,
    )


def _listed(record: Mapping[str, Any]) -> ListedSession:
    moments = ("created_at", "last_active_at", "erased_at")
    times = {name: record[name] and record[name].astimezone(UTC) for name in moments}
    return ListedSession(**{**record, **times})


def _conditions(which: SessionFilter) -> tuple[str, list[object]]:
    parts, values = ["TRUE"], list[object]()
    if not which.include_archived and which.state != "archived":
        parts.append("NOT archived")
    if which.state is not None:
        parts.append(_STATE_CONDITIONS[which.state])
    if which.id_prefix:
        parts.append("starts_with(session_id, ?)")
        values.append(which.id_prefix)
    if which.text:
        parts.append(_TEXT)
        values += [which.text.lower()] * _TEXT.count("?")
    if which.channel is not None:
        parts.append("channel = ?")
        values.append(which.channel)
    if which.no_channel:
        parts.append("channel IS NULL")
    for name, value in (which.metadata or {}).items():
        parts.append("CAST(metadata AS MAP(VARCHAR, VARCHAR))[?] = ?")
        values += [name, value]
    for condition, moment in (("last_active_at >= ?", which.active_since), ("last_active_at < ?", which.active_before)):
        if moment is not None:
            parts.append(condition)
            values.append(_utc(moment))
    return " AND ".join(parts), values


def _utc(moment: datetime) -> datetime:
    """A time without a zone is UTC, whatever the machine's zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _key(session: ListedSession) -> str:
    """Where a page ends: what it is ordered by."""
    return f"{_utc(session.last_active_at).replace(tzinfo=None).isoformat()}/{session.session_id}"


def _behind(key: str) -> tuple[str, Sequence[object]]:
    moment_text, slash, session_id = key.partition("/")
    try:
        moment = _utc(datetime.fromisoformat(moment_text))
    except ValueError:
        slash = ""
    if not slash:
        raise UsageError(f"{key!r} is no key of a page: take the one that the page before gave")
    return "(last_active_at < ? OR (last_active_at = ? AND session_id > ?))", (moment, moment, session_id)
