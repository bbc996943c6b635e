"""A class with a direct constructor is the frozen dataclass that it says it is."""

import dataclasses
from dataclasses import dataclass, field

import pytest

from turnlog_schemas.direct_init import direct_init


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    number: int
    text: str = "none"
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    number: int
    text: str = "none"
    names: dict[str, str] = field(default_factory=dict)


@pytest.mark.parametrize("values", [{"number": 1}, {"number": 2, "text": "t"}, {"number": 3, "names": {"a": "b"}}])
def test_fields_and_defaults_are_those_of_the_dataclass(values: dict[str, object]) -> None:
    assert dataclasses.asdict(Direct(**values)) == dataclasses.asdict(Usual(**values))  # type: ignore[arg-type]
    assert Direct(**values) == Direct(**values)  # type: ignore[arg-type]


def test_each_instance_gets_its_own_default() -> None:
    assert Direct(number=1).names is not Direct(number=1).names


def test_it_stays_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Direct(number=1).number = 2  # type: ignore[misc]
    assert dataclasses.replace(Direct(number=1), number=2) == Direct(number=2)


@pytest.mark.parametrize("cls", [Direct, Usual])
@pytest.mark.parametrize("values", [{}, {"number": 1, "other": 2}])
def test_what_is_missing_or_unknown_is_refused(cls: type, values: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        cls(**values)
    with pytest.raises(TypeError):
        cls(1)
