#!/usr/bin/env bash
# DuckDB keeps the digits of a number in a JSON column, and loses them on the way out: the operators -> and ->> read a
# fraction as a double and print that, so an amount of 19 digits comes back rounded, and 1.10 as 1.1.
#
# ->> gives text, so one would expect the text that is stored, as of PostgreSQL's type json, and an exact DECIMAL from
# a cast of it. Only numbers with a fraction or an exponent are read so: an integer of 30 digits comes back whole. A
# cast of the JSON value itself to VARCHAR gives the digits; from inside an object json_transform with the type DECIMAL
# gives them since 2.0, while 1.5 is wrong there by 0.21.
#
# Seen 2026-11-29 with duckdb 1.5.5 and 2.0.1, Python 3.11, for a column that holds {"v": NUMBER}:
#   NUMBER                          column  ->>                              cast of ->> to DECIMAL(38, 2)
#   12345678901234567.89            kept    12345678901234568.0              12345678901234568.00
#   1.10                            kept    1.1                              1.10
#   1E5                             kept    100000.0                         100000.00
#   123456789012345678901234567890  kept    123456789012345678901234567890   123456789012345678901234567890.00
#   json_transform of the first to DECIMAL(38, 2): 12345678901234567.68 in 1.5.5, 12345678901234567.89 in 2.0.1
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/show.py" <<'PY'
import duckdb

con = duckdb.connect()
con.execute("CREATE TABLE t(place INTEGER, number VARCHAR, j JSON)")
numbers = ("12345678901234567.89", "1.10", "1E5", "123456789012345678901234567890")
con.executemany(
    "INSERT INTO t VALUES (?, ?, ?)", [(place, number, f'{{"v": {number}}}') for place, number in enumerate(numbers)]
)
rows = con.execute("""
    SELECT number, contains(j::VARCHAR, number), j ->> '$.v', (j -> '$.v')::VARCHAR,
           ((j ->> '$.v')::DECIMAL(38, 2))::VARCHAR,
           (json_transform(j, '{"v": "DECIMAL(38, 2)"}').v)::VARCHAR
    FROM t ORDER BY place
""").fetchall()
print("duckdb", duckdb.__version__)
for number, kept, text, value, decimal, _ in rows:
    print(f"  {number:31} {'kept' if kept else 'lost'}  ->> {text}  -> {value}  cast {decimal}")
print(f"  json_transform of the first: {rows[0][-1]}")
assert all(kept for _, kept, *_ in rows), "the column does not keep the digits any more"
assert [text for _, _, text, *_ in rows] == [value for _, _, _, value, *_ in rows], "-> and ->> differ now"
assert [(text, decimal) for _, _, text, _, decimal, _ in rows] == [
    ("12345678901234568.0", "12345678901234568.00"),
    ("1.1", "1.10"),
    ("100000.0", "100000.00"),
    ("123456789012345678901234567890", "123456789012345678901234567890.00"),
], "changed"
transformed = {"1.5.5": "12345678901234567.68", "2.0.1": "12345678901234567.89"}
assert rows[0][-1] == transformed[duckdb.__version__], "json_transform changed"
PY
for version in 1.5.5 2.0.1; do
  python3 -m venv "$dir/$version"
  "$dir/$version/bin/pip" install --quiet --disable-pip-version-check "duckdb==$version"
  "$dir/$version/bin/python" "$dir/show.py"
done
