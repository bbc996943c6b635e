#!/usr/bin/env bash
# fastavro writes 3.7 into a field of type long as 3, without an error; in a field of type ["null", "long"] the very
# same value is refused. The package avro refuses both.
#
# Whoever makes a field optional, or makes an optional one required, changes whether a wrong value is noticed.
# strict=True and strict_allow_default=True do not help: they look at missing and extra fields, not at types.
#
# Seen 2026-11-28 with fastavro 1.13.1 and avro 1.12.2, Python 3.11:
#   fastavro long            writes, reads back 3
#   fastavro long, strict    writes, reads back 3
#   fastavro null or long    ValueError
#   avro     long            AvroTypeException
#   avro     null or long    AvroTypeException
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check avro==1.12.2 fastavro==1.13.1
"$dir/venv/bin/python" - <<'PY'
import io
import json

import avro.io
import avro.schema
import fastavro


def record(kind):
    return {"type": "record", "name": "Reading", "fields": [{"name": "value", "type": kind}]}


def by_fastavro(kind, **options):
    buffer, schema = io.BytesIO(), fastavro.parse_schema(record(kind))
    try:
        fastavro.schemaless_writer(buffer, schema, {"value": 3.7}, **options)
    except Exception as error:
        return type(error).__name__
    buffer.seek(0)
    return f"writes, reads back {fastavro.schemaless_reader(buffer, schema)['value']!r}"


def by_avro(kind):
    schema = avro.schema.parse(json.dumps(record(kind)))
    try:
        avro.io.DatumWriter(schema).write({"value": 3.7}, avro.io.BinaryEncoder(io.BytesIO()))
    except Exception as error:
        return type(error).__name__
    return "writes"


seen = [
    ("fastavro long", by_fastavro("long")),
    ("fastavro long, strict", by_fastavro("long", strict=True)),
    ("fastavro null or long", by_fastavro(["null", "long"])),
    ("avro     long", by_avro("long")),
    ("avro     null or long", by_avro(["null", "long"])),
]
for what, outcome in seen:
    print(f"{what:24} {outcome}")
expected = ["writes, reads back 3", "writes, reads back 3", "ValueError", "AvroTypeException", "AvroTypeException"]
assert [outcome for _, outcome in seen] == expected, "changed"
PY
