"""The proof: what the published snapshot says is what the log says, table by table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from turnlog_streams.projection.rows import PROJECTION_VERSION, TABLES
from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import NotFoundError, TurnlogError
from turnlog_workers.materializer.comparison import Difference, TableHash, compare
from turnlog_workers.materializer.parallel_rebuild import rebuild
from turnlog_workers.materializer.rebuilding import Progress, event_topic, kind_of, up_to
from turnlog_workers.store.tables import quoted, read_positions
from turnlog_workers.store.temp_directory import ScratchFolder

LIVE, LOG = "live", "log"  #: the databases that are compared
_MEMORY_MB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of it."""

    positions: Mapping[int, int]  #: by partition: up to where both were compared
    tables: list[TableHash]  #: that are equal
    difference: Difference | None  #: ``left``: the snapshot's, ``right``: the log's

    @property
    def rows(self) -> int:
        """How many were compared and are equal."""
        return sum(table.rows for table in self.tables)


def verify(
    settings: Settings,
    snapshot: Path,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
    comparing: Callable[[str], None] = lambda table: None,
) -> Verification:
    """Rebuild into a scratch file, up to where the snapshot is, and compare. The snapshot is opened once, to read.

    Raises :class:`TurnlogError` when they cannot be compared (another version, another log), and what
    :func:`parallel_rebuild.rebuild` raises.
    """
    events = event_topic(settings)
    scratch = ScratchFolder(settings.data_dir / "scratch", prefix="verify-")
    try:
        connection = duckdb.connect(
            ":memory:", config={"memory_limit": f"{_MEMORY_MB}MB", "temp_directory": str(scratch.path / "temp")}
        )
        try:
            positions = _open(connection, snapshot, kind_of(events).deployment)
            rebuilt = scratch.path / "log.duckdb"
            rebuild(settings, rebuilt, bound=up_to(positions), report=report)
            connection.execute(f"ATTACH '{quoted(rebuilt)}' AS {LOG} (READ_ONLY)")
            tables, difference = compare(connection, LIVE, LOG, TABLES, comparing)
        finally:
            connection.close()
    finally:
        scratch.remove()
    return Verification(positions=positions, tables=tables, difference=difference)


def _open(connection: duckdb.DuckDBPyConnection, snapshot: Path, deployment: str) -> dict[int, int]:
    """Attach the snapshot; how far it is."""
    if not snapshot.is_file():
        raise NotFoundError(
            f"There is no snapshot at {snapshot}: it is published while `turnlog up` or `turnlog materialize` runs"
        )
    try:
        connection.execute(f"ATTACH '{quoted(snapshot)}' AS {LIVE} (READ_ONLY)")
        connection.execute(f"USE {LIVE}")
        marks = dict(connection.execute("SELECT name, value FROM about").fetchall())
        positions = read_positions(connection)
    except duckdb.Error as error:
        raise TurnlogError(f"The snapshot {snapshot} cannot be read: {error}") from error
    if marks.get("deployment") != deployment:
        raise TurnlogError(
            f"The snapshot {snapshot} is of {marks.get('deployment')}, and the log is {deployment} (topic and its id): "
            "name the right one with --data-dir or --prefix"
        )
    if marks.get("rows") != str(PROJECTION_VERSION):
        raise TurnlogError(
            f"The snapshot {snapshot} has rows of version {marks.get('rows')}, this program makes version "
            f"{PROJECTION_VERSION}: they cannot be compared. The materializer rebuilds it by itself; verify it then"
        )
    return {partition: position.next_offset for partition, position in positions.items()}
