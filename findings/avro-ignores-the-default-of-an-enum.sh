#!/usr/bin/env bash
# The package avro for Python cannot read a symbol that the reader's enum does not know, though the enum has a default
# for that: it accepts such a schema, keeps the default, and raises SchemaResolutionException. fastavro reads the
# default.
#
# The specification (since 1.9) says that the reader's default is used then; it is how a writer may add a symbol before
# its readers know of it. So schemas that are compatible by the rules, and in fastavro, stop a reader that uses
# Apache's own package, at the first record with the new symbol. A default of the record's field does not help, as the
# specification has it: that one is for a field that the writer lacks.
#
# Seen 2026-11-29 with avro 1.12.2 and fastavro 1.13.1, Python 3.11; written PAUSED by an enum ON OFF PAUSED, read by:
#                                   avro                       fastavro
#   ON OFF, default OFF             SchemaResolutionException  OFF
#   ON OFF, the field's default     SchemaResolutionException  SchemaResolutionError
#   ON OFF PAUSED                   PAUSED                     PAUSED
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


def record(symbols, of_enum={}, of_field={}):
    state = {"type": "enum", "name": "State", "symbols": symbols, **of_enum}
    return {"type": "record", "name": "Lamp", "fields": [{"name": "state", "type": state, **of_field}]}


WRITER = record(["ON", "OFF", "PAUSED"])


def by_avro(reader):
    written, read = (avro.schema.parse(json.dumps(schema)) for schema in (WRITER, reader))
    buffer = io.BytesIO()
    avro.io.DatumWriter(written).write({"state": "PAUSED"}, avro.io.BinaryEncoder(buffer))
    buffer.seek(0)
    try:
        return avro.io.DatumReader(written, read).read(avro.io.BinaryDecoder(buffer))["state"]
    except Exception as error:
        return type(error).__name__


def by_fastavro(reader):
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, WRITER, {"state": "PAUSED"})
    buffer.seek(0)
    try:
        return fastavro.schemaless_reader(buffer, WRITER, reader)["state"]
    except Exception as error:
        return type(error).__name__


WITH_DEFAULT = record(["ON", "OFF"], of_enum={"default": "OFF"})
readers = {
    "ON OFF, default OFF": WITH_DEFAULT,
    "ON OFF, the field's default": record(["ON", "OFF"], of_field={"default": "OFF"}),
    "ON OFF PAUSED": WRITER,
}
seen = {name: (by_avro(reader), by_fastavro(reader)) for name, reader in readers.items()}
for name, (with_avro, with_fastavro) in seen.items():
    print(f"{name:30}  {with_avro:25}  {with_fastavro}")
assert avro.schema.parse(json.dumps(WITH_DEFAULT)).fields[0].type.default == "OFF", "the default is not kept now"
assert seen == {
    "ON OFF, default OFF": ("SchemaResolutionException", "OFF"),
    "ON OFF, the field's default": ("SchemaResolutionException", "SchemaResolutionError"),
    "ON OFF PAUSED": ("PAUSED", "PAUSED"),
}, "changed"
PY
