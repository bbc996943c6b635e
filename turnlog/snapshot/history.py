"""What the published snapshot says of turns and histories. All of it blocks: call it in a thread."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from turnlog_schemas.json_values import record_reader
from turnlog_schemas.parts import ContentPart, ToolCall
from turnlog_workers.runners.recordings import Message

_READ_PART = record_reader(ContentPart, closed=False)
_NOT_HIDDEN = (
    "AND NOT EXISTS (FROM snapshot.main.turns AS t WHERE t.hidden AND t.turn_id = m.turn_id "
    "AND t.partition = m.partition AND t.session_offset = m.session_offset)"
)
ENDED = ("completed", "requires_action", "failed", "cancelled")


@contextmanager
def _opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    # Attached, as in turnlog.snapshot.sql: opened, it would be the same old file while another thread has it open.
    connection = duckdb.connect(":memory:")
    try:
        quoted = str(path).replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS snapshot (READ_ONLY)")
        connection.execute("USE snapshot")
        yield connection
    finally:
        connection.close()


def ended_turns(path: Path, session_ids: Sequence[str]) -> set[tuple[str, str]]:
    """(session id, request id) of the sessions' turns that have a terminal event. Raises ``duckdb.Error``."""
    with _opened(path) as connection:
        rows = connection.execute(
            "SELECT session_id, request_id FROM turns WHERE session_id IN (SELECT unnest(?)) "
            "AND status IN (SELECT unnest(?))",
            [list(session_ids), list(ENDED)],
        ).fetchall()
    return {(session_id, request_id) for session_id, request_id in rows}


def stored_summaries(path: Path, session_ids: Sequence[str]) -> list[tuple[str, str | None, int, int, str]]:
    """Session id, request id, from_seq, to_seq and text, in order. Raises ``duckdb.Error``."""
    with _opened(path) as connection:
        return connection.execute(
            "SELECT session_id, request_id, from_seq, to_seq, summary FROM history_compactions "
            "WHERE status = 'compacted' AND session_id IN (SELECT unnest(?)) ORDER BY partition, log_offset",
            [list(session_ids)],
        ).fetchall()


class Histories:
    """Instructions and messages of some sessions, as one state of the snapshot has them."""

    def __init__(self, path: Path, session_ids: Sequence[str]) -> None:
        """Read them. Raises ``duckdb.Error``."""
        with _opened(path) as connection:
            self._read(connection, session_ids, hidden=True)

    def _read(self, connection: duckdb.DuckDBPyConnection, session_ids: Sequence[str], *, hidden: bool) -> None:
        wanted = [list(session_ids)]
        sessions = connection.execute(
            "SELECT session_id, instructions, title FROM snapshot.main.sessions WHERE session_id IN (SELECT unnest(?))",
            wanted,
        ).fetchall()
        messages = connection.execute(
            "SELECT session_id, message_seq, role, content, content_parts, tool_call_id, name "
            "FROM snapshot.main.messages AS m WHERE session_id IN (SELECT unnest(?)) "
            f"{'' if hidden else _NOT_HIDDEN} ORDER BY session_id, message_seq",
            wanted,
        ).fetchall()
        calls = connection.execute(
            "SELECT session_id, message_seq, call_id, name, arguments FROM snapshot.main.tool_calls "
            "WHERE session_id IN (SELECT unnest(?)) ORDER BY session_id, message_seq, position",
            wanted,
        ).fetchall()
        calls_of: dict[tuple[str, int], list[ToolCall]] = {}
        for session_id, seq, call_id, name, arguments in calls:
            call = ToolCall(call_id=call_id, name=name, arguments=arguments)
            calls_of.setdefault((session_id, seq), []).append(call)
        self.instructions: dict[str, str | None] = {session_id: text for session_id, text, _ in sessions}
        self.titles: dict[str, str] = {session_id: title for session_id, _, title in sessions}
        self._messages: dict[str, list[Message]] = {session_id: [] for session_id in self.instructions}
        self._seqs: dict[str, list[int]] = {session_id: [] for session_id in self.instructions}
        for session_id, seq, role, content, parts, tool_call_id, name in messages:
            self._seqs[session_id].append(seq)
            self._messages[session_id].append(
                Message(
                    role=role,
                    content=_content(content, parts),
                    tool_calls=tuple(calls_of.get((session_id, seq), ())),
                    tool_call_id=tool_call_id,
                    name=name,
                )
            )

    def messages(self, session_id: str) -> list[Message] | None:
        """The session's messages in order; ``None``: the snapshot does not have the session."""
        return self._messages.get(session_id)

    def position(self, session_id: str, message_seq: int) -> int:
        """How many of these messages come up to that one of the session."""
        return bisect_right(self._seqs.get(session_id, ()), message_seq)


def shown_histories(connection: duckdb.DuckDBPyConnection, session_ids: Sequence[str]) -> Histories:
    """Without hidden turns, by a connection that has the snapshot attached as ``snapshot``. Raises ``duckdb.Error``."""
    histories = Histories.__new__(Histories)
    histories._read(connection, session_ids, hidden=False)
    return histories


def _content(text: str | None, parts: str | None) -> tuple[ContentPart, ...] | None:
    """``parts`` are there only when the text does not say it all."""
    if parts is not None:
        return tuple(_READ_PART(part) for part in json.loads(parts))
    return None if text is None else (ContentPart(text=text),)
