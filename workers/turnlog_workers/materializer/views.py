"""What analysts find in the file: views of the projection's tables, each column with its meaning, and a search.

One declaration of a view gives its statement, its comments (``duckdb_views()``, ``duckdb_columns()``) and its section
of docs/tables.md. Views hold no rows: they are made anew whenever they say something else.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb

from turnlog_workers.store.tables import quoted, transaction

UTC = (
    "a moment, stored as UTC, shown in the connection's time zone (SET TimeZone = 'UTC'); from a worker's clock, so "
    "order by offsets"
)
_MARK = "What this file is of, and its views: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a view. ``source``: the event or view that says it; ``sql``: how, if not by its own name."""

    name: str
    meaning: str
    source: str
    sql: str

    @property
    def comment(self) -> str:
        """What the file says about it."""
        return f"{self.meaning}. Source: {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view: what one row is, its columns, and what follows SELECT."""

    name: str
    about: str
    columns: tuple[Column, ...]
    rest: str  #: from FROM on

    def statements(self) -> list[str]:
        """Make it, with its comments."""
        selected = ", ".join(f"{column.sql} AS {column.name}" for column in self.columns)
        return [
            f"CREATE OR REPLACE VIEW {self.name} AS SELECT {selected} {self.rest}",
            f"COMMENT ON VIEW {self.name} IS '{quoted(self.about)}'",
            *(f"COMMENT ON COLUMN {self.name}.{c.name} IS '{quoted(c.comment)}'" for c in self.columns),
        ]


def column(name: str, meaning: str, source: str, sql: str = "") -> Column:
    """``sql``: absent: the column of this name."""
    return Column(name=name, meaning=meaning, source=source, sql=sql or name)


def moment(name: str, meaning: str, source: str, sql: str = "") -> Column:
    """A column that is a time."""
    return column(name, f"{meaning}: {UTC}", source, sql)


def of(alias: str, columns: Iterable[Column]) -> tuple[Column, ...]:
    """Columns that are not computed, of this table of a join."""
    return tuple(
        Column(name=c.name, meaning=c.meaning, source=c.source, sql=f"{alias}.{c.sql}") if c.sql == c.name else c
        for c in columns
    )


def ensure_views(connection: duckdb.DuckDBPyConnection, statements: Sequence[str]) -> None:
    """Make the views, unless the file has these very ones. ``connection`` uses the file. Raises ``duckdb.Error``."""
    mark = _MARK + hashlib.sha256("\0".join(statements).encode()).hexdigest()[:16]
    found = connection.execute(
        "SELECT comment FROM duckdb_tables() WHERE database_name = current_database() AND table_name = 'about'"
    ).fetchone()
    if found is not None and found[0] == mark:
        return
    with transaction(connection):
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"COMMENT ON TABLE about IS '{mark}'")
