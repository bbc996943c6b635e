"""Our packages have names that others use too (PyPI has a `schemas` and a `workers`): check that ours are the ones
that Python finds, and name the intruder if not."""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("schemas", "streams", "workers", "turnlog")
#: One module of each that no other package has: two packages installed into one folder show by a missing one.
_MARKS = {"schemas": "registry.py", "streams": "reader_rule.py", "workers": "runners", "turnlog": "cli"}
_ADVICE = "Install Turnlog into an environment of its own: python -m venv .venv"

Locate = Callable[[str], Path | None]


def locate(name: str) -> Path | None:
    """The folder that ``import name`` would use; ``None`` when there is none."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def find_intruder(home: Path, locate: Locate = locate) -> str | None:
    """One sentence on the first package that is not ours; ``None`` when all four lie in ``home``."""
    for name in PACKAGES:
        place = locate(name)
        if place is None:
            return f"Turnlog's package '{name}' is missing from {home}. {_ADVICE}, then install it again."
        if place != home / name:
            return (
                f"Python finds another package '{name}' at {place} instead of Turnlog's in {home}. Uninstall or rename "
                f"that one, or leave the folder it lies in. {_ADVICE}."
            )
        if not (place / _MARKS[name]).exists():
            return f"Another package '{name}' was installed over Turnlog's in {place}. {_ADVICE}."
    return None


def find_foreign_distribution() -> str | None:
    """One sentence on an installed distribution that has the name of one of our packages."""
    for name in PACKAGES[:-1]:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return (
            f"The distribution '{name}' {version} is installed in this environment and has a package of the same name "
            f"as Turnlog's. Uninstall it (python -m pip uninstall {name}), then install Turnlog again. {_ADVICE}."
        )
    return None


def check() -> str | None:
    """What is wrong with this installation, as a sentence; ``None`` when nothing is."""
    return find_intruder(Path(__file__).resolve().parents[2]) or find_foreign_distribution()
