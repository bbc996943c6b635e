"""The tools that are installed: entry points of the group ``turnlog.tools``."""

import logging
from importlib.metadata import entry_points

from turnlog_workers.runners.checked import type_name
from turnlog_workers.tools.base import NAME, Tool
from turnlog_workers.tools.function_tool import FunctionTool

GROUP = "turnlog.tools"
log = logging.getLogger(__name__)


def installed_names() -> tuple[str, ...]:
    """The names of all installed tools, sorted; none of them is imported for it."""
    return tuple(sorted({entry_point.name for entry_point in entry_points(group=GROUP)}))


def load(name: str) -> Tool | None:
    """The installed tool of that name; ``None``: it cannot be used, and the log says why.

    An entry point names what :func:`turnlog_workers.tools.function_tool.tool` made, or a plain function.
    """
    for entry_point in entry_points(group=GROUP, name=name):
        try:
            found = entry_point.load()
            made = found if isinstance(found, FunctionTool) else FunctionTool(found, name=name)
        except BaseException as error:  # whatever a plug-in's import does, it must not end the worker
            log.error("the tool %.100s (%.200s) cannot be loaded: %s", name, entry_point.value, type_name(error))
            return None
        if made.name != name or not NAME.fullmatch(name):
            log.error("the tool %.100s calls itself %.100s: the entry point must have its name", name, made.name)
            return None
        return made
    return None
