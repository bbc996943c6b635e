"""Export to files: a folder a table and day, incremental, with a manifest.

``messages/2026-11-28/000003.parquet`` holds what the third export found new of that day,
``sessions/2026-11-28/current.parquet`` the sessions of that day as they are, replaced by rename when one of them
changes. No part of a path is a value of a row, and none looks like ``name=value``: readers would guess columns from it.

The order that survives a kill at any point: write under a temporary name, fsync, rename, and the manifest last. What a
killed export left is found by its number, which the manifest does not know yet, and removed by the next one. A replaced
file has no number: after a kill, which the file ``.unfinished`` tells of, they are compared with the manifest.
"""

import fcntl
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import duckdb

from turnlog.errors import TurnlogError
from turnlog.export import source as tables
from turnlog.export.conversations import write_conversations
from turnlog.export.manifest import ExportedFile, Manifest, digest_of, put, read_manifest, sync_folder, write_manifest
from turnlog.export.source import EXPORTED, ExportReport, Form, Source, open_source
from turnlog_streams.projection.rows import SESSIONS
from turnlog_streams.table_types import Table
from turnlog_workers.base.crash_points import crash_point

Format = Literal["parquet", "jsonl", "openai"]
CONVERSATIONS = "conversations"
_CURRENT = "current"
_UNFINISHED = ".unfinished"
_OURS = re.compile(r"(?:(?P<run>\d{6,})|current)\.(?:parquet|jsonl)(?P<unfinished>\.tmp)?")
_LINES_AT_A_TIME = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Day:
    """Rows of one day that have to be written."""

    day: str
    rows: int
    state: str  #: empty for rows of the log


def export_files(snapshot: Path, folder: Path, form: Format) -> ExportReport:
    """Bring the folder up to the snapshot. Blocks.

    Raises :class:`UsageError` (the folder is of something else), :class:`SnapshotIsOlderError`, :class:`TurnlogError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder), open_source(snapshot) as source:
            manifest = read_manifest(folder, form, tables.VERSION)
            tables.set_exported(source, manifest.positions, str(folder))
            _remove_leftovers(folder, manifest)
            manifest = _without_erased(folder, source, manifest)
            return _Export(folder, form, source, manifest).run()
    except OSError as error:
        raise TurnlogError(f"Exporting to {folder} failed: {error.strerror or error} ({error.filename})") from error
    except duckdb.Error as error:
        raise TurnlogError(f"Exporting to {folder} failed: {error}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder is ours until we end, however we end. Raises :class:`TurnlogError`."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TurnlogError(f"another export to {folder} is under way") from error
        yield


def _remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Files of an export that was killed before its manifest; nothing that is not ours by its name and place."""
    for table in (*(table.name for table in EXPORTED), CONVERSATIONS):
        for path in (folder / table).glob("????-??-??/*"):
            ours = _OURS.fullmatch(path.name)
            if ours and (ours["unfinished"] or int(ours["run"] or 0) > manifest.run):
                path.unlink()


def _without_erased(folder: Path, source: Source, manifest: Manifest) -> Manifest:
    """Files that may hold texts of sessions that were erased since are removed: everything is exported anew.

    Killed in between, the next export finds the same and goes on with it.
    """
    if not manifest.files or not tables.were_erased(source):
        return manifest
    for file in manifest.files:
        (folder / file.path).unlink(missing_ok=True)
    anew = replace(manifest, positions={}, files=())
    write_manifest(folder, anew)
    tables.set_exported(source, {}, str(folder))
    return anew


class _Export:
    """One export to a folder that is ours."""

    def __init__(self, folder: Path, form: Format, source: Source, manifest: Manifest) -> None:
        self._folder, self._form, self._source, self._manifest = folder, form, source, manifest
        self._killed = (folder / _UNFINISHED).exists()
        self._states = {(file.table, file.day): file.state for file in manifest.files if self._is_as_named(file)}
        self._written: list[ExportedFile] = []

    def _is_as_named(self, file: ExportedFile) -> bool:
        path = self._folder / file.path
        return path.is_file() and not (self._killed and digest_of(path) != file.sha256)

    def run(self) -> ExportReport:
        """Write what is new, then say so."""
        if self._form == "openai":
            self._conversations()
        else:
            for table in EXPORTED:
                self._table(table, self._form)
        positions = dict(self._source.positions)
        if self._written or positions != self._manifest.positions:
            crash_point("export.manifest")
            write_manifest(self._folder, self._manifest.with_run(positions, self._written))
        (self._folder / _UNFINISHED).unlink(missing_ok=True)
        return ExportReport(
            rows=sum(file.rows for file in self._written), files=len(self._written), positions=positions
        )

    def _table(self, table: Table, form: Form) -> None:
        new = tables.is_new("rows.log_offset") if tables.of_the_log(table) else "true"
        name = f"{self._manifest.run + 1:06}" if tables.of_the_log(table) else _CURRENT
        write = self._write_parquet if form == "parquet" else self._write_lines
        for day in self._days(table):
            rows = (
                f"FROM {tables.name_of(table)} AS rows "
                f"WHERE {tables.day_of(table)} = DATE {tables.literal(day.day)} AND {new} "
                f"ORDER BY {tables.identity(table)}"
            )
            columns = self._source.columns(table)
            self._file(table.name, day, f"{name}.{form}", partial(write, columns, rows))

    def _write_parquet(self, columns: dict[str, str], rows: str, path: Path) -> None:
        select = f"SELECT {tables.as_written(columns)} {rows}"
        self._source.connection.execute(f"COPY ({select}) TO {tables.literal(path)} (FORMAT parquet, COMPRESSION zstd)")

    def _write_lines(self, columns: dict[str, str], rows: str, path: Path) -> None:
        cursor = self._source.connection.execute(f"SELECT {tables.as_line(columns)} {rows}")
        with path.open("wb") as file:
            while some := cursor.fetchmany(_LINES_AT_A_TIME):
                file.writelines(line.encode() + b"\n" for (line,) in some)

    def _days(self, table: Table) -> list[_Day]:
        """The days of which something has to be written."""
        day, name = tables.day_of(table), tables.name_of(table)
        if tables.of_the_log(table):
            found = self._source.connection.execute(
                f"SELECT {day} AS day, count(*) FROM {name} AS rows WHERE {tables.is_new('rows.log_offset')} "
                "GROUP BY day ORDER BY day"
            ).fetchall()
            return [_Day(day=str(of), rows=count, state="") for of, count in found]
        return self._changed(table.name, f"SELECT {day} AS day, * FROM {name} AS rows")

    def _changed(self, written_as: str, select: str) -> list[_Day]:
        """The days whose rows differ from those that were written."""
        found = self._source.connection.execute(
            f"SELECT day, count(*), CAST(sum(CAST(hash(rows) AS HUGEINT)) AS VARCHAR) FROM ({select}) AS rows "
            "GROUP BY day ORDER BY day"
        ).fetchall()
        days = [_Day(day=str(of), rows=count, state=f"{count}-{total}") for of, count, total in found]
        return [day for day in days if self._states.get((written_as, day.day)) != day.state]

    def _conversations(self) -> None:
        day, name = tables.day_of(SESSIONS), tables.name_of(SESSIONS)
        hidden = "(SELECT list(turn_id ORDER BY turn_id) FROM snapshot.main.turns t WHERE t.hidden AND"
        hidden += " t.partition = rows.partition AND t.session_offset = rows.session_offset)"
        select = f"SELECT {day} AS day, partition, session_offset, last_offset, title, {hidden} FROM {name} AS rows"
        select += " WHERE erased_at IS NULL"
        for of in self._changed(CONVERSATIONS, select):
            write = partial(write_conversations, self._source.connection, of.day)
            self._file(CONVERSATIONS, of, f"{_CURRENT}.jsonl", write)

    def _file(self, table: str, day: _Day, name: str, write: Callable[[Path], None]) -> None:
        relative = f"{table}/{day.day}/{name}"
        path = self._folder / relative
        unfinished = path.with_name(f"{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        crash_point("export.written")
        if not self._written:
            (self._folder / _UNFINISHED).touch()
            sync_folder(self._folder)
        digest, size = digest_of(unfinished), unfinished.stat().st_size
        put(unfinished, path)
        crash_point("export.renamed")
        self._written.append(
            ExportedFile(
                path=relative, table=table, day=day.day, rows=day.rows, bytes=size, sha256=digest, state=day.state
            )
        )
