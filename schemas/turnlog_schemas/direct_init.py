"""A faster ``__init__`` for frozen dataclasses that are made by the dozen for every turn."""

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")


def direct_init(cls: type[T]) -> type[T]:
    """Above ``@dataclass(frozen=True, kw_only=True)``: the same constructor in about half the time.

    The one that Python makes sets each field through ``object.__setattr__``, which looks the slot up by its name; this
    one calls the slots themselves, or sets all of a class without slots in one step.
    """
    slotted = "__slots__" in cls.__dict__
    names: dict[str, Any] = {"set_all": object.__setattr__}
    parameters, lines = [], []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = field.name
        if slotted:
            names[f"set_{name}"] = getattr(cls, name).__set__
        value = name
        if field.default is not dataclasses.MISSING:
            names[f"default_{name}"] = field.default
            parameters.append(f"{name}=default_{name}")
        elif field.default_factory is not dataclasses.MISSING:
            names |= {f"make_{name}": field.default_factory, "missing": dataclasses.MISSING}
            parameters.append(f"{name}=missing")
            value = f"make_{name}() if {name} is missing else {name}"
        else:
            parameters.append(name)
        lines.append(f"    set_{name}(self, {value})" if slotted else f"{name!r}: {value}")
    if not slotted:
        lines = [f"    set_all(self, '__dict__', {{{', '.join(lines)}}})"]
    exec("\n".join([f"def __init__(self, *, {', '.join(parameters)}):", *lines]), names)
    made: Any = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__annotations__ = cls.__init__.__annotations__
    cls.__init__ = made  # type: ignore[method-assign]
    return cls
