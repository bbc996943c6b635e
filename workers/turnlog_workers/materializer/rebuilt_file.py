"""A rebuilt analysts' file and how it comes into the live one's place.

``turnlog rebuild`` makes ``analytics.rebuild.duckdb`` and names it ``analytics.rebuilt.duckdb`` when it is whole. Who
opens the live file (the materializer, or the rebuild when none runs) takes it over then. Whoever dies in between leaves
one of these names behind, and the next one goes on.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import duckdb

from turnlog_workers.materializer.analysts_file import AnalystsFile
from turnlog_workers.materializer.analysts_tables import PLAIN, ForReaders
from turnlog_workers.materializer.rebuild_places import rebuilt_of
from turnlog_workers.materializer.swapping import swapping
from turnlog_workers.store import database_files
from turnlog_workers.store.database_files import FileKind, FileLockedError
from turnlog_workers.store.tables import quoted, read_positions

log = logging.getLogger(__name__)


def take_over(live: Path, kind: FileKind) -> bool:
    """Put a whole rebuilt file into the live one's place, inside :func:`swapping`; whether there was one.

    The old one is kept aside. Raises :class:`FileLockedError` when somebody has the live file open.
    """
    rebuilt = rebuilt_of(live)
    if not rebuilt.exists():
        return False
    if database_files.is_held(live):
        raise FileLockedError(f"{live} is open in another process")
    found = marks_of(rebuilt)
    if found != kind.marks:
        log.warning("%s is removed: it says %s, and %s is wanted", rebuilt, found, kind.marks)
        database_files.delete(rebuilt)
        return False
    database_files.move_aside(live)
    rebuilt.replace(live)
    log.info("%s is the one that was rebuilt from the log", live)
    return True


def open_live(live: Path, kind: FileKind, readers: ForReaders = PLAIN) -> AnalystsFile:
    """The live file, the rebuilt one if there is one that is whole. Raises :class:`StoreError`."""
    with swapping(live):
        take_over(live, kind)
        return AnalystsFile(live, kind, readers=readers)


def marks_of(path: Path) -> dict[str, str]:
    """What a file says of itself; empty for one that does not open or is none of ours."""
    found, _ = _looked_into(path)
    return found


def published_positions(snapshot: Path, deployment: str) -> Mapping[int, int]:
    """How far the published snapshot of this deployment is, by partition; empty: there is none that can be read."""
    if not snapshot.is_file():
        return {}
    marks, positions = _looked_into(snapshot)
    return positions if marks.get("deployment") == deployment else {}


def _looked_into(path: Path) -> tuple[dict[str, str], dict[int, int]]:
    connection = duckdb.connect(":memory:", config={"threads": 1, "temp_directory": ""})
    try:
        connection.execute(f"ATTACH '{quoted(path)}' AS file (READ_ONLY)")
        connection.execute("USE file")
        marks = dict(connection.execute("SELECT name, value FROM about").fetchall())
        return marks, {partition: at.next_offset for partition, at in read_positions(connection).items()}
    except duckdb.Error as error:
        log.info("%s cannot be read: %s", path, error)
        return {}, {}
    finally:
        connection.close()
