"""Two analysts' files, table by table: the hashes of their rows in key order, and the first row that differs.

Rows are hashed one by one, then block by block of their keys, so that neither a table of any size nor one long text is
ever in memory; blocks that differ say where to look for the row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import duckdb

from turnlog_streams.table_types import MOMENT, Table

_BLOCK_ROWS = 65_536

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first row in key order that one file has and the other has not."""

    table: str
    key: Row
    left: tuple[Row, ...]  #: the rows of this key, as a rule one; empty: it is missing
    right: tuple[Row, ...]

    @property
    def columns(self) -> list[str]:
        """In which columns they differ, where both have one row."""
        if len(self.left) != 1 or len(self.right) != 1:
            return []
        return [name for name, value in self.left[0].items() if self.right[0][name] != value]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHash:
    """A table as it was compared."""

    table: str
    rows: int
    md5: str  #: of all rows in key order


def compare(
    connection: duckdb.DuckDBPyConnection,
    left: str,
    right: str,
    tables: Iterable[Table],
    report: Callable[[str], None] = lambda table: None,
) -> tuple[list[TableHash], Difference | None]:
    """Compare tables of two attached databases, up to the first that differs; the hashes of those that are equal.

    Raises ``duckdb.Error``; a table that is not there is one.
    """
    equal: list[TableHash] = []
    for table in tables:
        report(table.name)
        ours, theirs = (_blocks(connection, database, table) for database in (left, right))
        if ours != theirs:
            apart = {block[0] for block in set(ours) ^ set(theirs)}
            return equal, _first(connection, left, right, table, min(apart))
        equal.append(TableHash(table=table.name, rows=sum(b[1] for b in ours), md5=_combined(connection, ours)))
    return equal, None


def _blocks(connection: duckdb.DuckDBPyConnection, database: str, table: Table) -> list[tuple[str, int, str]]:
    """Of each block of keys: its name (in order), how many rows it has, and their hash."""
    key = ", ".join(table.key)
    hashed = f"SELECT {_columns(table)} FROM {database}.{table.place}"
    hashed = f"SELECT {_block(table)} AS block, {key}, md5(to_json(r)::VARCHAR) AS hash FROM ({hashed}) r"
    rows = connection.execute(
        f"SELECT block, count(*), md5(string_agg(hash, '' ORDER BY {key}, hash)) FROM ({hashed}) "
        "GROUP BY block ORDER BY block"
    )
    return [(block, count, md5) for block, count, md5 in rows.fetchall()]


def _combined(connection: duckdb.DuckDBPyConnection, blocks: list[tuple[str, int, str]]) -> str:
    found = connection.execute("SELECT md5($1)", ["".join(md5 for *_, md5 in blocks)]).fetchone()
    assert found is not None
    return str(found[0])


def _block(table: Table) -> str:
    """A name for the block of a row, in the order of keys: its partition, and a part of its offsets."""
    offset = next((name for name in table.key if name.endswith("_offset")), None)
    part = f"{offset} // {_BLOCK_ROWS}" if offset else "0"
    return f"format('{{:08d}}.{{:016d}}', partition, {part})"


def _columns(table: Table) -> str:
    """What is compared. A moment's text depends on the connection's time zone."""
    return ", ".join(
        f"epoch_ms({column.name}) AS {column.name}" if column.sql_type == MOMENT else column.name
        for column in table.columns
        if column.name not in table.not_of_the_log
    )


def _first(connection: duckdb.DuckDBPyConnection, left: str, right: str, table: Table, block: str) -> Difference:
    key = ", ".join(table.key)

    def rows(database: str) -> str:
        return f"SELECT {_columns(table)} FROM {database}.{table.place} WHERE {_block(table)} = $1"

    ours, theirs = rows(left), rows(right)
    found = connection.execute(
        f"SELECT {key} FROM (({ours} EXCEPT ALL {theirs}) UNION ALL ({theirs} EXCEPT ALL {ours})) "
        f"ORDER BY {key} LIMIT 1",
        [block],
    ).fetchone()
    assert found is not None
    place = dict(zip(table.key, found, strict=True))
    return Difference(
        table=table.name,
        key=place,
        left=_rows_of(connection, left, table, place),
        right=_rows_of(connection, right, table, place),
    )


def _rows_of(connection: duckdb.DuckDBPyConnection, database: str, table: Table, place: Row) -> tuple[Row, ...]:
    where = " AND ".join(f"{name} IS NOT DISTINCT FROM ${number}" for number, name in enumerate(place, start=1))
    cursor = connection.execute(
        f"SELECT {_columns(table)} FROM {database}.{table.place} WHERE {where} ORDER BY ALL", list(place.values())
    )
    names = [column[0] for column in cursor.description or ()]
    return tuple(dict(zip(names, row, strict=True)) for row in cursor.fetchall())
