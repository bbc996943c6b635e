"""A deployment of a test's own on a real broker: its topics, its processes, and all that can be read of it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests import preloaded
from tests.waiting import eventually, until
from turnlog_schemas.codec import Codec, RequestCodec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.events import SESSION
from turnlog_schemas.frames import TERMINAL_FRAMES, FrameHeader
from turnlog_schemas.parts import text_content
from turnlog_schemas.registry import EVENTS, FRAMES
from turnlog_streams.reader_rule import LoggedEvent, LogPosition, advance, is_accepted
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.topic_limits import max_message_bytes as max_message_bytes_of
from turnlog_workers.kafka.topics_admin import init_topics

START_S = 120.0  #: a process gets so long until it serves: the machine may be busy
_EXIT_S = 40.0
_MAX_FETCH_BYTES = 9 * 1024 * 1024
#: A dead worker is noticed soon. The broker must allow it (``group.min.session.timeout.ms``).
QUICK = {
    "session_timeout_s": "2",
    "heartbeat_interval_s": "0.5",
    "commit_interval_s": "0.5",
    "tail_check_interval_s": "0.5",
    "store_commit_interval_s": "0.5",
    "log_format": "human",
}


class Process:
    """A process of the deployment. Its log is a file; it does not outlive this process."""

    def __init__(self, argv: list[str], *, name: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self.ready_file = folder / f"{name}.{uuid.uuid4().hex[:8]}.ready"
        self.log_path = folder / f"{name}.log"
        with self.log_path.open("ab") as out:
            self._log_start = out.tell()
            environ = {**environ, "TURNLOG_READY_FILE": str(self.ready_file)}
            self._popen = preloaded.start(argv, env=environ, stdout=out)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def log(self) -> str:
        """What it wrote since it was started."""
        return self.log_path.read_bytes()[self._log_start :].decode(errors="replace")

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Negative: killed by that signal."""
        return self._popen.poll()

    @property
    def ready(self) -> bool:
        """Has it said that it serves? An ``AssertionError`` with its log when it ended instead."""
        assert self.running, f"{self.name} ended with {self._popen.returncode}:\n{self.log[-3000:]}"
        return self.ready_file.exists()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.running:
            self._popen.send_signal(number)

    def wait(self, timeout_s: float = _EXIT_S) -> int:
        """Its exit code; an ``AssertionError`` with its log when it does not end."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end in {timeout_s:g} s:\n{self.log[-3000:]}") from None

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, also if it is stopped."""
        self.signal(signal.SIGKILL)
        self._popen.wait(_EXIT_S)


class Deployment:
    """Topics of one prefix, a folder for files, and the processes that were started in it."""

    def __init__(self, bootstrap_server: str, folder: Path, *, partitions: int = 3, **settings: str) -> None:
        """``settings`` are those of every process, by their names in :class:`Settings`."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "bootstrap_server": bootstrap_server,
            "prefix": f"t-{uuid.uuid4().hex[:12]}",
            "partitions": str(partitions),
            "data_dir": str(folder / "data"),
            "allow_models": "echo:*,script:*,recorded:*",
            **QUICK,
            **settings,
        }
        self._values = values
        self.settings = Settings(**values)
        self.topics = self.settings.topics
        self.processes: list[Process] = []
        #: A node that stood still tells the ends that it knew, until it learns that others lead.
        self.log_ends_known = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()

    def with_prefix(self, prefix: str, folder: Path) -> "Deployment":
        """Another one with the same settings: new topics, and files of its own."""
        values = {**self._values, "prefix": f"{self.settings.prefix}-{prefix}", "data_dir": str(folder / "data")}
        partitions = int(values.pop("partitions"))
        return Deployment(values.pop("bootstrap_server"), folder, partitions=partitions, **values)

    def make_topics(self) -> None:
        """All topics."""
        init_topics(self.settings)

    def environ(self, **settings: str) -> dict[str, str]:
        """The environment of a process: only these settings of ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TURNLOG_")}
        return kept | {f"TURNLOG_{name.upper()}": value for name, value in {**self._values, **settings}.items()}

    def start(self, name: str, *arguments: str, **settings: str) -> Process:
        """``python -m turnlog ARGUMENTS``. ``settings`` (and other ``TURNLOG_`` variables) are its own."""
        argv = [sys.executable, "-m", "turnlog", *arguments]
        return self.run(name, argv, **settings)

    def run(self, name: str, argv: list[str], **settings: str) -> Process:
        """Any command line, in the environment of the deployment."""
        process = Process(argv, name=name, folder=self.folder, environ=self.environ(**settings))
        self.processes.append(process)
        return process

    def worker(self, name: str = "w0", **settings: str) -> Process:
        """A worker; not ready yet."""
        return self.start(name, "worker", **{"worker_name": name, **settings})

    def ready_worker(self, name: str = "w0", **settings: str) -> Process:
        """A worker that has partitions."""
        process = self.worker(name, **settings)
        until(lambda: process.ready, f"{name} is ready", START_S)
        return process

    def limit_topic(self, topic: str, max_message_bytes: int) -> None:
        """What an operator does who gives a topic another ``max.message.bytes``."""
        with connected(KafkaAdminClient, self.settings, "test-limits", START_S) as admin:
            config = {"max.message.bytes": str(max_message_bytes)}
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])

        def told() -> int:
            return asyncio.run(max_message_bytes_of(self.settings, topic, timeout_s=START_S))

        with ThreadPoolExecutor(1) as thread:  # the caller may be on a loop of its own
            until(lambda: thread.submit(told).result() == max_message_bytes, "it is told")

    # ---- reading

    async def dump(self, topic: str) -> list[ConsumerRecord]:
        """All records that a topic has now; those of one partition in order."""
        consumer = AIOKafkaConsumer(
            **client_options(self.settings, "test-dump"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=_MAX_FETCH_BYTES,
            fetch_max_wait_ms=100,
        )
        await consumer.start()
        try:
            return await _read_all(consumer, topic)
        finally:
            await consumer.stop()

    async def log(self) -> dict[int, list[LoggedEvent]]:
        """The whole event log, inert records too."""
        codec = Codec(EVENTS)
        log: dict[int, list[LoggedEvent]] = {p: [] for p in range(self.settings.partitions)}
        for record in await self.dump(self.topics.events):
            header, payload = codec.decode(record.value)
            event = LoggedEvent(
                partition=record.partition,
                offset=record.offset,
                header=header,
                payload=payload,
                logged_at=record.timestamp,
            )
            log[record.partition].append(event)
        return log

    async def accepted(self) -> dict[int, list[LoggedEvent]]:
        """The events that count."""
        return {partition: list(accepted_of(events)) for partition, events in (await self.log()).items()}

    async def events_of(self, session_id: str) -> list[LoggedEvent]:
        """The accepted events of a session."""
        log = await self.accepted()
        partition = partition_of(session_id.encode(), self.settings.partitions)
        mine = (SESSION, session_id)
        return [event for event in log[partition] if (event.header.stream_kind, event.header.stream_id) == mine]

    def wire(self) -> "Wire":
        """Sends raw records and collects raw frames."""
        return Wire(self)


def accepted_of(events: list[LoggedEvent]) -> Iterator[LoggedEvent]:
    """The events of a partition that the reader's rule accepts."""
    position = LogPosition()
    for event in events:
        if is_accepted(position, event.header, event.payload):
            yield event
        position = advance(position, event.offset, event.header, event.payload)


async def _read_all(consumer: AIOKafkaConsumer, topic: str) -> list[ConsumerRecord]:
    partitions = await partitions_of(consumer, topic)
    consumer.assign(partitions)
    first, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    for tp in partitions:
        consumer.seek(tp, first[tp])
    records: list[ConsumerRecord] = []
    deadline = time.monotonic() + START_S
    while any([await consumer.position(tp) < end[tp] for tp in partitions]):
        assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
        for batch in (await consumer.getmany(timeout_ms=200)).values():
            records += batch
    return records


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    """The partitions of a topic."""
    metadata = await consumer._client.fetch_all_metadata()  # the public call knows subscribed topics only
    return [TopicPartition(topic, p) for p in sorted(metadata.partitions_for_topic(topic) or ())]


class Frame:
    """A reply frame as read: decoded, and the record it was."""

    def __init__(self, record: ConsumerRecord, codec: Codec, seen_at: float, log_end: int | None = None) -> None:
        self.record = record
        self.seen_at = seen_at  #: monotonic seconds
        self.log_end = log_end  #: of the event log's partition, right after the frame was seen
        self.is_json = record.value[:1] == b"{"
        decode = codec.from_json if self.is_json else codec.decode
        header, self.payload = decode(record.value)
        self.header: FrameHeader = header
        self.headers: dict[str, bytes] = dict(record.headers)

    @property
    def terminal(self) -> bool:
        return isinstance(self.payload, TERMINAL_FRAMES)

    @property
    def kind(self) -> str:
        return type(self.payload).__name__


class Wire:
    """A plain producer and a plain consumer of the reply topic, as any program in any language could be one."""

    def __init__(self, deployment: Deployment, *, topic: str | None = None, watch_log: bool = False) -> None:
        """With ``watch_log`` each frame is told the end of the log when it was seen."""
        self._deployment = deployment
        self._watched = [
            TopicPartition(deployment.topics.events, p)
            for p in range(deployment.settings.partitions if watch_log else 0)
        ]
        self._topic = topic or deployment.topics.replies
        self.frames: list[Frame] = []
        self._codec = Codec(FRAMES)

    async def __aenter__(self) -> Self:
        settings = self._deployment.settings
        self._producer = AIOKafkaProducer(**client_options(settings, "test-wire"), acks="all", max_request_size=4 << 20)
        self._consumer = AIOKafkaConsumer(
            **client_options(settings, "test-wire"),
            group_id=None,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_MAX_FETCH_BYTES,
            fetch_max_wait_ms=50,
        )
        await self._producer.start()
        await self._consumer.start()
        partitions = await partitions_of(self._consumer, self._topic)
        self._consumer.assign(partitions)
        await self._consumer.seek_to_beginning(*partitions)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._consumer.stop()
        await self._producer.stop()

    async def _read(self) -> None:
        while True:
            batches = await self._consumer.getmany(timeout_ms=200)
            now = time.monotonic()
            ends = await self.log_ends() if batches else {}
            for tp, records in batches.items():
                self.frames += [Frame(record, self._codec, now, ends.get(tp.partition)) for record in records]

    async def log_ends(self) -> dict[int, int]:
        """Where the event log's partitions end; empty while nobody can tell."""
        if not self._watched or not self._deployment.log_ends_known:
            return {}
        try:
            ends = await self._consumer.end_offsets(self._watched)
        except KafkaError:  # the broker is away: these frames go without
            return {}
        return {tp.partition: end for tp, end in ends.items()} if self._deployment.log_ends_known else {}

    async def produce(
        self,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> tuple[int, int]:
        """Any bytes to the requests topic: where they are now."""
        stored = await self._producer.send_and_wait(
            self._deployment.topics.requests,
            key=key,
            value=value,
            partition=partition,
            headers=list((headers or {}).items()),
        )
        return stored.partition, stored.offset

    async def chat_json(
        self, session_id: str, text: Any, *, headers: Mapping[str, bytes] | None = None, **fields: Any
    ) -> tuple[int, int]:
        """A chat as JSON: ``model`` goes into the command, other fields to the top."""
        command = {"type": "chat", "text": text}
        for name in ("model", "on_busy"):
            if name in fields:
                command[name] = fields.pop(name)
        body = {"session_id": session_id, **fields, "command": command}
        return await self.produce(session_id.encode(), json.dumps(body).encode(), headers=headers)

    async def chat_avro(self, session_id: str, text: str, **fields: Any) -> tuple[int, int]:
        """A chat as Avro: ``model`` goes into the command, other fields to the header."""
        chat = Chat(content=text_content(text), model=fields.pop("model", None))
        header = RequestHeader(session_id=session_id, **fields)
        return await self.produce(session_id.encode(), RequestCodec().encode(header, chat))

    def of(self, request_id: str) -> list[Frame]:
        """The frames of a request so far."""
        self.check()
        return [frame for frame in self.frames if frame.header.request_id == request_id]

    def check(self) -> None:
        """Raise what ended the reading."""
        if self._task.done():
            self._task.result()

    async def terminal(self, request_id: str, timeout_s: float = START_S, *, count: int = 1) -> Frame:
        """The first terminal frame of a request, once there are so many."""

        def found() -> list[Frame] | None:
            terminal = [frame for frame in self.of(request_id) if frame.terminal]
            return terminal if len(terminal) >= count else None

        return (await eventually(found, f"terminal frame of {request_id}", timeout_s))[0]  # type: ignore[index]

    async def wait_for(self, request_id: str, kind: str, timeout_s: float = START_S) -> Frame:
        """The first frame of a kind."""

        def found() -> Frame | None:
            return next((frame for frame in self.of(request_id) if frame.kind == kind), None)

        answer = await eventually(found, f"{kind} of {request_id}", timeout_s)
        assert answer is not None
        return answer


@contextlib.asynccontextmanager
async def serving(deployment: Deployment, **settings: str) -> AsyncIterator[tuple[Process, Wire]]:
    """One worker that serves, and a wire to it."""
    worker = deployment.worker(**settings)  # in this thread: the process ends with the one that started it
    async with deployment.wire() as wire:
        await eventually(lambda: worker.ready, "the worker is ready", START_S)
        yield worker, wire


async def eventually_async(
    condition: Callable[[], Any], what: str, timeout_s: float = START_S, interval_s: float = 0.2
) -> Any:
    """The first true answer of a coroutine function; for what has to be read from a broker."""
    deadline = time.monotonic() + timeout_s
    while not (answer := await condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(interval_s)
    return answer
