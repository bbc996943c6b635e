"""The development broker: one real Apache Kafka node on this machine, without containers.

``DevBroker`` starts, stops, kills and restarts it on a data directory; ``python -m turnlog_workers.devstack.broker
--data-dir D`` runs it in the foreground. Its log is ``broker.log`` in the data directory.
"""

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from turnlog_workers.base.readiness_file import mark_ready
from turnlog_workers.devstack.broker_dir import DataDirInUseError, DataDirUse
from turnlog_workers.devstack.broker_files import KAFKA_VERSION, BrokerError, Say, cache_dir, ensure_jars, find_java
from turnlog_workers.devstack.broker_ports import DEFAULT_PORT, HOST, Ports, PortTakenError, choose_ports
from turnlog_workers.devstack.jvm import Jvm
from turnlog_workers.devstack.launch import launch_argv
from turnlog_workers.devstack.log_directory import cluster_id_of, format_once
from turnlog_workers.kafka.new_client import new_client

START_TIMEOUT_S = 120.0  # a start takes 3 s, and a minute on a machine with ten times too much to do
STOP_TIMEOUT_S = 15.0  # below the supervisor's patience
_KILL_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.05
_METADATA_TIMEOUT_MS = 5000
_PORT_RACES = 3
_LOG_TAIL_LINES = 20
_LOG_MAX_BYTES = 10_000_000
# One node: each internal topic must be told that there is one replica, and few partitions start faster.
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    # After a kill the node is refused until its last life's session has run out: 9 s by default, 12 s of start in all.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "log.retention.check.interval.ms": "60000",
    "log.cleaner.dedupe.buffer.size": "16777216",
}


class DevBroker:
    """One Kafka node (broker and controller) on 127.0.0.1, its data in ``data_dir``.

    ``port`` is binding; without it the node starts on the port it had before, else on ``preferred_port`` (None: any),
    else on a free one. ``advertised_port`` is what clients are told (a proxy's). ``extra_settings`` are Kafka's own.
    The Java process ends with the thread that called ``start`` (Linux), at the latest with this process.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        preferred_port: int | None = DEFAULT_PORT,
        advertised_port: int | None = None,
        extra_settings: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        say: Say = lambda line: None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = self.data_dir / "broker.log"
        self._port, self._preferred_port, self._advertised_port = port, preferred_port, advertised_port
        self._extra_settings = dict(extra_settings or {})
        self._start_timeout_s, self._say = start_timeout_s, say
        self._ports: Ports | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._use = DataDirUse(self.data_dir)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def ports(self) -> Ports:
        """The ports that the broker itself listens on (not the advertised one); known once started."""
        if self._ports is None:
            raise BrokerError(f"The broker in {self.data_dir} was not started, so it has no port yet.")
        return self._ports

    @property
    def bootstrap_server(self) -> str:
        """``host:port`` for clients; known once started, and kept after a stop."""
        return f"{HOST}:{self._advertised_port or self.ports.client}"

    @property
    def pid(self) -> int:
        """Process id of the running Java process."""
        return self._running().pid

    def start(self) -> None:
        """Start and wait until the broker answers; the first time on a directory, format it. Raises BrokerError."""
        if self._process is not None:
            raise BrokerError(f"The broker in {self.data_dir} is running already (process {self._process.pid}).")
        cache = cache_dir()
        jvm = Jvm(find_java(), ensure_jars(cache, say=self._say), cache)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._use.take(self._say)
        try:
            format_once(self._logs_dir, jvm, cache, self._write_format_properties)
            for races_left in reversed(range(_PORT_RACES)):
                try:
                    self._start_once(jvm)
                    return
                except PortTakenError:
                    # Somebody was faster between our look at the port and Java's bind.
                    if self._port is not None or not races_left:
                        raise
        finally:
            if self._process is None:
                self._use.release()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop cleanly (SIGTERM; SIGKILL after ``timeout_s``). A broker that does not run is left alone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._say(f"the broker did not stop within {timeout_s:g} s; killing it")
            self._process.kill()
        self._ended()

    def kill(self) -> None:
        """``kill -9``: what a test of crash safety wants. ``start`` works again afterwards."""
        self._running().kill()
        self._ended()

    def wait(self) -> int:
        """Wait until the broker ends by itself; returns its exit code (negative: a signal's number)."""
        code = self._running().wait()
        self._ended()
        return code

    def log_tail(self, lines: int = _LOG_TAIL_LINES, since_byte: int = 0) -> str:
        """The last lines of the broker's log."""
        try:
            text = self.log_path.read_bytes()[since_byte:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BrokerError(f"The broker in {self.data_dir} is not running.")
        return self._process

    def _ended(self) -> None:
        self._running().wait(_KILL_TIMEOUT_S)
        self._process = None
        self._use.record(self.ports)
        self._use.release()

    @property
    def _logs_dir(self) -> Path:
        return self.data_dir / "kafka-logs"

    # --- one start --------------------------------------------------------------------------------------------

    def _settings(self, ports: Ports) -> dict[str, str]:
        own = {
            "log.dirs": str(self._logs_dir),
            "controller.quorum.voters": f"1@{HOST}:{ports.controller}",
            "listeners": f"PLAINTEXT://{HOST}:{ports.client},CONTROLLER://{HOST}:{ports.controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self._advertised_port or ports.client}",
        }
        return _SETTINGS | own | self._extra_settings

    def _write_format_properties(self, path: Path, logs_dir: Path) -> None:
        _write_properties(path, self._settings(Ports(client=1, controller=2)) | {"log.dirs": str(logs_dir)})

    def _start_once(self, jvm: Jvm) -> None:
        self._ports = choose_ports(
            port=self._port, preferred=self._preferred_port, remembered=self._use.remembered_ports(), say=self._say
        )
        properties = self.data_dir / "server.properties"
        _write_properties(properties, self._settings(self._ports))
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_MAX_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        class_list = self.data_dir / "classes.list" if jvm.wants_archive else None
        argv = jvm.argv(["kafka.Kafka", str(properties)], class_list=class_list)
        with self.log_path.open("ab") as log:
            log_start = log.tell()
            self._process = subprocess.Popen(
                launch_argv(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._use.lock_fd,),
            )
        try:
            self._use.record(self._ports, self._process.pid)
            self._wait_until_ready(log_start)
            if class_list is not None:
                jvm.make_archive_beside(class_list)
        except BaseException:
            self._process.kill()
            self._process.wait(_KILL_TIMEOUT_S)
            self._process = None
            raise

    def _wait_until_ready(self, log_start: int) -> None:
        """Wait until the port is open and the metadata names this very node as alive."""
        process, cluster_id = self._running(), cluster_id_of(self._logs_dir)
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if (code := process.poll()) is not None:
                tail = self.log_tail(since_byte=log_start)
                if "Address already in use" in tail or "BindException" in tail:
                    raise PortTakenError(f"Port {self.ports.client} on {HOST} was taken by another program just now.")
                raise BrokerError(
                    f"Kafka {KAFKA_VERSION} ended at start with exit code {code}. The end of {self.log_path}:\n{tail}"
                )
            if _answers(self.ports.client, cluster_id):
                return
            time.sleep(_POLL_INTERVAL_S)
        raise BrokerError(
            f"Kafka {KAFKA_VERSION} did not answer on {HOST}:{self.ports.client} within {self._start_timeout_s:g} s. "
            f"If this machine is busy, try again. The end of {self.log_path}:\n{self.log_tail(since_byte=log_start)}"
        )


def _answers(port: int, cluster_id: str) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    try:
        admin = new_client(
            KafkaAdminClient,
            bootstrap_servers=f"{HOST}:{port}",
            bootstrap_timeout_ms=_METADATA_TIMEOUT_MS,
            request_timeout_ms=_METADATA_TIMEOUT_MS,
        )
    except KafkaError:
        return False
    try:
        cluster = admin.describe_cluster()
    except KafkaError:
        return False
    finally:
        admin.close()
    alive = [broker for broker in cluster["brokers"] if not broker.get("is_fenced")]
    return cluster["cluster_id"] == cluster_id and bool(alive)


def _write_properties(path: Path, settings: Mapping[str, str]) -> None:
    # In a properties file a backslash escapes.
    lines = (f"{name}={value}".replace("\\", "\\\\") for name, value in settings.items())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class _StopRequested(Exception):
    """SIGTERM or Ctrl-C arrived."""


def _request_stop(number: int, frame: FrameType | None) -> NoReturn:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)  # the stop is bounded; a second signal must not cut it short
    raise _StopRequested


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the broker in the foreground until SIGTERM or Ctrl-C; prints ``ready HOST:PORT`` once it serves."""
    parser = argparse.ArgumentParser(prog="python -m turnlog_workers.devstack.broker", description=main.__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, help="default: the port used before, else 9092, else a free one")
    parser.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", dest="settings")
    options = parser.parse_args(arguments)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, _request_stop)
    broker = DevBroker(
        options.data_dir,
        port=options.port,
        extra_settings=dict(options.settings),
        say=lambda line: print(line, flush=True),
    )
    with contextlib.suppress(_StopRequested):
        try:
            broker.start()
            mark_ready()
            print(f"ready {broker.bootstrap_server}", flush=True)
            code = broker.wait()
            print(f"Kafka ended with exit code {code}. The end of {broker.log_path}:\n{broker.log_tail()}", flush=True)
            return 1
        except BrokerError as error:
            print(error, file=sys.stderr, flush=True)
            return 2 if isinstance(error, PortTakenError | DataDirInUseError) else 1
        finally:
            broker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
