"""Copies of records with some fields changed."""

from dataclasses import dataclass, replace

import pytest

from turnlog_streams.records import changed


@dataclass(frozen=True, kw_only=True)
class Open:
    first: int = 1
    second: str = "two"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slotted:
    first: int = 1
    second: str = "two"


@pytest.mark.parametrize("record", [Open(), Slotted()], ids=["open", "slotted"])
def test_a_copy_is_what_replace_makes(record: Open | Slotted) -> None:
    before = replace(record)
    copy = changed(record, second="three")
    assert copy == replace(record, second="three")
    assert type(copy) is type(record)
    assert hash(copy) == hash(replace(record, second="three"))
    assert record == before


@pytest.mark.parametrize("record", [Open(), Slotted()], ids=["open", "slotted"])
def test_a_field_that_there_is_not_is_named(record: Open | Slotted) -> None:
    with pytest.raises(TypeError, match="'third'"):
        changed(record, second="three", third=3)
