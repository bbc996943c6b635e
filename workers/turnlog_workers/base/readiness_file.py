"""How a child of the development stack tells its supervisor that it serves.

The supervisor sets ``TURNLOG_READY_FILE`` for each start of a child and removes the file before it; a child without
that variable (started by hand) tells nobody.
"""

import os
from collections.abc import Mapping
from pathlib import Path

READY_FILE_VARIABLE = "TURNLOG_READY_FILE"


def mark_ready(environ: Mapping[str, str] = os.environ) -> None:
    """Create the readiness file that the supervisor waits for; without one asked for, do nothing. Safe to call again.

    Raises OSError when the file's directory is gone.
    """
    path = environ.get(READY_FILE_VARIABLE)
    if path:
        Path(path).touch()


def mark_unready(environ: Mapping[str, str] = os.environ) -> None:
    """Take the readiness file away: the process runs, and does not do all of what it is for."""
    path = environ.get(READY_FILE_VARIABLE)
    if path:
        Path(path).unlink(missing_ok=True)
