"""The development broker, the real one: data survives kill -9; a taken port or directory gets a sentence."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tests.waiting import until
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_dir import DataDirInUseError
from turnlog_workers.devstack.broker_files import BrokerError
from turnlog_workers.devstack.broker_ports import PortTakenError, free_port


def create_topic(bootstrap_server: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_server)
    try:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
    finally:
        admin.close()


def produce(bootstrap_server: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap_server, acks="all")
    try:
        for future in [producer.send(topic, value=value, partition=0) for value in values]:
            future.get(timeout=60)
    finally:
        producer.close()


def consume(bootstrap_server: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_server, auto_offset_reset="earliest", enable_auto_commit=False)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        found: list[bytes] = []

        def enough() -> bool:
            for records in consumer.poll(timeout_ms=200).values():
                found.extend(record.value for record in records)
            return len(found) >= count

        until(enough, f"{count} records of {topic}")
        return found
    finally:
        consumer.close()


def test_acknowledged_records_survive_kill_9_and_a_clean_stop(tmp_path: Path) -> None:
    with DevBroker(tmp_path, preferred_port=None) as broker:
        address = broker.bootstrap_server
        create_topic(address, "kept")
        first = [f"before the kill {n}".encode() for n in range(100)]
        produce(address, "kept", first)
        dead = psutil.Process(broker.pid)
        broker.kill()
        assert not dead.is_running()

        broker.start()
        assert broker.bootstrap_server == address
        second = [f"after the kill {n}".encode() for n in range(100)]
        produce(address, "kept", second)
        broker.stop()
        broker.stop()  # harmless

        broker.start()
        assert consume(broker.bootstrap_server, "kept", 200) == first + second


def test_one_directory_has_one_broker_and_two_run_side_by_side(broker: DevBroker, tmp_path: Path) -> None:
    with pytest.raises(DataDirInUseError, match=f"already running.*process {broker.pid}"):
        DevBroker(broker.data_dir).start()
    said: list[str] = []
    with DevBroker(tmp_path, preferred_port=broker.ports.client, say=said.append) as other:
        assert other.bootstrap_server != broker.bootstrap_server
        create_topic(other.bootstrap_server, "apart")
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_server)
        try:
            assert "apart" not in admin.list_topics()
        finally:
            admin.close()
    assert f"port {broker.ports.client} is already in use" in said[0]


def test_an_explicit_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        broker = DevBroker(tmp_path, port=port)
        with pytest.raises(PortTakenError, match=f"Port {port} "):
            broker.start()
    with pytest.raises(BrokerError, match="not running"):
        broker.kill()


def test_a_broker_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    broker = DevBroker(tmp_path, preferred_port=None, extra_settings={"num.io.threads": "none"})
    with pytest.raises(BrokerError, match=r"(?s)exit code 1.*num\.io\.threads"):
        broker.start()
    broker = DevBroker(tmp_path, preferred_port=None)
    with broker:  # the failed start left the directory usable
        assert broker.pid


def test_the_run_s_broker_does_not_create_topics_by_itself_and_allows_short_sessions(broker: DevBroker) -> None:
    text = (broker.data_dir / "server.properties").read_text()
    assert "group.min.session.timeout.ms=1000\n" in text
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_server, max_block_ms=500)
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_server)
    try:
        with pytest.raises(KafkaError):
            producer.send("never-created", b"x").get(timeout=60)
        assert "never-created" not in admin.list_topics()
    finally:
        admin.close()
        producer.close()


def foreground(data_dir: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "turnlog_workers.devstack.broker", "--data-dir", str(data_dir), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_foreground_command_says_ready_and_sigterm_stops_it_cleanly(tmp_path: Path) -> None:
    port = free_port()
    process = foreground(tmp_path, "--port", str(port), "--set", "group.min.session.timeout.ms=1500")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"ready 127.0.0.1:{port}\n"
        assert "group.min.session.timeout.ms=1500\n" in (tmp_path / "server.properties").read_text()
        (java,) = psutil.Process(process.pid).children()

        second = foreground(tmp_path)
        _, complaint = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"already running on {tmp_path} (process {java.pid}, port {port})" in complaint

        process.terminate()
        assert process.wait(timeout=60) == 0
        assert not java.is_running()
    finally:
        end_group(process)


def test_java_does_not_outlive_a_killed_foreground_command(tmp_path: Path) -> None:
    process = foreground(tmp_path, "--port", str(free_port()))
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        (java,) = psutil.Process(process.pid).children()
        process.kill()
        process.wait(timeout=60)
        until(lambda: not java.is_running() or java.status() == psutil.STATUS_ZOMBIE, "Java ends with its parent")
    finally:
        end_group(process)


def end_group(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
