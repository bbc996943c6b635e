#!/usr/bin/env bash
# A field that the writer lacks gets the reader's default, and where that is an array or a map, every record that is
# read gets the very same object: who appends to the list of one record changes it in all others, in those read before,
# in those read later, and in the schema. So in fastavro, and so in Apache's avro for Python.
#
# A reader hands out what it decoded, and decoded lists are each record's own; whether a list came from the bytes or
# from the schema cannot be seen at it. So the fault waits for old records: it is there while some lack the field.
#
# Seen 2026-11-29 with avro 1.12.2 and fastavro 1.13.1, Python 3.11; records without and with the field tags (an array
# of strings, default []), "seen" appended to the first one's tags; then the second's, and those of one read
# afterwards:
#                          the second's   read afterwards
#   fastavro, without       ['seen']       ['seen']
#   fastavro, with []       []             []
#   avro, without           ['seen']       ['seen']
#   avro, with []           []             []
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

NUMBER = {"name": "number", "type": "long"}
TAGS = {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []}


def record(*fields):
    return {"type": "record", "name": "Order", "fields": list(fields)}


WRITERS = {"without": (record(NUMBER), {"number": 1}), "with []": (record(NUMBER, TAGS), {"number": 1, "tags": []})}


def by_fastavro(writer, written):
    reader, buffer = fastavro.parse_schema(record(NUMBER, TAGS)), io.BytesIO()
    fastavro.schemaless_writer(buffer, writer, written)
    return lambda: fastavro.schemaless_reader(io.BytesIO(buffer.getvalue()), writer, reader)


def by_avro(writer, written):
    writer, reader = (avro.schema.parse(json.dumps(schema)) for schema in (writer, record(NUMBER, TAGS)))
    buffer = io.BytesIO()
    avro.io.DatumWriter(writer).write(written, avro.io.BinaryEncoder(buffer))
    return lambda: avro.io.DatumReader(writer, reader).read(avro.io.BinaryDecoder(io.BytesIO(buffer.getvalue())))


seen = {}
for package, prepare in (("fastavro", by_fastavro), ("avro", by_avro)):
    for what, (writer, written) in WRITERS.items():
        read = prepare(writer, written)
        first, second = read(), read()
        first["tags"].append("seen")
        seen[f"{package}, {what}"] = second["tags"], read()["tags"]
for name, (second, later) in seen.items():
    print(f"{name:22} {second!s:14} {later}")
shared, own = (["seen"], ["seen"]), ([], [])
assert list(seen.values()) == [shared, own, shared, own], "changed"
PY
