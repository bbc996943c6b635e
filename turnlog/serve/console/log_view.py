"""What the snapshot says of the log itself: a session's events, the partitions and their owners, dead letters.

It blocks: call it in a thread.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from turnlog.errors import NotFoundError
from turnlog.serve.console.transcripts import utc
from turnlog.snapshot.listing import age_s, snapshot_file
from turnlog.snapshot.sql import open_snapshot, run

EVENTS_PER_PAGE = 100
DEAD_LETTERS_PER_PAGE = 100
MAX_BODY_CHARS = 20_000
_MAX_SHOWN_BYTES = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEvent:
    """An accepted event: where it stands, its header and its body."""

    partition: int
    log_offset: int
    epoch: int
    n: int
    stream_version: int
    type: str
    turn_id: str | None
    attempt: int
    accepted: int
    replied: int
    recorded_at: datetime
    body: str  #: JSON, indented, cut


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events of one stream, oldest first."""

    session_id: str
    events: tuple[ShownEvent, ...]
    total: int
    next_after: int | None  #: a ``log_offset``; ``None``: this is the last page


def read_events(path: Path, session_id: str, *, after: int = -1, kind: str | None = None) -> EventPage:
    """A page of the events of a session behind a ``log_offset``; ``kind``: of this type only.

    Raises :class:`NotFoundError`.
    """
    with open_snapshot(snapshot_file(path)) as connection:
        known = run(connection, "SELECT partition FROM sessions WHERE session_id = ?", [session_id]).rows
        if not known:
            raise NotFoundError(f"There is no session {session_id} in the snapshot.")
        where = "partition = ? AND stream_kind = 'session' AND stream_id = ?"
        values: list[object] = [known[0][0], session_id]
        if kind:
            where += " AND type = ?"
            values.append(kind)
        total = run(connection, f"SELECT count(*) FROM internal.events WHERE {where}", values).rows[0][0]
        found = run(
            connection,
            "SELECT partition, log_offset, epoch, n, stream_version, type, turn_id, attempt, accepted, replied, "
            f"recorded_at, left(CAST(body AS VARCHAR), {MAX_BODY_CHARS + 1}) AS body FROM internal.events "
            f"WHERE {where} AND log_offset > ? ORDER BY log_offset",
            [*values, after],
            max_rows=EVENTS_PER_PAGE,
        )
    events = tuple(_event(row) for row in found.records())
    return EventPage(
        session_id=session_id,
        events=events,
        total=total,
        next_after=events[-1].log_offset if found.more else None,
    )


def _event(row: Mapping[str, Any]) -> ShownEvent:
    return ShownEvent(**{**row, "recorded_at": utc(row["recorded_at"]), "body": pretty(row["body"])})


def pretty(text: str) -> str:
    """JSON for people to read; what is too long, or none, as it is."""
    if len(text) > MAX_BODY_CHARS:
        return f"{text[:MAX_BODY_CHARS]}…"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionView:
    """A partition, its owner as the log has it, and who is how far behind. ``None``: the broker does not tell."""

    partition: int
    epoch: int
    owner: str | None
    claimed_at: datetime | None
    generation: int
    sessions: int
    open_turns: int
    undecided: int | None  #: requests that no owner has decided
    behind: int | None  #: records of the log that the snapshot does not have
    log_end: int | None
    materialized: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All partitions that the snapshot knows."""

    partitions: tuple[PartitionView, ...]
    snapshot_age_s: float


def read_topology(
    path: Path, *, log_ends: Mapping[int, int] | None, request_ends: Mapping[int, int] | None
) -> Topology:
    """Partitions, owners, epochs and lags. The ends are of the event log and the requests, by partition."""
    with open_snapshot(snapshot_file(path)) as connection:
        rows = run(
            connection,
            """SELECT p.partition, p.next_offset, p.epoch, p.accepted, p.newest_generation AS generation,
                      e.body->>'$.owner' AS owner, e.recorded_at AS claimed_at,
                      coalesce(s.sessions, 0) AS sessions, coalesce(s.open_turns, 0) AS open_turns
               FROM partitions p
               LEFT JOIN internal.events e ON e.partition = p.partition AND e.log_offset = p.epoch
               LEFT JOIN (SELECT partition, count(*) AS sessions,
                                 sum(turns - completed_turns - failed_turns - cancelled_turns) AS open_turns
                          FROM sessions GROUP BY partition) s ON s.partition = p.partition
               ORDER BY p.partition""",
        ).records()
    log_ends, request_ends = log_ends or {}, request_ends or {}
    views = tuple(
        PartitionView(
            partition=row["partition"],
            epoch=row["epoch"],
            owner=row["owner"],
            claimed_at=None if row["claimed_at"] is None else utc(row["claimed_at"]),
            generation=row["generation"],
            sessions=row["sessions"],
            open_turns=int(row["open_turns"]),
            undecided=_behind(request_ends.get(row["partition"]), row["accepted"] + 1),
            behind=_behind(log_ends.get(row["partition"]), row["next_offset"]),
            log_end=log_ends.get(row["partition"]),
            materialized=row["next_offset"],
        )
        for row in rows
    )
    return Topology(partitions=views, snapshot_age_s=age_s(path))


def _behind(end: int | None, at: int) -> int | None:
    return None if end is None else max(0, end - at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDeadLetter:
    """A request that nobody could read or decide."""

    partition: int
    request_offset: int
    log_offset: int
    code: str
    reason: str
    recorded_at: datetime
    size: int | None  #: bytes; ``None``: they are not kept any more
    value: str  #: the beginning, what is not UTF-8 as \\xNN


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """Dead letters, newest first."""

    letters: tuple[ShownDeadLetter, ...]
    total: int
    codes: tuple[tuple[str, int], ...]  #: how many of each, on all pages
    next_page: int | None


def read_dead_letters(path: Path, *, page: int = 0, code: str | None = None) -> DeadLetterPage:
    """A page of the dead letters; ``code``: of this one only."""
    with open_snapshot(snapshot_file(path)) as connection:
        codes = run(connection, "SELECT code, count(*) FROM dead_letters GROUP BY code ORDER BY 2 DESC, 1").rows
        found = run(
            connection,
            "SELECT partition, request_offset, log_offset, code, reason, recorded_at, octet_length(bytes) AS size, "
            f"bytes[1:{_MAX_SHOWN_BYTES}] AS bytes FROM dead_letters WHERE coalesce(code = ?, true) "
            "ORDER BY recorded_at DESC, partition, log_offset DESC LIMIT ? OFFSET ?",
            [code, DEAD_LETTERS_PER_PAGE + 1, page * DEAD_LETTERS_PER_PAGE],
        ).records()
    letters = []
    for row in found[:DEAD_LETTERS_PER_PAGE]:
        value = row.pop("bytes")
        text = "" if value is None else bytes(value).decode(errors="backslashreplace")
        letters.append(ShownDeadLetter(**{**row, "recorded_at": utc(row["recorded_at"]), "value": text}))
    return DeadLetterPage(
        letters=tuple(letters),
        total=sum(count for name, count in codes if code in (None, name)),
        codes=tuple(codes),
        next_page=page + 1 if len(found) > DEAD_LETTERS_PER_PAGE else None,
    )
