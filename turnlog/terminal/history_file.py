"""Where prompts keep what was typed at them."""

import os
from pathlib import Path


def history_file(name: str) -> Path:
    """A file of the user's own, by the XDG base directories (``$XDG_STATE_HOME``, else ``~/.local/state``)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "turnlog" / name
