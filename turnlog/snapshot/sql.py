"""Reading the published snapshot: one statement that only reads, in a database that can do nothing else.

For statements of our own, in this process. Anybody else's runs in a process of its own: ``turnlog.snapshot.query``.
"""

import atexit
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from turnlog.errors import TurnlogError, UsageError
from turnlog_workers.store.temp_directory import ScratchFolder

#: Statements that only read.
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_SHUT = (
    # Not the machine's zone: days begin when they begin for everybody else.
    "SET TimeZone = 'UTC'",
    "SET enable_progress_bar = false",
    "SET python_enable_replacements = false",
    "SET autoload_known_extensions = false",
    "SET autoinstall_known_extensions = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a statement gave."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    json_columns: frozenset[int] = frozenset()  #: indexes of the columns that hold JSON text
    more: bool = False  #: there were more rows than asked for

    def records(self) -> list[dict[str, Any]]:
        """The rows by column name, JSON text decoded."""
        return [
            {
                name: json.loads(value) if index in self.json_columns and value is not None else value
                for index, (name, value) in enumerate(zip(self.columns, row, strict=True))
            }
            for row in self.rows
        ]


def make_scratch() -> ScratchFolder:
    """A private folder for what DuckDB moves out of memory. Beside the snapshot, readers would share one."""
    return ScratchFolder(Path(tempfile.gettempdir()), prefix="turnlog-sql-")


@cache
def _own_scratch(pid: int) -> Path:
    """One for the process: who forks gets another."""
    scratch = make_scratch()
    atexit.register(scratch.remove)
    return scratch.path


@contextlib.contextmanager
def open_snapshot(
    path: Path, *, scratch: Path | None = None, memory_mb: int = 0, spill_mb: int = 0, threads: int = 0
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The newest snapshot, so that statements can neither write nor reach a file, a network or a setting.

    ``scratch``: where DuckDB may move up to ``spill_mb`` of what does not fit into ``memory_mb`` (default: a folder of
    this process). 0: DuckDB's defaults. Raises :class:`TurnlogError`.
    """
    try:
        connection = _open(path, scratch or _own_scratch(os.getpid()), memory_mb, spill_mb, threads)
    except (duckdb.Error, OSError) as error:
        raise TurnlogError(
            f"The snapshot {path} cannot be opened: {error}. Publish it again: remove the file and run "
            "`turnlog materialize` (or `turnlog up`).",
        ) from error
    try:
        yield connection
    finally:
        connection.close()


def _open(path: Path, scratch: Path, memory_mb: int, spill_mb: int, threads: int) -> duckdb.DuckDBPyConnection:
    """Attached to a database in memory: opened itself, it would be the same old one for as long as any thread of this
    process has it open."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(scratch),
        **({"memory_limit": f"{memory_mb}MB"} if memory_mb else {}),
        **({"max_temp_directory_size": f"{spill_mb}MB"} if spill_mb else {}),
        **({"threads": threads} if threads else {}),
    }
    connection = duckdb.connect(":memory:", config=config)
    try:
        quoted = str(path).replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS snapshot (READ_ONLY)")
        connection.execute("USE snapshot")
        for statement in _SHUT:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def run(
    connection: duckdb.DuckDBPyConnection, statement: str, parameters: Sequence[object] = (), *, max_rows: int = 0
) -> Result:
    """One reading statement, at most ``max_rows`` rows (0: all). Raises ``UsageError`` with DuckDB's words."""
    try:
        check_reads(connection, statement)
        cursor = connection.execute(statement, list(parameters))
        described = cursor.description or []
        rows = cursor.fetchmany(max_rows + 1) if max_rows else cursor.fetchall()
    except duckdb.Error as error:
        raise UsageError(str(error)) from error
    except RuntimeError as error:
        # This is how DuckDB reports a Ctrl-C.
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise
    more = bool(max_rows) and len(rows) > max_rows
    columns = distinct([column[0] for column in described])
    json_columns = frozenset(index for index, column in enumerate(described) if str(column[1]) == "JSON")
    return Result(columns=columns, json_columns=json_columns, rows=rows[:max_rows] if more else rows, more=more)


def check_reads(connection: duckdb.DuckDBPyConnection, statement: str) -> duckdb.StatementType:
    """The kind of the one statement that it must be. Raises ``UsageError``, or ``duckdb.Error`` if it is no SQL."""
    statements = connection.extract_statements(statement)
    if len(statements) != 1:
        raise UsageError(f"Give one statement; this is {len(statements) or 'none'}.")
    kind = statements[0].type
    if kind not in READING:
        raise UsageError(
            f"{kind.name} is not for the snapshot: it is read-only. SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE and "
            "EXPLAIN are.",
        )
    return kind


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Column names, a repeated one numbered, so that a JSON object keeps them all."""
    seen: dict[str, int] = {}
    out: list[str] = []
    for name in names:
        new = name
        while new in seen:
            seen[name] += 1
            new = f"{name}_{seen[name]}"
        seen[new] = 0
        out.append(new)
    return tuple(out)
