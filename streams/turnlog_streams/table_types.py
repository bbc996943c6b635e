"""Columns and tables as row types declare them, and the one table that every file has: its checkpoints."""

import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, NewType

Millis = NewType("Millis", int)  #: milliseconds since 1970; a moment in tables, the same in every time zone
Json = NewType("Json", str)  #: JSON text
Blob = NewType("Blob", bytes)

#: The schema of the projection's own tables in the analysts' file: its readers get views of them.
INTERNAL = "internal"

#: The SQL type of :data:`Millis`. A plain TIMESTAMP would compare with now() as if it were the reader's local time.
MOMENT = "TIMESTAMPTZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its SQL type, and whether it may be NULL."""

    name: str
    sql_type: str
    nullable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the materialization. ``key`` identifies and orders its rows; ``updated``: what later events change."""

    name: str
    row: type
    key: tuple[str, ...]
    updated: tuple[str, ...] = ()
    rarely_updated: tuple[str, ...] = ()  #: apart, since an update costs by the column
    not_of_the_log: tuple[str, ...] = ()  #: columns that are no function of the event log
    schema: str = ""  #: where it stands in a file; empty: the main one

    @property
    def place(self) -> str:
        """Its name in statements."""
        return f"{self.schema}.{self.name}" if self.schema else self.name

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, in the order of the row's fields."""
        return columns_of(self.row)


_SQL_TYPES: dict[Any, str] = {
    str: "VARCHAR",
    int: "BIGINT",
    bool: "BOOLEAN",
    Blob: "BLOB",
    Millis: MOMENT,
    Json: "JSON",
}


@cache
def columns_of(row: type) -> tuple[Column, ...]:
    """The columns that a row type declares."""
    return tuple(_column(name, hint) for name, hint in typing.get_type_hints(row).items())


def _column(name: str, hint: Any) -> Column:
    nullable = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if nullable:
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    return Column(name=name, sql_type=_SQL_TYPES[hint], nullable=nullable)


class PartitionRow(NamedTuple):
    """How far a partition's log is materialized: ``reader_rule.LogPosition``."""

    partition: int
    next_offset: int
    epoch: int
    next_n: int
    accepted: int
    replied: int
    newest_generation: int
    partition_count: int
    requests_topic_id: str
    last_event_id: str


PARTITIONS = Table(name="partitions", row=PartitionRow, key=("partition",), updated=PartitionRow._fields[1:])
