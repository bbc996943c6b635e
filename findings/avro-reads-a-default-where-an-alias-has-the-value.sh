#!/usr/bin/env bash
# A field renamed in the reader's schema, with its old name as an alias and with a default, is read as the default by
# the package avro for Python: the value that was written is dropped, without an error. fastavro reads the value.
#
# The schema's parser takes the alias and keeps it, and the resolution of the two schemas does not look at it. Aliases
# are optional for an implementation by the specification, so without a default it raises, as one would expect of a
# missing field. A default, which every guide asks for so that schemas stay compatible, turns that into a wrong value.
#
# Seen 2026-11-29 with avro 1.12.2 and fastavro 1.13.1, Python 3.11; written {"amount": 7}, read with a field cents:
#   alias amount, default 0   avro 0                           fastavro 7
#   alias amount              avro SchemaResolutionException   fastavro 7
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


def record(**field):
    return {"type": "record", "name": "Payment", "fields": [{"type": "long", **field}]}


WRITER = record(name="amount")
READERS = {
    "alias amount, default 0": record(name="cents", aliases=["amount"], default=0),
    "alias amount": record(name="cents", aliases=["amount"]),
}


def by_avro(reader):
    written, read = (avro.schema.parse(json.dumps(schema)) for schema in (WRITER, reader))
    assert read.to_json()["fields"][0]["aliases"] == ["amount"], "the alias is not kept now"
    buffer = io.BytesIO()
    avro.io.DatumWriter(written).write({"amount": 7}, avro.io.BinaryEncoder(buffer))
    buffer.seek(0)
    try:
        return avro.io.DatumReader(written, read).read(avro.io.BinaryDecoder(buffer))["cents"]
    except Exception as error:
        return type(error).__name__


def by_fastavro(reader):
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, WRITER, {"amount": 7})
    buffer.seek(0)
    return fastavro.schemaless_reader(buffer, WRITER, reader)["cents"]


seen = {name: (by_avro(reader), by_fastavro(reader)) for name, reader in READERS.items()}
for name, (with_avro, with_fastavro) in seen.items():
    print(f"{name:25} avro {with_avro!s:27} fastavro {with_fastavro}")
assert list(seen.values()) == [(0, 7), ("SchemaResolutionException", 7)], "changed"
PY
