#!/usr/bin/env bash
# A schema that widens int to long is read by the package avro for Python where the int is a field, and refused where
# it is the item of an array or the value of a map: SchemaResolutionException, "Schemas do not match". fastavro reads
# all.
#
# By the specification an int can be read as a long, and arrays and maps are resolved item by item by the same rules,
# so a registry's check calls the change compatible, and a test with a plain field agrees. What compares the two
# schemas in avro looks at whether the types of the items are equal, before anything is read: an empty array is refused
# as well.
#
# Seen 2026-11-29 with avro 1.12.2 and fastavro 1.13.1, Python 3.11; written as int, read as long:
#                          avro                        fastavro
#   a field                3                           3
#   a field, null or int   3                           3
#   an array               SchemaResolutionException   [3]
#   an empty array         SchemaResolutionException   []
#   a map                  SchemaResolutionException   {'a': 3}
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


def by_avro(writer, reader, value):
    written, read = (avro.schema.parse(json.dumps(schema)) for schema in (writer, reader))
    buffer = io.BytesIO()
    avro.io.DatumWriter(written).write({"value": value}, avro.io.BinaryEncoder(buffer))
    buffer.seek(0)
    try:
        return str(avro.io.DatumReader(written, read).read(avro.io.BinaryDecoder(buffer))["value"])
    except Exception as error:
        return type(error).__name__


def by_fastavro(writer, reader, value):
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, writer, {"value": value})
    buffer.seek(0)
    return str(fastavro.schemaless_reader(buffer, writer, reader)["value"])


cases = {
    "a field": (lambda kind: kind, 3),
    "a field, null or int": (lambda kind: ["null", kind], 3),
    "an array": (lambda kind: {"type": "array", "items": kind}, [3]),
    "an empty array": (lambda kind: {"type": "array", "items": kind}, []),
    "a map": (lambda kind: {"type": "map", "values": kind}, {"a": 3}),
}
seen = {}
for name, (of, value) in cases.items():
    writer, reader = record(of("int")), record(of("long"))
    seen[name] = by_avro(writer, reader, value), by_fastavro(writer, reader, value)
    print(f"{name:22} {seen[name][0]:27} {seen[name][1]}")
refused = "SchemaResolutionException"
assert [with_avro for with_avro, _ in seen.values()] == ["3", "3", refused, refused, refused], "changed"
assert [with_fastavro for _, with_fastavro in seen.values()] == ["3", "3", "[3]", "[]", "{'a': 3}"], "changed"
PY
