"""``changed``: like ``dataclasses.replace``, compiled once per class (the fold runs it for every event)."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")


@cache
def _copier(cls: type) -> Callable[[Any, dict[str, Any]], Any]:
    names = [field.name for field in dataclasses.fields(cls)]
    arguments = ", ".join(f"{name}=c[{name!r}] if {name!r} in c else o.{name}" for name in names)
    return cast(Callable[[Any, dict[str, Any]], Any], eval(f"lambda o, c: cls({arguments})", {"cls": cls}))


def changed(record: T, **changes: Any) -> T:
    """A copy of a frozen dataclass with some fields changed. Unknown names are a ``TypeError``."""
    cls: Any = record.__class__
    unknown = changes.keys() - cls.__dataclass_fields__.keys()
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {min(unknown)!r}")
    return cast(T, _copier(cls)(record, changes))
