#!/usr/bin/env bash
# DuckDB's COPY ... (FORMAT avro) writes a TIMESTAMP_MS, which counts milliseconds, as it is and calls it
# timestamp-micros: every date of our day becomes one of January 1970, in DuckDB itself and in every other reader,
# without an error. TIMESTAMP and TIMESTAMP_NS are written rightly, TIMESTAMP_S is refused; Parquet has all four right.
#
# Milliseconds are what Kafka's records carry, and what Arrow and pandas data in that unit become in DuckDB, so the
# type comes in from outside. A cast to TIMESTAMP cures it.
#
# Seen 2026-11-29 with duckdb 1.5.5 and its extension avro (from the package duckdb-extension-avro 1.5.5, the newest),
# fastavro 1.13.1, Python 3.11; 2026-11-29 12:00:00 written as
#                  logical type in the file   read by DuckDB         read by fastavro
#   TIMESTAMP      timestamp-micros           2026-11-29 12:00:00    2026-11-29 12:00:00
#   TIMESTAMP_MS   timestamp-micros           1970-01-21 18:52:33.6  1970-01-21 18:52:33.600000
#   TIMESTAMP_NS   timestamp-nanos            2026-11-29 12:00:00    (nanoseconds, as a number)
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check \
  duckdb==1.5.5 duckdb-extension-avro==1.5.5 fastavro==1.13.1
cd "$dir"
venv/bin/python - <<'PY'
import sysconfig
from pathlib import Path

import duckdb
import fastavro

extension = next(Path(sysconfig.get_paths()["purelib"]).rglob("avro.duckdb_extension"))
con = duckdb.connect()
con.execute(f"LOAD '{extension}'")
seen = {}
for kind in ("TIMESTAMP", "TIMESTAMP_MS", "TIMESTAMP_NS"):
    con.execute(f"CREATE OR REPLACE TABLE t AS SELECT '2026-11-29 12:00:00'::{kind} AS time")
    con.execute("COPY t TO 't.avro' (FORMAT avro)")
    con.execute("COPY t TO 't.parquet' (FORMAT parquet)")
    by_duckdb, from_parquet = (
        con.execute(f"SELECT time::VARCHAR FROM {read}").fetchone()[0]
        for read in ("read_avro('t.avro')", "read_parquet('t.parquet')")
    )
    with open("t.avro", "rb") as file:
        reader = fastavro.reader(file)
        (record,) = reader
    (_, stored) = reader.writer_schema["fields"][0]["type"]
    value = record["time"]
    by_fastavro = str(value) if isinstance(value, int) else f"{value:%Y-%m-%d %H:%M:%S.%f}"
    seen[kind] = stored["logicalType"], by_duckdb, by_fastavro
    print(f"{kind:14} {stored['logicalType']:18} {by_duckdb:22} {by_fastavro}")
    assert from_parquet == "2026-11-29 12:00:00", "Parquet has another time now"
assert seen == {
    "TIMESTAMP": ("timestamp-micros", "2026-11-29 12:00:00", "2026-11-29 12:00:00.000000"),
    "TIMESTAMP_MS": ("timestamp-micros", "1970-01-21 18:52:33.6", "1970-01-21 18:52:33.600000"),
    "TIMESTAMP_NS": ("timestamp-nanos", "2026-11-29 12:00:00", "1795953600000000000"),
}, "changed"
try:
    con.execute("COPY (SELECT '2026-11-29 12:00:00'::TIMESTAMP_S AS time) TO 's.avro' (FORMAT avro)")
except duckdb.NotImplementedException:
    pass
else:
    raise AssertionError("TIMESTAMP_S is written now")
PY
