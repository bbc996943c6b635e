"""Small JSON files that a reader never sees half-written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file in one step. One writer at a time."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    new.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty when the file is missing, damaged or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
