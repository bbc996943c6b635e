"""Faust without the HTTP client that one of its type annotations names."""

import importlib
import sys
from types import ModuleType

_CLIENT = "aiohttp"


def import_faust() -> None:
    """Import Faust's types before anything else of Faust, for a process that will not need aiohttp.

    ``faust.types.web`` imports it for an annotation, whether or not Faust serves HTTP (a worker of ours does not). That
    is 0.2 s of CPU time at each start, half of it for reading the system's certificates twice. A later import of
    aiohttp, ours or a plug-in's, gets the real one.
    """
    if _CLIENT in sys.modules:
        return
    stand_ins = {_CLIENT: ModuleType(_CLIENT), f"{_CLIENT}.client": ModuleType(f"{_CLIENT}.client")}
    stand_ins[f"{_CLIENT}.client"].__dict__["ClientSession"] = object
    sys.modules.update(stand_ins)
    try:
        importlib.import_module("faust.types.web")
    finally:
        for name in stand_ins:
            del sys.modules[name]
