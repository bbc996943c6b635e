#!/usr/bin/env bash
# DuckDB answers an exact quantile of 40 million numbers under a memory_limit of 256 MB, with no error and 2.6 times as
# much resident memory. Other aggregates that keep every value (list, string_agg) raise OutOfMemoryException there,
# and what can spill (ORDER BY) stays near the limit.
#
# So a memory limit that protects a shared machine has to be enforced from outside of DuckDB, too.
#
# Seen 2026-11-28 with duckdb 1.5.5, Python 3.11, Linux x86-64:
#   quantile_cont  answers, peak 663 MB
#   list           OutOfMemoryException, peak 293 MB
#   ORDER BY       answers, peak 306 MB
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==1.5.5
cd "$dir"
cat >one.py <<'PY'
import resource
import sys

import duckdb

con = duckdb.connect(config={"memory_limit": "256MB", "threads": 2, "temp_directory": "spill"})
numbers = "(SELECT hash(i) / 1e9 AS x FROM range(40000000) t(i))"
statement = {
    "quantile_cont": f"SELECT quantile_cont(x, 0.5) FROM {numbers}",
    "list": f"SELECT len(list(x)) FROM {numbers}",
    "ORDER BY": f"SELECT x FROM {numbers} ORDER BY x LIMIT 1 OFFSET 20000000",
}[sys.argv[1]]
try:
    con.execute(statement).fetchone()
    outcome = "answers"
except duckdb.Error as error:
    outcome = type(error).__name__
print(outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
PY
"$dir/venv/bin/python" - <<'PY'
import subprocess
import sys

seen = {}
for what in ("quantile_cont", "list", "ORDER BY"):
    outcome, peak = subprocess.run(
        [sys.executable, "one.py", what], capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()
    seen[what] = outcome, int(peak)
    print(f"{what:14} {outcome}, peak {peak} MB")
assert seen["quantile_cont"][0] == "answers" and seen["quantile_cont"][1] > 550, "changed"
assert seen["list"][0] == "OutOfMemoryException", "changed"
assert seen["ORDER BY"][0] == "answers" and seen["ORDER BY"][1] < 450, "changed"
PY
