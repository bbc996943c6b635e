"""The published snapshot for a program that stays open, such as a notebook: questions are asked of the newest one."""

import os
import threading
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnlog.errors import TurnlogError
from turnlog.snapshot.charts import Chart, Kind, chart_of, to_svg
from turnlog.snapshot.listing import snapshot_file
from turnlog_workers.base.config import Settings
from turnlog_workers.base.extras import require

if TYPE_CHECKING:
    import duckdb

_STYLE = (
    ".turnlog-chart svg{max-width:860px}.turnlog-chart .grid{stroke:#ccc}.turnlog-chart .tick{fill:#666;font-size:11px}"
    ".turnlog-chart [class^=l]{fill:none;stroke-width:2}"
)
_COLOURS = ("#2f6fde", "#e0781f", "#2a9d62", "#b13fa5", "#8c7a1e", "#c23b3b")


class LiveSnapshot:
    """The tables of the newest snapshot, as DuckDB relations. For any thread; :meth:`close` it, or use ``with``.

    Each snapshot gets a DuckDB of its own in memory, to which its file is attached: relations of an older one go on
    showing that one. Temporary tables go with their snapshot. Times are shown in UTC.
    """

    def __init__(self, path: Path) -> None:
        """Open it. Raises :class:`NotFoundError`, :class:`MissingExtraError`, :class:`TurnlogError`."""
        require("sql", "turnlog.open_snapshot")
        from turnlog.snapshot.sql import make_scratch

        self.path = path
        self._lock = threading.Lock()
        self._scratch = make_scratch()
        self._version: tuple[int, int, int] | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None
        try:
            self.connection()
        except BaseException:
            self._scratch.remove()
            raise

    def sql(self, statement: str, parameters: Any = None) -> "duckdb.DuckDBPyRelation":
        """A question, such as ``SELECT * FROM sessions``, to the newest snapshot; ``.df()``, ``.pl()``, ``.arrow()``,
        ``.fetchall()`` give the answer. Raises :class:`TurnlogError`, ``duckdb.Error``."""
        return self.connection().sql(statement, params=parameters)

    def chart(self, statement: str, kind: Kind | None = None) -> "ShownChart":
        """The answer as notebooks show it: the first column names the points, columns of numbers are drawn."""
        relation = self.sql(statement)
        numeric = [_is_number(str(kind.id)) for kind in relation.types]
        cells = [[None if cell is None else str(cell) for cell in row] for row in relation.fetchall()]
        return ShownChart(chart_of(relation.columns, numeric, cells, kind=kind))

    def connection(self) -> "duckdb.DuckDBPyConnection":
        """A connection of the calling thread's own to the newest snapshot, whose tables need no prefix."""
        with self._lock:
            path = snapshot_file(self.path)
            found = os.stat(path)
            version = found.st_dev, found.st_ino, found.st_mtime_ns
            if self._connection is None or version != self._version:
                self._connection, self._version = self._opened(path), version
            cursor = self._connection.cursor()
            cursor.execute("USE snapshot")
            cursor.execute("SET TimeZone = 'UTC'")
            return cursor

    def _opened(self, path: Path) -> "duckdb.DuckDBPyConnection":
        import duckdb

        connection = duckdb.connect(":memory:", config={"temp_directory": str(self._scratch.path)})
        quoted = str(path).replace("'", "''")
        try:
            connection.execute(f"ATTACH '{quoted}' AS snapshot (READ_ONLY)")
        except duckdb.Error as error:
            connection.close()
            raise TurnlogError(f"The snapshot {path} cannot be opened: {error}") from error
        return connection

    def close(self) -> None:
        """Relations that were handed out end with it."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._scratch.remove()

    def __enter__(self) -> "LiveSnapshot":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ShownChart:
    """A chart as notebooks show it."""

    def __init__(self, chart: Chart | str) -> None:
        self._chart = chart

    def _repr_html_(self) -> str:
        if isinstance(self._chart, str):
            return f"<p>{escape(self._chart)}</p>"
        colours = "".join(
            f".turnlog-chart .s{n}{{fill:{colour}}}.turnlog-chart .l{n}{{stroke:{colour}}}"
            for n, colour in enumerate(_COLOURS)
        )
        return f'<div class="turnlog-chart"><style>{_STYLE}{colours}</style>{to_svg(self._chart)}</div>'


def _is_number(kind: str) -> bool:
    return kind in ("decimal", "double", "float", "hugeint", "uhugeint") or kind.endswith(("int", "integer"))


def open_snapshot(path: str | Path | None = None) -> LiveSnapshot:
    """The published snapshot for as long as the program likes: every question sees the newest one.

    ``path``: the file; default: that of the settings (``TURNLOG_SNAPSHOT_PATH``, else ``snapshot.duckdb`` in
    ``TURNLOG_DATA_DIR``, else in ``turnlog-data``). Raises :class:`NotFoundError`, :class:`MissingExtraError`,
    :class:`TurnlogError`.
    """
    return LiveSnapshot(Path(path) if path is not None else Settings().snapshot)
