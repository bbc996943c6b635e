"""Copies beside a live analysts' file, which no event of an erasure would reach: all come back when asked for."""

import logging
import shutil
from pathlib import Path

from turnlog_workers.materializer.rebuild_places import parts_of, rebuilt_of, temp_of, unfinished_of
from turnlog_workers.store import database_files

log = logging.getLogger(__name__)
AS_OF = "as-of"


def forget_copies(live: Path) -> None:
    """After an erasure: moments of the past, and what rebuilds left behind. Nothing is done to what somebody has open.

    Raises ``OSError``.
    """
    forget_moments(live.parent / AS_OF)
    for copy in (unfinished_of(live), rebuilt_of(live)):
        parts = parts_of(copy)
        if database_files.is_held(copy) or any(database_files.is_held(part) for part in parts.glob("*.duckdb")):
            continue
        if copy.exists():
            log.warning("%s is removed: it has what was erased. Run turnlog rebuild again", copy)
            database_files.delete(copy)
        for folder in (parts, temp_of(copy)):
            shutil.rmtree(folder, ignore_errors=True)


def forget_moments(folder: Path) -> None:
    """Files of moments of the past, whole or not. Raises ``OSError``."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".wal" and not (path.suffix == ".building" and database_files.is_held(path)):
            database_files.delete(path)
