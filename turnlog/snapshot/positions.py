"""How far the published snapshot is, by partition."""

from collections.abc import Mapping
from pathlib import Path

from turnlog.snapshot.sql import open_snapshot, run


def read_positions(path: Path, events_topic: str) -> Mapping[int, int] | None:
    """The offset behind the last event that it has; ``None``: it is another deployment's, or not there. Blocks.

    Raises :class:`turnlog.errors.TurnlogError` for one that cannot be read.
    """
    if not path.is_file():
        return None
    with open_snapshot(path) as connection:
        marks = run(connection, "SELECT value FROM about WHERE name = 'deployment'").rows
        if not marks or str(marks[0][0]).partition(" ")[0] != events_topic:
            return None
        return {
            int(row[0]): int(row[1]) for row in run(connection, "SELECT partition, next_offset FROM partitions").rows
        }
