"""Arbitrary records: a hypothesis strategy for every dataclass of the wire, made from its type hints."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from turnlog_schemas.registry import FAMILIES, Family

#: Whatever UTF-8 can carry: every character but halves of surrogate pairs.
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
PRIMITIVES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(min_value=-(2**63), max_value=2**63 - 1),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that our records use."""
    if hint in PRIMITIVES:
        return PRIMITIVES[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*(st.none() if arg is types.NoneType else values(arg) for arg in args))
    if origin is tuple:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin in (dict, Mapping):
        return st.dictionaries(TEXT, TEXT, max_size=3)
    return records(hint)


def records(cls: type) -> st.SearchStrategy[Any]:
    """Any instance of a dataclass."""
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)})


def of_family(family: Family) -> st.SearchStrategy[tuple[Any, Any]]:
    """Any header and payload of a family."""
    return st.tuples(records(family.header), st.one_of(*(records(payload) for payload in family.payloads)))


def any_record() -> st.SearchStrategy[tuple[Family, Any, Any]]:
    """Any family, with a header and a payload of it; every record type is as likely."""
    return st.one_of(
        *(
            st.tuples(st.just(family), records(family.header), records(payload))
            for family in FAMILIES.values()
            for payload in family.payloads
        )
    )
