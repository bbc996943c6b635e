#!/usr/bin/env bash
# duckdb.connect(path) opens the old database after the file at that path was replaced, as long as any connection to
# the old one is open in the process: a new connection, the new file's name, and the old rows, without an error. ATTACH
# of the same path in another database of the same process, and another process, read the new file.
#
# A snapshot is published by writing a new file and renaming it over the old one, so that readers see one or the other.
# DuckDB keeps one instance a path in each process and looks it up by the path alone; who opens a connection for each
# request, to be up to date, is not, while one other part of the program holds its connection.
#
# Seen 2026-11-29 with duckdb 1.5.5 and 2.0.1 (alike), Python 3.11, Linux; the file's table said 1 and the new one says
# 2:
#   new connection, another one is open         1
#   ATTACH in a database in memory              2
#   another process                             2
#   new connection, the others are closed       2
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/show.py" <<'PY'
import os
import subprocess
import sys

import duckdb


def write(path, number):
    with duckdb.connect(path) as con:
        con.execute(f"CREATE TABLE t AS SELECT {number} AS number")


def read(con):
    with con:
        return con.execute("SELECT number FROM t").fetchone()[0]


def attached():
    con = duckdb.connect(":memory:")
    con.execute("ATTACH 'snapshot.duckdb' AS snapshot (READ_ONLY)")
    con.execute("USE snapshot")
    return read(con)


READ = "import duckdb; print(duckdb.connect('snapshot.duckdb', read_only=True).execute('FROM t').fetchone()[0])"
write("snapshot.duckdb", 1)
write("next.duckdb", 2)
held = duckdb.connect("snapshot.duckdb", read_only=True)
os.replace("next.duckdb", "snapshot.duckdb")
seen = {
    "new connection, another one is open": read(duckdb.connect("snapshot.duckdb", read_only=True)),
    "ATTACH in a database in memory": attached(),
    "another process": int(subprocess.run([sys.executable, "-c", READ], check=True, capture_output=True).stdout),
}
held.close()
seen["new connection, the others are closed"] = read(duckdb.connect("snapshot.duckdb", read_only=True))
print("duckdb", duckdb.__version__)
for how, number in seen.items():
    print(f"  {how:43} {number}")
assert list(seen.values()) == [1, 2, 2, 2], "changed"
PY
for version in 1.5.5 2.0.1; do
  python3 -m venv "$dir/$version"
  "$dir/$version/bin/pip" install --quiet --disable-pip-version-check "duckdb==$version"
  mkdir "$dir/files-$version"
  (cd "$dir/files-$version" && "$dir/$version/bin/python" "$dir/show.py")
done
