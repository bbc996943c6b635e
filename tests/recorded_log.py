"""The log of each released version, kept in ``tests/data/logs`` with what it leads to: a later version that reads it
otherwise fails a test.

``python -m tests.recorded_log VERSION`` records the log of this version, before its release; it never writes over one.
Rows are compared by the columns that they had then, so a later version may add columns.
"""

import gzip
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from fastavro import schemaless_writer

from tests.erasing_steps import erase_some
from tests.event_logs import accepted_batches, random_log
from turnlog_schemas.codec import AVRO_MAGIC, Codec, UnknownPayload
from turnlog_schemas.mapping import avro_fields, to_dict
from turnlog_schemas.registry import EVENTS, Registry, Schema, load, packaged
from turnlog_streams.folding.fold import fold
from turnlog_streams.folding.rows import (
    AnswerRow,
    ChannelSessionRow,
    MarkRow,
    StoredMessage,
    StreamRow,
    Unanswered,
)
from turnlog_streams.projection.rows import TABLES
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.table_types import MOMENT, Table
from turnlog_workers.materializer.analysts_file import AnalystsFile, analysts_kind

FOLDER = Path(__file__).parent / "data" / "logs"
SEEDS = (5, 31)  #: of a partition each
STEPS = 700
FOLDED = {
    "streams": StreamRow,
    "answers": AnswerRow,
    "marks": MarkRow,
    "channel_sessions": ChannelSessionRow,
    "messages": StoredMessage,
    "unanswered": Unanswered,
}

Rows = Mapping[str, tuple[Sequence[str], list[tuple[Any, ...]]]]  #: by table: its columns, its rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A kept log, read as this version reads it, and what it led to when it was recorded."""

    partitions: list[list[LoggedEvent]]
    folded: dict[str, Any]  #: by table: ``columns``, ``rows`` (how many), ``sha256``
    analysts: dict[str, Any]


def _newer_schema() -> Schema:
    """Of an event that no version knows: what a later one may write into the same log."""
    fields = [*avro_fields(EVENTS.header, set()), {"name": "of", "type": "bytes"}, {"name": "deep", "type": "double"}]
    return load(json.dumps({"type": "record", "name": "turnlog.events.SessionDreamt", "fields": fields}))


def _encoded(codec: Codec, newer: Schema, event: LoggedEvent) -> bytes:
    if not isinstance(event.payload, UnknownPayload):
        return codec.encode(event.header, event.payload)
    buffer = io.BytesIO()
    schemaless_writer(buffer, newer.parsed, to_dict(EVENTS.header)(event.header) | dict(event.payload.fields))
    return AVRO_MAGIC + newer.fingerprint + buffer.getvalue()


def record(version: str) -> Path:
    """Write the log of this version. Raises ``FileExistsError``, and ``LookupError`` if an event type is not in it."""
    writers = [random_log(seed, STEPS, partition=partition) for partition, seed in enumerate(SEEDS)]
    for writer in writers:
        erase_some(writer, 1)
    logs = [writer.records for writer in writers]
    if missing := {cls.__name__ for cls in EVENTS.payloads} - {type(e.payload).__name__ for log in logs for e in log}:
        raise LookupError(f"no {', '.join(sorted(missing))} in it: take other seeds or more steps")
    codec, newer = Codec(EVENTS), _newer_schema()
    schemas = [schema.text for schema in packaged().all_current() if schema.family == EVENTS.name] + [newer.text]
    lines = [json.dumps({"version": version, "schemas": schemas})]
    for log in logs:
        for event in log:
            place = {"partition": event.partition, "offset": event.offset, "logged_at": event.logged_at}
            lines.append(json.dumps(place | {"value": _encoded(codec, newer, event).hex()}))
    partitions = decoded(schemas, [json.loads(line) for line in lines[1:]])
    expected = {"folded": digests(folded_rows(partitions)), "analysts": digests(analysts_rows(partitions))}
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{version}.expected.json").open("x", encoding="utf-8") as file:
        json.dump(expected, file, indent=1)
        file.write("\n")
    path = FOLDER / f"{version}.jsonl.gz"
    with path.open("xb") as target:
        target.write(gzip.compress("\n".join(lines).encode(), mtime=0))
    return path


def versions() -> list[str]:
    """Of which there is a recorded log."""
    return sorted(path.name.removesuffix(".jsonl.gz") for path in FOLDER.glob("*.jsonl.gz"))


def read(version: str) -> Recorded:
    """The log of a released version."""
    schemas, records = as_kept(version)
    expected = json.loads((FOLDER / f"{version}.expected.json").read_text(encoding="utf-8"))
    return Recorded(partitions=decoded(schemas, records), folded=expected["folded"], analysts=expected["analysts"])


def as_kept(version: str) -> tuple[list[str], list[dict[str, Any]]]:
    """The schemas and the records of that log: ``partition``, ``offset``, ``logged_at`` and the ``value`` in hex."""
    first, *records = gzip.decompress((FOLDER / f"{version}.jsonl.gz").read_bytes()).decode().splitlines()
    return json.loads(first)["schemas"], [json.loads(line) for line in records]


def decoded(schemas: Iterable[str], records: Iterable[Mapping[str, Any]]) -> list[list[LoggedEvent]]:
    """As a process of this version decodes them, with the schemas that the schema topic has."""
    registry = Registry()
    for schema in packaged().all_current():
        registry.add(schema, current=True)
    for text in schemas:
        registry.add(load(text))
    codec = Codec(EVENTS, registry)
    partitions: dict[int, list[LoggedEvent]] = {}
    for kept in records:
        header, payload = codec.decode(bytes.fromhex(kept["value"]))
        place = {name: kept[name] for name in ("partition", "offset", "logged_at")}
        partitions.setdefault(kept["partition"], []).append(LoggedEvent(header=header, payload=payload, **place))
    return [partitions[number] for number in sorted(partitions)]


def folded_rows(partitions: list[list[LoggedEvent]]) -> Rows:
    """What workers' stores hold of a log, the partition in front."""
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in FOLDED}
    for number, log in enumerate(partitions):
        streams: dict[Any, Any] = {}
        for events, _ in accepted_batches(log, len(log)):
            found = fold(events, streams)
        tables: dict[str, Iterable[tuple[Any, ...]]] = {
            "streams": [stream.row() for stream in streams.values()],
            "answers": found.answers,
            "marks": found.marks.values(),
            "channel_sessions": found.channel_sessions.values(),
            "messages": found.messages,
            "unanswered": found.unanswered,
        }
        for name, of_partition in tables.items():
            rows[name] += [(number, *row) for row in of_partition]
    return {name: (("partition", *FOLDED[name]._fields), rows[name]) for name in FOLDED}


def analysts_rows(partitions: list[list[LoggedEvent]]) -> Rows:
    """What the analysts' file holds of a log."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "analytics.duckdb"
        file = AnalystsFile(path, analysts_kind("chat.events id", tuple(range(len(partitions)))))
        for number, log in enumerate(partitions):
            for events, position in accepted_batches(log, 100, file.positions[number]):
                file.write(events, {number: position})
        file.close()
        with duckdb.connect(str(path), read_only=True) as connection:
            return {table.name: _table(connection, table) for table in TABLES}


def _table(connection: duckdb.DuckDBPyConnection, table: Table) -> tuple[list[str], list[tuple[Any, ...]]]:
    columns = [column for column in table.columns if column.name not in table.not_of_the_log]
    # A moment's text depends on the connection's time zone.
    wanted = [f"epoch_ms({column.name})" if column.sql_type == MOMENT else column.name for column in columns]
    rows = connection.execute(f"SELECT {', '.join(wanted)} FROM {table.place}").fetchall()
    return [column.name for column in columns], rows


def digests(rows: Rows, columns: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """The kept form of rows: of all columns, or of those that are named for a table."""
    found = {}
    for name, (present, values) in rows.items():
        wanted = list(columns[name] if columns else present)
        places = [list(present).index(column) for column in wanted]
        texts = sorted(json.dumps([row[place] for place in places], default=bytes.hex) for row in values)
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
        found[name] = {"columns": wanted, "rows": len(texts), "sha256": digest}
    return found


if __name__ == "__main__":
    print(record(sys.argv[1]))
