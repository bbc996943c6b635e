"""A planted difference is found, in every table and of every kind: nothing that analysts read is left out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.event_logs import accepted_batches, random_log
from turnlog_streams.projection.rows import TABLES
from turnlog_streams.table_types import Column, Table
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind
from turnlog_workers.materializer.comparison import Difference, compare

KIND = analysts_kind("chat.events id", (0, 1))
_OTHER = {"VARCHAR": "'other'", "JSON": "'\"other\"'", "BIGINT": "-7", "BLOB": "'other'::BLOB"}
_OTHER["TIMESTAMPTZ"] = "TIMESTAMPTZ '2001-02-03 04:05:06+00'"

_ANOTHER = {"VARCHAR": "'another'", "JSON": "'\"another\"'", "BIGINT": "-8"}
_ANOTHER["TIMESTAMPTZ"] = "TIMESTAMPTZ '2002-02-03 04:05:06+00'"


def made(path: Path, batch: int) -> Path:
    """The file of two logs, committed in batches of so many events."""
    file = AnalystsFile(path, KIND)
    try:
        for partition in range(2):
            for events, position in accepted_batches(
                random_log(4 + partition, 100, partition=partition).records, batch
            ):
                file.write(events, {partition: position})
        file.checkpoint()
    finally:
        file.close()
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same log twice, in other batches; every table has a row."""
    folder = tmp_path_factory.mktemp("files")
    both = made(folder / "left.duckdb", 30), made(folder / "right.duckdb", 1_000)
    for path in both:
        with duckdb.connect(str(path)) as connection:
            for table in TABLES:
                if connection.execute(f"SELECT count(*) FROM {table.place}").fetchone() == (0,):
                    values = ", ".join(_OTHER.get(column.sql_type, "true") for column in table.columns)
                    connection.execute(f"INSERT INTO {table.place} VALUES ({values})")
    return both


@pytest.fixture
def both(files: tuple[Path, Path]) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:")
    connection.execute(f"ATTACH '{files[0]}' AS live")
    connection.execute(f"ATTACH '{files[1]}' AS log (READ_ONLY)")
    yield connection
    connection.close()


def _changed(column: Column) -> str:
    """Sets it to something else, whatever it is."""
    name = column.name
    if column.sql_type == "BOOLEAN":
        return f"{name} = NOT coalesce({name}, false)"
    other, another = _OTHER[column.sql_type], _ANOTHER.get(column.sql_type, "NULL")
    return f"{name} = CASE WHEN {name} IS NOT DISTINCT FROM {other} THEN {another} ELSE {other} END"


def difference(connection: duckdb.DuckDBPyConnection) -> Difference | None:
    return compare(connection, "live", "log", TABLES)[1]


def test_equal_logs_make_equal_files_whatever_the_batches(both: duckdb.DuckDBPyConnection) -> None:
    tables, found = compare(both, "live", "log", TABLES)
    assert found is None
    assert [table.table for table in tables] == [table.name for table in TABLES]
    assert all(table.rows for table in tables)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_planted_difference_in_each_table_is_found(both: duckdb.DuckDBPyConnection, table: Table) -> None:
    key = ", ".join(table.key)
    first = both.execute(f"SELECT {key} FROM live.{table.place} ORDER BY {key} LIMIT 1").fetchone()
    last = both.execute(f"SELECT {key} FROM live.{table.place} ORDER BY {key} DESC LIMIT 1").fetchone()
    assert first is not None
    assert last is not None
    where = " AND ".join(f"{name} = ${number}" for number, name in enumerate(table.key, start=1))

    def planted(statement: str, place: tuple[Any, ...]) -> Difference:
        both.execute("BEGIN")
        both.execute(statement, list(place))
        found = compare(both, "live", "log", [table])[1]
        both.execute("ROLLBACK")
        assert found is not None, statement
        assert (found.table, tuple(found.key.values())) == (table.name, place)
        return found

    gone = planted(f"DELETE FROM live.{table.place} WHERE {where}", last)
    assert (len(gone.left), len(gone.right)) == (0, 1)
    twice = planted(f"INSERT INTO live.{table.place} FROM live.{table.place} WHERE {where}", first)
    assert (len(twice.left), len(twice.right)) == (2, 1)
    compared = [c for c in table.columns if c.name not in table.key and c.name not in table.not_of_the_log]
    found = planted(f"UPDATE live.{table.place} SET {', '.join(map(_changed, compared))} WHERE {where}", last)
    assert found.columns == [column.name for column in compared]


def test_the_bytes_of_dead_letters_are_not_of_the_log(both: duckdb.DuckDBPyConnection) -> None:
    both.execute("BEGIN")
    both.execute("UPDATE live.internal.dead_letters SET bytes = 'other'::BLOB")
    assert difference(both) is None
    both.execute("ROLLBACK")


def test_empty_text_and_null_differ(both: duckdb.DuckDBPyConnection) -> None:
    both.execute("BEGIN")
    both.execute("UPDATE live.internal.messages SET name = '' WHERE name IS NULL")
    found = difference(both)
    assert found is not None
    assert (found.table, found.columns) == ("messages", ["name"])
    assert json.dumps(found.left)
    both.execute("ROLLBACK")
