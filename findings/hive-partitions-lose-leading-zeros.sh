#!/usr/bin/env bash
# A Parquet data set partitioned by a text column comes back as numbers in polars and pyarrow, but not in DuckDB, where
# the channel is '007' in every file name: leading zeros are gone, and a join with the original finds nothing.
#
# Hive partitioning writes the value into the folder's name only (channel=007), so each reader guesses the type anew.
# DuckDB takes digits for a number only where nothing is lost; polars and pyarrow take them for a number always. Writing
# the column into the files as well (WRITE_PARTITION_COLUMNS) and reading with hive partitioning switched off keeps it.
#
# Seen 2026-11-28 with duckdb 1.5.5 (writer and reader), polars 2.1.0 and pyarrow 26.0.0, Python 3.11:
#   duckdb   '007'
#   polars   7
#   pyarrow  7
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==1.5.5 polars==2.1.0 pyarrow==26.0.0
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import duckdb
import polars
import pyarrow.dataset

duckdb.sql(
    "COPY (SELECT '007' AS channel, 1 AS turns) TO 'out' (FORMAT parquet, PARTITION_BY (channel))"
)
seen = {
    "duckdb": duckdb.sql("SELECT channel FROM read_parquet('out/**/*.parquet', hive_partitioning = true)").fetchone()[0],
    "polars": polars.read_parquet("out/**/*.parquet", hive_partitioning=True)["channel"][0],
    "pyarrow": pyarrow.dataset.dataset("out", partitioning="hive").to_table()["channel"][0].as_py(),
}
for name, value in seen.items():
    print(f"{name:8} {value!r}")
assert seen == {"duckdb": "007", "polars": 7, "pyarrow": 7}, "changed"
PY
