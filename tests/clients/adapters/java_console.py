"""The console producer and consumer that come with Apache Kafka, on the development broker's jars and one more."""

import subprocess
import threading
import time
from collections import defaultdict
from pathlib import Path

from tests.clients.adapters.lines import Batch, InRecord, OutRecord, serve
from turnlog_workers.devstack.broker_files import KAFKA_VERSION, cache_dir, ensure_jars, find_java, read_sums
from turnlog_workers.devstack.launch import launch_argv

TOOLS_SUMS = Path(__file__).resolve().parents[1] / f"kafka-tools-{KAFKA_VERSION}.sha256"
_PRODUCER, _CONSUMER = "org.apache.kafka.tools.ConsoleProducer", "org.apache.kafka.tools.consumer.ConsoleConsumer"
_JVM_FLAGS = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8")
_QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
_ABSENT = "<absent>"  #: no header, key or value
_POLL_S = 0.02
_MAX_REQUEST = f"max.request.size={8 << 20}"
_READER = {
    "parse.headers": "true",
    "parse.key": "true",
    "headers.delimiter": "\t",
    "headers.separator": ",",
    "headers.key.separator": ":",
    "key.separator": "\t",
    "null.marker": _ABSENT,
}
_FORMATTER = ("print.partition", "print.offset", "print.headers", "print.key")


def class_path() -> str:
    """The jars, fetched first where they are missing. Raises :class:`BrokerError`."""
    jars = ensure_jars(cache_dir()) + ensure_jars(cache_dir(), jars=read_sums(TOOLS_SUMS))
    return ":".join(str(jar) for jar in jars)


def line_of(record: OutRecord) -> bytes:
    """A record as the console producer reads it."""
    marker = _ABSENT.encode()
    headers = b",".join(name + b":" + (marker if value is None else value) for name, value in record.headers)
    parts = (headers or marker, marker if record.key is None else record.key)
    return b"\t".join((*parts, marker if record.value is None else record.value)) + b"\n"


def record_of(line: bytes) -> tuple[int, InRecord]:
    """A record as the console consumer prints it, and its partition."""
    partition, offset, headers, key, value = line.rstrip(b"\n").split(b"\t", 4)
    pairs = [] if headers == b"NO_HEADERS" else [pair.partition(b":") for pair in headers.split(b",")]
    record = InRecord(
        offset=int(offset.removeprefix(b"Offset:")),
        key=None if key == b"null" else key,
        value=None if value == b"null" else value,
        headers=[(name, content) for name, _, content in pairs],
    )
    return int(partition.removeprefix(b"Partition:")), record


class JavaConsole:
    """One producer process for each codec and one consumer process for each topic, which live as long as this one."""

    def start(self, bootstrap: str) -> str:
        self._bootstrap = bootstrap
        self._java = [find_java(), *_JVM_FLAGS, _QUIET, "-cp", class_path()]
        self._producers: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._seen: dict[str, dict[int, list[InRecord]]] = {}
        return KAFKA_VERSION

    def _launch(self, tool: str, topic: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [*self._java, tool, "--bootstrap-server", self._bootstrap, "--topic", topic, *arguments]
        return subprocess.Popen(launch_argv(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def produce(self, batch: Batch) -> None:
        """It does not tell when the broker has a record: this returns once the tool has read the lines."""
        key = (batch.topic, batch.codec)
        if key not in self._producers:
            properties = [word for item in _READER.items() for word in ("--reader-property", "=".join(item))]
            options = ["--compression-codec", batch.codec, "--timeout", "5", "--command-property", _MAX_REQUEST]
            self._producers[key] = process = self._launch(_PRODUCER, batch.topic, *options, *properties)
            threading.Thread(target=_drain, args=(process,), daemon=True).start()
        stdin = self._producers[key].stdin
        assert stdin is not None
        stdin.write(b"".join(line_of(record) for record in batch.records))
        stdin.flush()

    def end(self, how: str) -> None:
        raise ValueError("the console producer has no transactions")

    def consume(self, topic: str, partition: int, offset: int, wait_ms: int) -> list[InRecord]:
        """From what the tool has printed so far."""
        if topic not in self._seen:
            self._seen[topic] = seen = defaultdict(list)
            properties = [word for name in _FORMATTER for word in ("--formatter-property", f"{name}=true")]
            process = self._launch(_CONSUMER, topic, "--from-beginning", *properties)
            threading.Thread(target=_collect, args=(process, seen), daemon=True).start()
        deadline = time.monotonic() + wait_ms / 1000
        while True:
            found = [record for record in tuple(self._seen[topic][partition]) if record.offset >= offset]
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(_POLL_S)


def _drain(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    for _ in process.stdout:  # prompts
        continue


def _collect(process: subprocess.Popen[bytes], seen: dict[int, list[InRecord]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"Partition:"):  # anything else is a remark of the tool
            partition, record = record_of(line)
            seen[partition].append(record)


if __name__ == "__main__":
    serve(JavaConsole)
