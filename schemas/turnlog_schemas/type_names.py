"""The names of record types: in schemas as the classes say them, in JSON in snake case."""

import re
from functools import cache


@cache
def snake(name: str) -> str:
    """``TextDelta`` -> ``text_delta``: the type names of the JSON form."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
