"""A snapshot that grows, and what is wrong with a copy of it: for tests of exports and of killed exports."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow

from tests.unit.test_cli_sessions import insert
from turnlog.export.lake import load_extensions
from turnlog.export.object_store import set_credentials
from turnlog.export.source import EXPORTED, as_line, as_written, name_of, open_source
from turnlog_streams.projection.rows import DEAD_LETTERS
from turnlog_streams.table_types import PARTITIONS, Table
from turnlog_workers.materializer.analysts_tables import create_analysts_tables

START = datetime(2026, 11, 26, 23, 15, tzinfo=UTC)  #: so that an hour or two later it is the next day
#: Ids and texts that readers take for something else.
ODD = ("007", "NULL", "..", "__HIVE_DEFAULT_PARTITION__", "1e5", "true", "2026-11-28", "a=b", "x", "-5")
_GROWTH = """
INSERT INTO internal.sessions BY NAME
SELECT 's-' || i AS session_id, i % 2 AS partition, i AS session_offset, $odd[1 + i % 10] AS channel, '' AS title,
  '{"customer": "007"}'::JSON AS metadata, false AS archived, '{}'::JSON AS marks, 0 AS forward_seq,
  $at + INTERVAL (i) MINUTE AS created_at, $at + INTERVAL (i) MINUTE AS last_active_at, 1 AS turns, 1 AS started_turns,
  1 AS completed_turns, 0 AS failed_turns, 0 AS cancelled_turns, 2 AS messages, 0 AS covered_to, 0 AS awaited_seq,
  1 AS input_tokens, 2 AS output_tokens, 0 AS unknown_events, 3 AS stream_version, i AS last_offset
FROM range($first, $end) t(i);
INSERT INTO internal.turns BY NAME
SELECT 't-' || i AS turn_id, 's-' || i AS session_id, i % 2 AS partition, i AS session_offset, 'r' AS request_id,
  'h' AS command_hash, 'completed' AS status, 1 AS attempt, 0 AS runner_failures, 0 AS takeovers_in_a_row,
  $odd[1 + i % 10] AS text, false AS hidden, 'json' AS framing, i AS accepted_offset, i AS ended_offset,
  $at + INTERVAL (i) MINUTE AS accepted_at, 17 AS duration_ms FROM range($first, $end) t(i);
INSERT INTO internal.messages BY NAME
SELECT 's-' || i AS session_id, i % 2 AS partition, i AS session_offset, seq AS message_seq, 't-' || i AS turn_id,
  ['user', 'assistant'][seq] AS role, [NULL, $odd[1 + i % 10], '', 'two' || chr(10) || 'lines'][1 + i % 4] AS content,
  false AS interrupted, false AS truncated, false AS imported, i AS log_offset,
  $at + INTERVAL (i) MINUTE AS recorded_at FROM range($first, $end) t(i), range(1, 3) u(seq);
INSERT INTO internal.events BY NAME
SELECT i % 2 AS partition, i AS log_offset, 1 AS epoch, i AS n, 'session' AS stream_kind, 's-' || i AS stream_id,
  1 AS stream_version, 'TurnCompleted' AS type, 1 AS attempt, i AS accepted, i AS replied,
  $at + INTERVAL (i) MINUTE AS recorded_at,
  '{"duration": 1.10, "n": [123456789012345678901234567890, null]}'::JSON AS body
FROM range($first, $end) t(i);
"""


class GrowingSnapshot:
    """Rows of more and more sessions, an hour of them a step or as many as are wanted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sessions = 0
        with duckdb.connect(str(path)) as connection:
            create_analysts_tables(connection)
            for partition in range(2):
                insert(connection, PARTITIONS, partition=partition)

    def grow(self, sessions: int = 60) -> None:
        """New sessions, and something new in an old one. Nobody may have the file open."""
        first, self.sessions = self.sessions, self.sessions + sessions
        with duckdb.connect(str(self.path)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"SET VARIABLE odd = {list(ODD)!r}")
            text = _GROWTH.replace("$odd", "getvariable('odd')").replace("$first", str(first))
            text = text.replace("$end", str(self.sessions)).replace("$at", f"TIMESTAMPTZ '{START.isoformat()}'")
            connection.execute("BEGIN")
            connection.execute(text)
            letter = {"partition": 0, "log_offset": first, "request_offset": first, "recorded_at": START}
            insert(connection, DEAD_LETTERS, **letter, code="undecodable", bytes=b"\xff\x00=")
            connection.execute(
                "UPDATE internal.sessions SET messages = messages + 1, last_offset = ? WHERE session_offset = 0",
                [self.sessions - 2],
            )
            connection.execute("UPDATE internal.turns SET hidden = NOT hidden WHERE session_offset = 0")
            connection.execute("UPDATE partitions SET next_offset = ?", [self.sessions])
            connection.execute("COMMIT")


def folder_problems(snapshot: Path, folder: Path, form: str = "parquet", *, whole: bool = True) -> list[str]:
    """How the files differ from the snapshot's tables, and from their own manifest. ``whole``: the export was not
    killed, so that the files are all that is there."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    named = {file["path"]: file for file in manifest["files"]}
    found = {str(path.relative_to(folder)) for path in folder.glob(f"*/*/*.{form}")}
    out = [f"{path} is named and not there" for path in named.keys() - found]
    if whole:
        out += [f"{path} is there and not named" for path in found - named.keys()]
        out += [
            f"{path} is not what the manifest says"
            for path, file in named.items()
            if hashlib.sha256((folder / path).read_bytes()).hexdigest() != file["sha256"]
        ]
    with open_source(snapshot) as source:
        for table in EXPORTED if whole else ():
            paths = [str(folder / path) for path, file in named.items() if file["table"] == table.name]
            columns = source.columns(table)
            if form == "parquet":
                select = f"SELECT {as_written(columns)} FROM {name_of(table)} AS rows"
                read = f"SELECT * FROM read_parquet({paths})"
            else:
                select = f"SELECT {as_line(columns)} FROM {name_of(table)} AS rows"
                lines = [line for path in paths for line in Path(path).read_bytes().decode().split("\n")[:-1]]
                source.connection.register("lines", pyarrow.table({"line": pyarrow.array(lines, pyarrow.string())}))
                read = "SELECT line FROM lines"
            out += _differences(source.connection, table, select, read if paths else None)
    return out


def lake_problems(snapshot: Path, address: str, schema: str = "main") -> list[str]:
    """How the lake's tables differ from the snapshot's."""
    out: list[str] = []
    with open_source(snapshot) as source:
        load_extensions(source.connection, address)
        source.connection.execute(f"ATTACH '{address}' AS lake (READ_ONLY)")
        place = source.connection.execute("SELECT data_path FROM ducklake_settings('lake')").fetchone()
        assert place is not None
        set_credentials(source.connection, place[0])
        for table in EXPORTED:
            columns = as_written(source.columns(table))
            select = f"SELECT {columns} FROM {name_of(table)} AS rows"
            out += _differences(source.connection, table, select, f"SELECT * FROM lake.{schema}.{table.name}")
        source.connection.execute("DETACH lake")
    return out


def _differences(connection: duckdb.DuckDBPyConnection, table: Table, ours: str, theirs: str | None) -> list[str]:
    if theirs is None:
        rows = connection.execute(f"SELECT count(*) FROM ({ours})").fetchone()
        return [f"{table.name}: nothing of {rows[0]} rows is there"] if rows and rows[0] else []
    out = []
    for what, one, other in (("missing", ours, theirs), ("too many or other", theirs, ours)):
        rows = connection.execute(f"({one}) EXCEPT ALL ({other}) LIMIT 3").fetchall()
        out += [f"{table.name}: {what}: {row}" for row in rows]
    return out
