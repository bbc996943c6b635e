"""The process that runs one statement of somebody else's on the snapshot: started by ``turnlog.snapshot.query``.

A JSON object on standard input says what to do. Rows go to standard output as they come, and one JSON object about the
end to the file descriptor that is named. Memory is bounded by the kernel: DuckDB's own limit does not cover all that it
takes (some aggregates, strings on their way to Python), and beyond it this process fails alone.
"""

import contextlib
import json
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb

from turnlog.errors import TurnlogError
from turnlog.snapshot.sql import check_reads, distinct, open_snapshot
from turnlog.snapshot.values import Form, Notes, form_of

_MIB = 1024 * 1024
_MAX_THREADS = 4
_BASE_MB = 64  # this program, before it has asked anything
_DUCKDB_SHARE = 0.5  # of the rest: what it took beside its limit was up to as much again in measurements
_CHUNK_BYTES = 256 * 1024
_FIRST_BATCH = 64
_NEEDS_QUOTES = re.compile(r'[,"\r\n\0]|^\s|\s\Z')

Write = Callable[[bytes], object]
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done, as ``turnlog.snapshot.query`` says it."""

    path: str
    statement: str
    form: str  #: ``json``, ``csv`` or ``rows``
    max_rows: int  #: 0: all
    batch_rows: int
    memory_mb: int
    spill_mb: int
    scratch: str
    null: str  #: what CSV has for NULL
    max_cell: int  #: characters of a cell in ``rows``; 0: all
    status_fd: int


class _Output:
    """Collects small pieces into larger writes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._parts: list[str] = []
        self._size = 0
        self.written = 0

    def add(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size >= _CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        data = "".join(self._parts).encode()
        self._parts.clear()
        self._size = 0
        self.written += len(data)
        self._stream.write(data)
        self._stream.flush()

    @property
    def total(self) -> int:
        return self.written + self._size


def main() -> int:
    """Do what standard input says; the exit code is of no meaning beside what the status says."""
    order = Order(**json.load(sys.stdin))
    with os.fdopen(order.status_fd, "w", encoding="utf-8") as status:
        json.dump(_run(order), status)
    return 0


def _run(order: Order) -> dict[str, Any]:
    limit = max(order.memory_mb, _BASE_MB) * _MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    notes = Notes()
    try:
        more = _query(order, notes)
    except (MemoryError, duckdb.OutOfMemoryException) as error:
        return {"error": "memory", "text": str(error).split("\n")[0]}
    except duckdb.Error as error:
        return {"error": "usage", "text": str(error)}
    except TurnlogError as error:
        return {"error": "usage" if error.exit_code == 2 else "failed", "text": str(error)}
    return {"more": more, "notes": notes.sentences()}


def _query(order: Order, notes: Notes) -> bool:
    memory_mb = max(1, int((order.memory_mb - _BASE_MB) * _DUCKDB_SHARE))
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with open_snapshot(
        Path(order.path), scratch=Path(order.scratch), memory_mb=memory_mb, spill_mb=order.spill_mb, threads=threads
    ) as connection:
        check_reads(connection, order.statement)
        relation = connection.sql(order.statement)
        if relation is None:
            return False
        columns = distinct(relation.columns)
        forms = [form_of(kind, notes) for kind in relation.types]
        exact = ", ".join(f"{form.sql(f'#{n}', 0)} AS c{n}" for n, form in enumerate(forms, start=1))
        rows = _Rows(relation.project(exact), order)
        output = _Output(sys.stdout.buffer)
        _WRITERS[order.form](order, columns, forms, rows.read(output), output)
        output.flush()
        return rows.more


class _Rows:
    """The rows of a relation, some at a time: so many that their text stays small."""

    def __init__(self, relation: duckdb.DuckDBPyRelation, order: Order) -> None:
        self._relation = relation
        self._order = order
        self.more = False

    def read(self, output: _Output) -> Iterator[Row]:
        left = self._order.max_rows or sys.maxsize
        size = min(_FIRST_BATCH, self._order.batch_rows)
        while batch := self._relation.fetchmany(min(size, left + 1)):
            before = output.total
            self.more = len(batch) > left
            yield from batch[:left]
            left -= len(batch)
            if left < 0:
                return
            average = max(1, (output.total - before) // len(batch))
            size = max(1, min(self._order.batch_rows, 4 * size, 4 * _MIB // average))


def _write_json(order: Order, columns: Sequence[str], forms: Sequence[Form], rows: Iterator[Row], out: _Output) -> None:
    """One array on one line; nothing before the first row is there, so that an error leaves nothing half-written."""
    names = [json.dumps(name, ensure_ascii=False).replace("%", "%%") for name in columns]
    template = f"{{{', '.join(f'{name}: %s' for name in names)}}}"
    texts = [form.json for form in forms]
    before = "["
    for row in rows:
        parts = ["null" if value is None else text(value) for text, value in zip(texts, row, strict=True)]
        out.add(before + template % tuple(parts))
        before = ", "
    out.add("[]\n" if before == "[" else "]\n")


def _write_csv(order: Order, columns: Sequence[str], forms: Sequence[Form], rows: Iterator[Row], out: _Output) -> None:
    header = ",".join(_field(name, order.null) for name in columns) + "\n"
    null = order.null
    texts = [form.cell if form.plain and not null else _quoting(form.cell, null) for form in forms]
    for row in rows:
        fields = [null if value is None else text(value) for text, value in zip(texts, row, strict=True)]
        out.add(header + ",".join(fields) + "\n")
        header = ""
    out.add(header)


def _quoting(text: Callable[[Any], str], null: str) -> Callable[[Any], str]:
    return lambda value: _field(text(value), null)


def _field(text: str, null: str) -> str:
    """A field of RFC 4180, in quotes unless it is plain; the empty text always, as NULL is not."""
    if not text or text == null or _NEEDS_QUOTES.search(text):
        escaped = text.replace('"', '""')
        return f'"{escaped}"'
    return text


def _write_rows(order: Order, columns: Sequence[str], forms: Sequence[Form], rows: Iterator[Row], out: _Output) -> None:
    """A JSON array a line: of the columns, each with whether it is of numbers; then of each row's cells."""
    out.add(json.dumps([[name, form.numeric] for name, form in zip(columns, forms, strict=True)]) + "\n")
    for row in rows:
        cells = [None if value is None else form.cell(value) for form, value in zip(forms, row, strict=True)]
        if order.max_cell:
            cells = [cell if cell is None else cell[: order.max_cell] for cell in cells]
        out.add(json.dumps(cells) + "\n")


_WRITERS = {"json": _write_json, "csv": _write_csv, "rows": _write_rows}


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone, or has enough
        sys.exit(main())
