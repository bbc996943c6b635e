"""``changed``: like ``dataclasses.replace``, compiled once per class and set of fields (the fold runs it often)."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")


@cache
def _copier(cls: type, *names: str) -> Callable[..., Any]:
    """A function that copies a record and changes these fields, past the frozen class as its ``__init__`` does."""
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = set(names).difference(known)
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {min(unknown)!r}")
    setters: dict[str, Any] = {f"set_{name}": getattr(cls, name).__set__ for name in known}
    lines = [f"    set_{name}(new, {name if name in names else f'old.{name}'})" for name in known]
    source = "\n".join([f"def copy(old, {', '.join(['*', *names])}):", "    new = make(cls)", *lines, "    return new"])
    namespace = {"cls": cls, "make": object.__new__, **setters}
    exec(source, namespace)
    return cast(Callable[..., Any], namespace["copy"])


def changed(record: T, **changes: Any) -> T:
    """A copy of a frozen, slotted dataclass with some fields changed. Unknown names are a ``TypeError``."""
    cls: Any = record.__class__
    return cast(T, _copier(cls, *changes)(record, **changes))
