#!/usr/bin/env bash
# A program that waits for its broker by making a KafkaAdminClient or a KafkaConsumer (kafka-python 3) again and again
# until that works collects a thread and four file descriptors with each try, for as long as it lives: the constructor
# raises, so there is no object to close, and neither thread nor descriptors go with the exception or its collection.
#
# An expert would expect what KafkaProducer of the same version does: a constructor that fails leaves nothing. 256
# tries are past the usual limit of 1,024 open files, and what fails then is something else.
#
# Seen 2026-11-29 with kafka-python 3.0.12, Python 3.11, Linux; nobody listens; ten tries each; then left:
#   KafkaAdminClient  10 threads, 40 descriptors
#   KafkaConsumer     10 threads, 40 descriptors
#   KafkaProducer      0 threads,  0 descriptors
# Fails if that changes. Takes about half a minute.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check kafka-python==3.0.12
"$dir/venv/bin/python" - <<'PY'
import gc
import logging
import os
import socket
import threading

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

logging.getLogger("kafka").setLevel(logging.CRITICAL)
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]


def held():
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


TRIES, left = 10, {}
for client in (KafkaAdminClient, KafkaConsumer, KafkaProducer):
    before = held()
    for _ in range(TRIES):
        try:
            client(bootstrap_servers=f"127.0.0.1:{port}", bootstrap_timeout_ms=300)
        except KafkaError:
            continue
        raise AssertionError("nobody listens, and it is connected")
    gc.collect()
    left[client.__name__] = [now - then for now, then in zip(held(), before, strict=True)]
for name, (threads, descriptors) in left.items():
    print(f"{name:17} {threads:2} threads, {descriptors:2} descriptors")
assert left["KafkaAdminClient"] == left["KafkaConsumer"] == [TRIES, 4 * TRIES], "changed"
assert left["KafkaProducer"] == [0, 0], "changed"
PY
