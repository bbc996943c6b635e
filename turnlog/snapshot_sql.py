"""Reading the published snapshot: one statement that only reads, in a database that can do nothing else."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from turnlog.errors import TurnlogError, UsageError

_READ_ONLY: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "lock_configuration": "true",
}
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


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


@contextmanager
def open_snapshot(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The snapshot, so that statements can neither write nor reach a file, a network or a setting."""
    try:
        connection = duckdb.connect(str(path), read_only=True, config=_READ_ONLY)
    except duckdb.Error as error:
        raise TurnlogError(
            f"The snapshot {path} cannot be opened: {error}. Publish it again: remove the file and run "
            "`turnlog materialize` (or `turnlog up`).",
        ) from error
    try:
        yield connection
    finally:
        connection.close()


def run(
    connection: duckdb.DuckDBPyConnection, statement: str, parameters: Sequence[object] = (), *, max_rows: int = 0
) -> Result:
    """One reading statement, at most ``max_rows`` rows (0: all). Raises ``UsageError`` with DuckDB's words."""
    try:
        _check_reads(connection, statement)
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
    columns = _distinct([column[0] for column in described])
    json_columns = frozenset(index for index, column in enumerate(described) if str(column[1]) == "JSON")
    return Result(columns=columns, json_columns=json_columns, rows=rows[:max_rows] if more else rows, more=more)


def _check_reads(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    statements = connection.extract_statements(statement)
    if len(statements) != 1:
        raise UsageError(f"Give one statement; this is {len(statements) or 'none'}.")
    kind = statements[0].type
    if kind not in _READING:
        raise UsageError(
            f"{kind.name} is not for the snapshot: it is read-only. SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE and "
            "EXPLAIN are.",
        )


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
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
