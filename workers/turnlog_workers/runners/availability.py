"""Whether a provider could answer from here: its packages, its keys. A factory may say so; one that does not, can."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What is missing before a provider can answer. Nothing missing: it can."""

    missing_packages: tuple[str, ...] = ()
    missing_keys: tuple[str, ...] = ()  #: names of variables, never a value
    missing_settings: tuple[str, ...] = ()  #: names of variables
    advice: str = ""  #: what to run or set
    note: str = ""  #: what else there is to know

    @property
    def ready(self) -> bool:
        """Could it answer from here?"""
        return not (self.missing_packages or self.missing_keys or self.missing_settings)


@runtime_checkable
class SaysAvailability(Protocol):
    """A :class:`~turnlog_workers.runners.base.RunnerFactory` that knows what it needs."""

    def availability(self) -> Availability:
        """As things are in this process now. Cheap: nothing is imported, nobody is asked."""
        ...
