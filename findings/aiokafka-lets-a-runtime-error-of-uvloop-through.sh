#!/usr/bin/env bash
# uvloop is taken for asyncio's loop, only faster. But to write to a connection that was reset a moment ago is nothing
# more than a warning there, and a RuntimeError with uvloop. aiokafka, whose retries look for errors of Kafka, passes it
# on: a second request in the moment of a reset ends with "the handler is closed" where asyncio's loop leads to a
# KafkaConnectionError, which is tried again. It ends the task that sends: a consumer's commit or a producer's sender.
#
# Here a peer that speaks as much of the protocol as aiokafka asks for before a request resets the connection; then two
# requests follow each other, as those of two partitions do.
#
# Seen 2026-11-29 with aiokafka 0.14.0, uvloop 0.23.0, Python 3.11, on Linux:
#   asyncio  KafkaConnectionError KafkaConnectionError
#   uvloop   KafkaConnectionError RuntimeError
# Fails if that changes. Takes about 10 seconds.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 uvloop==0.23.0
"$dir/venv/bin/python" - <<'PY'
import asyncio
import logging
import socket
import struct
import time

import uvloop
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

logging.disable(logging.CRITICAL)
METADATA, LOWEST, HIGHEST = 3, 0, 5


async def tell_versions(listener):
    """Accept a connection, and answer its first request: which versions of which request there are."""
    loop = asyncio.get_running_loop()
    peer, _ = await loop.sock_accept(listener)
    (size,) = struct.unpack(">i", await loop.sock_recv(peer, 4))
    request = await loop.sock_recv(peer, size)
    (correlation,) = struct.unpack(">i", request[4:8])
    answer = struct.pack(">ihihhh", correlation, 0, 1, METADATA, LOWEST, HIGHEST)
    await loop.sock_sendall(peer, struct.pack(">i", len(answer)) + answer)
    return peer


async def two_requests_after_a_reset():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        telling = asyncio.create_task(tell_versions(listener))
        connection = await create_conn("127.0.0.1", listener.getsockname()[1], request_timeout_ms=20000)
        peer = await telling
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # a reset
        time.sleep(0.2)  # it is here, and the loop has not heard of it
        ended = []
        for _ in range(2):
            try:
                ended.append(asyncio.ensure_future(connection.send(MetadataRequest([]))))
            except Exception as error:
                ended.append(error)
            await asyncio.sleep(0)
        for number, one in enumerate(ended):
            if isinstance(one, asyncio.Future):
                (ended[number],) = await asyncio.wait_for(asyncio.gather(one, return_exceptions=True), 30)
        connection.close()
        return " ".join(type(one).__name__ for one in ended)


seen = {}
for name, new_loop in {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}.items():
    with asyncio.Runner(loop_factory=new_loop) as runner:
        seen[name] = runner.run(two_requests_after_a_reset())
    print(f"{name:8} {seen[name]}", flush=True)
assert seen == {
    "asyncio": "KafkaConnectionError KafkaConnectionError",
    "uvloop": "KafkaConnectionError RuntimeError",
}, "changed"
PY
