#!/usr/bin/env bash
# DuckDB's full-text index, made with its default options, holds no digits: an order number cannot be found, and a code
# such as HAT097 finds every other HAT code.
#
# The extension's default for `ignore` replaces everything that is no letter a-z, digits included, by a space before
# words are cut. A query goes through the same filter, so 4711 becomes an empty query (no row, no error), and HAT097
# becomes "hat", which HAT251 answers as well. A pattern of one's own for `ignore` cures it.
#
# Seen 2026-11-28 with duckdb 1.5.5 and its extension fts (from the package duckdb-extension-fts 1.5.5), Python 3.11:
#   default ignore   4711 -> []   HAT097 -> [2, 3]
#   own ignore       4711 -> [1]  HAT097 -> [2]
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==1.5.5 duckdb-extension-fts==1.5.5
"$dir/venv/bin/python" - <<'PY'
import sysconfig
from pathlib import Path

import duckdb

extension = next(Path(sysconfig.get_paths()["purelib"]).rglob("fts.duckdb_extension"))
seen = {}
for name, options in [("default ignore", ""), ("own ignore", r", ignore='(\s|[.,;:!?])+'")]:
    con = duckdb.connect()
    con.execute(f"LOAD '{extension}'")
    con.execute("CREATE TABLE m(id INTEGER, text VARCHAR)")
    con.execute("INSERT INTO m VALUES (1, 'Where is order 4711?'), (2, 'Flight HAT097 is late.'), (3, 'I am on HAT251')")
    con.execute(f"PRAGMA create_fts_index('m', 'id', 'text'{options})")
    found = {
        words: [
            row[0]
            for row in con.execute(
                "SELECT id FROM (SELECT id, fts_main_m.match_bm25(id, ?) AS score FROM m) WHERE score IS NOT NULL ORDER BY id",
                [words],
            ).fetchall()
        ]
        for words in ("4711", "HAT097")
    }
    seen[name] = found
    print(f"{name:16} 4711 -> {found['4711']}  HAT097 -> {found['HAT097']}")
assert seen["default ignore"] == {"4711": [], "HAT097": [2, 3]}, "the default is another one now"
assert seen["own ignore"] == {"4711": [1], "HAT097": [2]}, "an own pattern does something else now"
PY
