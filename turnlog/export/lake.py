"""Export into a DuckLake: a catalog in a DuckDB file or in Postgres, Parquet in a folder or an object store.

One export is one transaction of the catalog, and has the position up to which it holds the log. A kill before its
commit leaves nothing but files that no catalog names; one after it leaves all. Two exports at once change the same
position, so the catalog refuses the later one.
"""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from turnlog.errors import MissingExtraError, TurnlogError, UsageError
from turnlog.export import source as tables
from turnlog.export.object_store import set_credentials, without_secrets
from turnlog.export.source import EXPORTED, ExportReport, Source, literal, open_source
from turnlog_streams.projection.rows import SESSIONS, TOOL_CALLS, TURNS
from turnlog_streams.table_types import Table
from turnlog_workers.base.crash_points import crash_point

LAKE = "ducklake:"
_POSTGRES = f"{LAKE}postgres:"
_POSITIONS = "turnlog_positions"
_OF_SESSIONS = (SESSIONS, TURNS, TOOL_CALLS)  #: these change only with their session, which has its newest offset
_CONFLICT = re.compile(r"conflict", re.IGNORECASE)
_OTHER_DATA = re.compile(r'DATA_PATH parameter .* does not match existing data path in the catalog (".*")')
_REFUSED = re.compile(r"\(HTTP (code )?40[13]\b")


def export_to_lake(snapshot: Path, address: str, *, data: str | None = None, schema: str = "main") -> ExportReport:
    """Bring the lake's tables up to the snapshot. Blocks.

    ``address``: ``ducklake:FILE`` or ``ducklake:postgres:PARAMETERS``. ``data``: where its Parquet goes, a folder or
    ``s3://BUCKET/PREFIX``, needed when the lake is made. ``schema``: of the tables, one for each deployment. Raises
    :class:`MissingExtraError`, :class:`UsageError`, :class:`SnapshotIsOlderError`, :class:`TurnlogError`.
    """
    if not address.startswith(LAKE):
        # Not repeated: it may be parameters with a password.
        raise UsageError("--into is no lake: write ducklake:FILE or ducklake:postgres:PARAMETERS")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", schema):
        raise UsageError(f"--schema {schema!r}: letters, digits and _ only")
    with open_source(snapshot) as source:
        load_extensions(source.connection, address)
        try:
            with _attached(source.connection, address, data):
                return _Lake(source, f'lake."{schema}"').run()
        except duckdb.Error as error:
            # Without its cause: that one's text may have passwords.
            raise _explained(error, address) from None


def _explained(error: duckdb.Error, address: str) -> TurnlogError:
    text = without_secrets(str(error))
    if address.startswith(_POSTGRES) and (parameters := address.removeprefix(_POSTGRES)):
        text = text.replace(parameters, "…")
    if _CONFLICT.search(text):
        return TurnlogError(f"Another export changed the lake meanwhile, and this one has changed nothing: {text}")
    if (found := _OTHER_DATA.search(text)) is not None:
        return UsageError(
            f"the lake keeps its data where its first export put it, in {found[1]}: "
            "leave --data out, or begin another lake; one into which no export has succeeded yet can begin anew, "
            "once its catalog is deleted"
        )
    failed = "Exporting into the lake failed, and nothing of this export is in it"
    if isinstance(error, duckdb.HTTPException) and _REFUSED.search(text):
        return TurnlogError(f"{failed}: the object store refuses the credentials, or they may not do this: {text}")
    return TurnlogError(f"{failed}: {text}")


def load_extensions(connection: duckdb.DuckDBPyConnection, address: str) -> None:
    """The extensions, from the packages that bring them: nothing is downloaded. Raises :class:`MissingExtraError`."""
    # A catalog that is there already says where its data is only to who can open that place.
    needed = ["ducklake", "httpfs", *(["postgres_scanner"] if address.startswith(_POSTGRES) else [])]
    for name in needed:
        spec = importlib.util.find_spec(f"duckdb_extension_{name}")
        if spec is None or spec.origin is None:
            raise MissingExtraError(f"turnlog export --into {LAKE} needs more: pip install 'turnlog[lake]'")
        version = str(duckdb.__version__)
        file = Path(spec.origin).parent / "extensions" / f"v{version}" / f"{name}.duckdb_extension"
        if not file.is_file():
            raise MissingExtraError(
                f"the installed extension {name!r} is for another version than DuckDB {version}: "
                "pip install 'turnlog[lake]' installs those that fit each other"
            )
        try:
            connection.execute(f"LOAD {literal(file)}")
        except duckdb.Error as error:
            raise TurnlogError(f"DuckDB's extension {name!r} cannot be loaded: {error}") from error


@contextmanager
def _attached(connection: duckdb.DuckDBPyConnection, address: str, data: str | None) -> Iterator[None]:
    options = f" (DATA_PATH {literal(data)})" if data is not None else ""
    if data is not None:
        set_credentials(connection, data)  # before there is a catalog, if there cannot be one
    connection.execute(f"ATTACH {literal(address)} AS lake{options}")
    try:
        if data is None:
            found = connection.execute("SELECT data_path FROM ducklake_settings('lake')").fetchone()
            set_credentials(connection, found[0] if found else "")
        yield
    finally:
        connection.execute("DETACH lake")


class _Lake:
    """One export into an attached lake."""

    def __init__(self, source: Source, schema: str) -> None:
        self._source, self._schema = source, schema
        self._rows = 0
        self._tables = 0

    def run(self) -> ExportReport:
        """Everything in one transaction."""
        connection = self._source.connection
        connection.execute("BEGIN")
        try:
            exported = self._begun()
            tables.set_exported(self._source, exported, f"the lake ({self._schema})")
            if exported and tables.were_erased(self._source):
                self._empty()
            for table in EXPORTED:
                self._table(table)
                crash_point("export.lake_table")
            positions = dict(self._source.positions)
            if self._rows or positions != exported:
                self._say(positions)
                crash_point("export.lake_commit")
                connection.execute("COMMIT")
            else:
                connection.execute("ROLLBACK")
        except BaseException as error:
            if not isinstance(error, duckdb.TransactionException):
                connection.execute("ROLLBACK")
            raise
        return ExportReport(rows=self._rows, files=self._tables, positions=positions)

    def _begun(self) -> dict[int, int]:
        """The lake's positions; its tables, if it has none yet. Raises :class:`UsageError`."""
        connection = self._source.connection
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._schema}.{_POSITIONS} "
            "(partition BIGINT, next_offset BIGINT, projection_version BIGINT, exported_at TIMESTAMP WITH TIME ZONE)"
        )
        for table in EXPORTED:
            columns = tables.as_written(self._source.columns(table))
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._schema}.{table.name} AS "
                f"SELECT {columns} FROM {tables.name_of(table)} AS rows LIMIT 0"
            )
        found = connection.execute(
            f"SELECT partition, next_offset, projection_version FROM {self._schema}.{_POSITIONS}"
        ).fetchall()
        if others := {version for _, _, version in found} - {tables.VERSION}:
            raise UsageError(
                f"the lake's tables in {self._schema} are of version {min(others)}, the snapshot's of {tables.VERSION} "
                "and may have other columns and rows: export into a new --schema"
            )
        return {partition: offset for partition, offset, _ in found}

    def _empty(self) -> None:
        """Its rows may hold texts of sessions that were erased since: everything is exported anew, in this export."""
        for table in EXPORTED:
            self._source.connection.execute(f"DELETE FROM {self._schema}.{table.name}")
        tables.set_exported(self._source, {}, f"the lake ({self._schema})")

    def _say(self, positions: dict[int, int]) -> None:
        connection, table = self._source.connection, f"{self._schema}.{_POSITIONS}"
        connection.execute(f"DELETE FROM {table}")
        for partition, offset in sorted(positions.items()):
            connection.execute(f"INSERT INTO {table} VALUES (?, ?, ?, now())", [partition, offset, tables.VERSION])

    def _table(self, table: Table) -> None:
        if tables.of_the_log(table):
            self._insert(table, f"WHERE {tables.is_new('rows.log_offset')}")
        else:
            self._replace(table)

    def _insert(self, table: Table, where: str) -> None:
        columns = tables.as_written(self._source.columns(table))
        done = self._source.connection.execute(
            f"INSERT INTO {self._schema}.{table.name} SELECT {columns} FROM {tables.name_of(table)} AS rows {where} "
            f"ORDER BY {tables.identity(table)}"
        ).fetchone()
        self._count(done)

    def _replace(self, table: Table) -> None:
        """Rows that are new or different, in place of those with their keys."""
        connection, key = self._source.connection, tables.identity(table)
        columns = tables.as_written(self._source.columns(table))
        where = self._may_differ(table)
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE changed AS SELECT {columns} FROM {tables.name_of(table)} AS rows "
            f"WHERE {where} EXCEPT SELECT * FROM {self._schema}.{table.name} AS rows WHERE {where}"
        )
        connection.execute(
            f"DELETE FROM {self._schema}.{table.name} WHERE ({key}) IN (SELECT ({key}) FROM temp.changed)"
        )
        done = connection.execute(
            f"INSERT INTO {self._schema}.{table.name} SELECT * FROM temp.changed ORDER BY {key}"
        ).fetchone()
        self._count(done)

    def _may_differ(self, table: Table) -> str:
        """SQL that spares us the rows of sessions that nothing was heard of."""
        if table not in _OF_SESSIONS:
            return "true"
        heard = f"SELECT (partition, session_offset) FROM {tables.name_of(SESSIONS)} AS rows"
        return f"(rows.partition, rows.session_offset) IN ({heard} WHERE {tables.is_new('rows.last_offset')})"

    def _count(self, done: tuple[int, ...] | None) -> None:
        count = done[0] if done else 0
        self._rows += count
        self._tables += bool(count)
