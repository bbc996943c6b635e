"""What differs between two analysts' files, session by session: two moments, or two copies."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb

from turnlog.errors import NotFoundError, TurnlogError

#: What is compared of a session, as far as both files have it.
_COLUMNS = (
    *("channel", "title", "instructions", "model", "metadata", "archived", "archived_at", "active"),
    *("history_max_tokens", "history_keep_tail", "created_at", "last_active_at", "turns", "started_turns"),
    *("completed_turns", "failed_turns", "cancelled_turns", "running_turn_id", "messages", "covered_to"),
    *("awaited_seq", "input_tokens", "output_tokens", "last_offset"),
)
_STATE = (
    "CASE WHEN archived THEN 'archived' WHEN running_turn_id IS NOT NULL THEN 'running' "
    "WHEN turns > completed_turns + failed_turns + cancelled_turns THEN 'waiting' ELSE 'idle' END"
)
_MESSAGE = ("role", "content", "content_parts", "tool_call_id", "name", "interrupted", "truncated")
_MEMORY_MB = 1024

Change = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDifference:
    """A message that one file has and the other has not, or has otherwise."""

    change: Change
    message_seq: int
    role: str  #: as the second file has it, unless it was removed
    content: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDifference:
    """A turn of another status; ``None``: it is not there."""

    turn_id: str
    before: str | None
    after: str | None


@dataclass(slots=True, kw_only=True)
class SessionDifference:
    """A session that differs."""

    session_id: str
    change: Change = "changed"
    columns: dict[str, tuple[Any, Any]] = field(default_factory=dict)  #: before and after; ``state``, too
    turns: list[TurnDifference] = field(default_factory=list)
    messages: list[MessageDifference] = field(default_factory=list)


def differences(before: Path, after: Path) -> list[SessionDifference]:
    """The sessions that differ, by id. Raises :class:`NotFoundError` or :class:`TurnlogError`."""
    for path in (before, after):
        if not path.is_file():
            raise NotFoundError(f"There is no file {path}.")
    if before.samefile(after):
        return []
    with tempfile.TemporaryDirectory(prefix="turnlog-diff-") as scratch:
        connection = duckdb.connect(":memory:", config={"memory_limit": f"{_MEMORY_MB}MB", "temp_directory": scratch})
        try:
            connection.execute("SET TimeZone = 'UTC'")
            for path, name in ((before, "b"), (after, "a")):
                _attach(connection, path, name)
            return _compare(connection)
        except duckdb.Error as error:
            raise TurnlogError(f"{before} and {after} cannot be compared: {error}") from error
        finally:
            connection.close()


def _attach(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    place = str(path).replace("'", "''")
    try:
        connection.execute(f"ATTACH '{place}' AS {name} (READ_ONLY)")
    except duckdb.Error as error:
        raise TurnlogError(
            f"{path} cannot be opened: {error}. The live file is its writer's alone: take the snapshot"
        ) from error


def _compare(connection: duckdb.DuckDBPyConnection) -> list[SessionDifference]:
    found = {session.session_id: session for session in _sessions(connection)}

    def of(session_id: str) -> SessionDifference:
        return found.setdefault(session_id, SessionDifference(session_id=session_id))

    for session_id, turn in _turns(connection):
        of(session_id).turns.append(turn)
    for session_id, message in _messages(connection):
        of(session_id).messages.append(message)
    return [found[session_id] for session_id in sorted(found)]


def _columns_of(connection: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    described = connection.execute(f"DESCRIBE {name}.sessions").fetchall()
    return [column[0] for column in described]


def _sessions(connection: duckdb.DuckDBPyConnection) -> Iterator[SessionDifference]:
    known = set(_columns_of(connection, "a")) & set(_columns_of(connection, "b"))
    names = ["state", *(name for name in _COLUMNS if name in known)]
    columns = ", ".join([f"'state': {_STATE}", *(f"'{name}': {name}" for name in names[1:])])
    rows = connection.execute(
        f"SELECT session_id, l, r FROM (SELECT session_id, {{{columns}}} AS l FROM b.sessions) FULL JOIN "
        f"(SELECT session_id, {{{columns}}} AS r FROM a.sessions) "
        "USING (session_id) WHERE l IS DISTINCT FROM r ORDER BY session_id"
    )
    for session_id, left, right in rows.fetchall():
        one = SessionDifference(session_id=session_id)
        if left is None or right is None:
            one.change = "added" if left is None else "removed"
        old, new = (dict.fromkeys(names) if row is None else row for row in (left, right))
        one.columns = {name: (old[name], new[name]) for name in names if old[name] != new[name]}
        yield one


def _turns(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, TurnDifference]]:
    rows = connection.execute(
        "SELECT session_id, turn_id, b.status, a.status FROM b.turns b FULL JOIN a.turns a USING (session_id, turn_id) "
        "WHERE b.status IS DISTINCT FROM a.status ORDER BY session_id, coalesce(a.accepted_offset, b.accepted_offset)"
    )
    for session_id, turn_id, old, new in rows.fetchall():
        yield session_id, TurnDifference(turn_id=turn_id, before=old, after=new)


def _messages(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, MessageDifference]]:
    old, new = (f"row({', '.join(f'{name}.{column}' for column in _MESSAGE)})" for name in ("b", "a"))
    rows = connection.execute(
        "SELECT session_id, message_seq, CASE WHEN b.role IS NULL THEN 'added' WHEN a.role IS NULL THEN 'removed' "
        "ELSE 'changed' END, coalesce(a.role, b.role), CASE WHEN a.role IS NULL THEN b.content ELSE a.content END "
        "FROM b.messages b FULL JOIN a.messages a USING (session_id, message_seq) "
        f"WHERE {old} IS DISTINCT FROM {new} ORDER BY session_id, message_seq"
    )
    for session_id, seq, change, role, content in rows.fetchall():
        yield session_id, MessageDifference(change=change, message_seq=seq, role=role, content=content)
