#!/usr/bin/env bash
# One schema, two fingerprints: the Python packages avro and fastavro disagree on the parsing canonical form as soon as
# a primitive carries a logicalType.
#
# The Avro specification (1.12, "Transforming into Parsing Canonical Form") says that the canonical form keeps type,
# name, fields, symbols, items, values and size, and reduces {"type": "int"} to "int". For {"type": "int",
# "logicalType": "date"}, fastavro removes the attribute first and then reduces what is left to "int"; avro removes the
# attribute and leaves {"type": "int"}. So the CRC-64-AVRO fingerprints differ, and a record in single-object encoding
# that one of them wrote is of an unknown schema to a reader that looks the fingerprint up as the other computes it.
# Without logical types the two agree.
#
# Seen 2026-11-28 with avro 1.12.2 and fastavro 1.13.1, Python 3.11:
#   plain int      avro 8f5c393f1ad57572  fastavro 8f5c393f1ad57572
#   int with date  avro adbf9635b8c70971  fastavro 8f5c393f1ad57572
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check avro==1.12.2 fastavro==1.13.1
"$dir/venv/bin/python" - <<'PY'
import json

import avro.schema
import fastavro.schema


def of_avro(schema):
    return avro.schema.parse(json.dumps(schema)).fingerprint("CRC-64-AVRO").hex()


def of_fastavro(schema):
    return fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO")


seen = {}
for name, schema in [("plain int", "int"), ("int with date", {"type": "int", "logicalType": "date"})]:
    seen[name] = of_avro(schema), of_fastavro(schema)
    print(f"{name:14} avro {seen[name][0]}  fastavro {seen[name][1]}")
assert len(set(seen["plain int"])) == 1, "they no longer agree on a plain int"
assert seen["int with date"][1] == seen["plain int"][1], "fastavro no longer reduces it to the plain type"
assert seen["int with date"][0] != seen["int with date"][1], "they agree now"
PY
