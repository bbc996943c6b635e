"""Somebody's statement on the snapshot, within the console's bounds. It blocks: call it in a thread."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turnlog.snapshot.listing import snapshot_file
from turnlog.snapshot.query import Bounds, SnapshotQuery
from turnlog.snapshot.sql import open_snapshot, run

BOUNDS = Bounds(timeout_s=15.0, memory_mb=512, batch_rows=1000, max_rows=1000, spill_mb=1024)
MAX_CELL_CHARS = 2_000
MAX_STATEMENT_CHARS = 10_000
MAX_ANSWER_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a statement gave: cells as text, ``None`` for NULL."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str | None, ...], ...]
    more: bool  #: there were more rows
    notes: tuple[str, ...]
    took_ms: int


def ask(path: Path, statement: str, bounds: Bounds = BOUNDS) -> Answer:
    """The answer. Raises :class:`TurnlogError` or one of its kinds: a wrong statement, one that takes too much."""
    began = time.monotonic()
    query = SnapshotQuery(snapshot_file(path), statement, form="rows", bounds=bounds, max_cell=MAX_CELL_CHARS)
    read, rows, described, cut = 0, list[tuple[str | None, ...]](), list[tuple[str, bool]](), False
    with query:
        for line in _lines(query):
            read += len(line)
            if read > MAX_ANSWER_BYTES:
                cut = True
                break
            if not described:
                described = [(str(name), bool(numeric)) for name, numeric in json.loads(line)]
            else:
                rows.append(tuple(None if cell is None else str(cell) for cell in json.loads(line)))
    return Answer(
        columns=tuple(name for name, _ in described),
        numeric=tuple(numeric for _, numeric in described),
        rows=tuple(rows),
        more=cut or query.more,
        notes=query.notes,
        took_ms=round((time.monotonic() - began) * 1000),
    )


def _lines(query: SnapshotQuery) -> Iterator[bytes]:
    left = b""
    for piece in query:
        *lines, left = (left + piece).split(b"\n")
        yield from lines


def tables(path: Path) -> list[str]:
    """The names of the snapshot's tables."""
    with open_snapshot(snapshot_file(path)) as connection:
        rows = run(
            connection,
            "SELECT view_name FROM duckdb_views() WHERE database_name = 'snapshot' AND NOT internal ORDER BY 1",
        ).rows
    return [name for (name,) in rows]


def channels(path: Path, id_prefix: str = "", most: int = 200) -> list[str]:
    """The names of channels that have sessions whose ids begin so."""
    statement = (
        "SELECT channel FROM sessions WHERE channel IS NOT NULL AND starts_with(session_id, ?) "
        "GROUP BY channel ORDER BY max(last_active_at) DESC LIMIT ?"
    )
    with open_snapshot(snapshot_file(path)) as connection:
        return [name for (name,) in run(connection, statement, [id_prefix, most]).rows]
