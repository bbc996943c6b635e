"""A class with a direct constructor is the frozen dataclass that it says it is."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest

from turnlog_schemas.direct_init import direct_init


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    number: int
    text: str = "none"
    names: dict[str, str] = field(default_factory=dict)


@direct_init
@dataclass(frozen=True, kw_only=True)
class WithoutSlots:
    number: int
    text: str = "none"
    names: dict[str, str] = field(default_factory=dict)


BOTH = pytest.mark.parametrize("direct", [Direct, WithoutSlots])


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    number: int
    text: str = "none"
    names: dict[str, str] = field(default_factory=dict)


@BOTH
@pytest.mark.parametrize("values", [{"number": 1}, {"number": 2, "text": "t"}, {"number": 3, "names": {"a": "b"}}])
def test_fields_and_defaults_are_those_of_the_dataclass(direct: Any, values: dict[str, Any]) -> None:
    assert dataclasses.asdict(direct(**values)) == dataclasses.asdict(Usual(**values))
    assert direct(**values) == direct(**values)


@BOTH
def test_each_instance_gets_its_own_default(direct: Any) -> None:
    assert direct(number=1).names is not direct(number=1).names


@BOTH
def test_it_stays_frozen(direct: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        direct(number=1).number = 2
    assert dataclasses.replace(direct(number=1), number=2) == direct(number=2)


@pytest.mark.parametrize("cls", [Direct, WithoutSlots, Usual])
@pytest.mark.parametrize("values", [{}, {"number": 1, "other": 2}])
def test_what_is_missing_or_unknown_is_refused(cls: type, values: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        cls(**values)
    with pytest.raises(TypeError):
        cls(1)
