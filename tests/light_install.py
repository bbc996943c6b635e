"""What `pip install turnlog` brings, found by the metadata of the packages that are installed here."""

from importlib.metadata import Distribution, distribution, packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def client_distributions() -> dict[str, Distribution]:
    """All that the project needs without any extra, itself included, by name."""
    found: dict[str, Distribution] = {}
    _add(Requirement("turnlog"), found)
    return found


def _add(requirement: Requirement, found: dict[str, Distribution]) -> None:
    name = canonicalize_name(requirement.name)
    if name in found and not requirement.extras:
        return
    found[name] = distribution(name)
    for line in found[name].requires or ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in requirement.extras or {""}):
            _add(needed, found)


def modules_of_others() -> set[str]:
    """Top-level modules that are installed here and would not be there."""
    ours = client_distributions().keys()
    tools = {"pip", "setuptools", "_distutils_hack", "pkg_resources", "editables"}
    return {
        module
        for module, owners in packages_distributions().items()
        if module not in tools and not ours & {canonicalize_name(owner) for owner in owners}
    }
