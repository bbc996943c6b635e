"""The materializer as a process on a real log: it is killed, its log is another one, its broker goes away."""

import asyncio
import io
import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from aiokafka import AIOKafkaProducer
from fastavro import schemaless_writer
from kafka import KafkaAdminClient, KafkaProducer

from tests import preloaded, raw_batches
from tests.checker.stores import compare, expected_tables
from tests.event_logs import LogWriter, random_log, write_on
from tests.faults.record import store_content
from tests.raw_batches import Raw
from tests.waiting import until
from turnlog_schemas import events as ev
from turnlog_schemas.codec import AVRO_MAGIC, Codec
from turnlog_schemas.mapping import to_dict
from turnlog_schemas.registry import EVENTS, Schema, load, packaged
from turnlog_streams.projection.rows import TABLES
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.topics_admin import init_topics
from turnlog_workers.store.tables import read_positions, table_hashes

PARTITIONS = 3
CODEC = Codec(EVENTS)


@pytest.fixture
def settings(broker: DevBroker, tmp_path: Path) -> Settings:
    """A deployment of the test's own, with its topics."""
    settings = deployment(broker, tmp_path)
    init_topics(settings)
    return settings


def deployment(broker: DevBroker, path: Path) -> Settings:
    return Settings(
        bootstrap_server=broker.bootstrap_server,
        prefix=f"t-{uuid.uuid4().hex[:12]}",
        partitions=PARTITIONS,
        data_dir=path / "data",
    )


class Process:
    """A materializer in a process of its own."""

    def __init__(self, settings: Settings, log: Path, **more: str) -> None:
        self.settings = settings
        self.ready = settings.data_dir.parent / f"ready-{uuid.uuid4().hex}"
        self._log_path = log
        self._log = log.open("wb")
        env = {
            "PATH": os.environ["PATH"],
            "TURNLOG_BOOTSTRAP_SERVER": settings.bootstrap_server,
            "TURNLOG_PREFIX": settings.prefix,
            "TURNLOG_DATA_DIR": str(settings.data_dir),
            "TURNLOG_PUBLISH_INTERVAL_S": "0.2",
            "TURNLOG_READY_FILE": str(self.ready),
            "TURNLOG_LOG_FORMAT": "human",
        }
        argv = [sys.executable, "-m", "turnlog_workers.materializer.process"]
        self.process = preloaded.start(argv, env=env | more, stdout=self._log)

    @property
    def log(self) -> str:
        """What it said."""
        return self._log_path.read_text()

    def wait_ready(self) -> None:
        """Until it has caught up for the first time."""
        until(self._ready_or_dead, f"the materializer is ready: {self.log}", 120)
        assert self.ready.exists(), self.log

    def _ready_or_dead(self) -> bool:
        return self.ready.exists() or self.process.poll() is not None

    def wait_for(self, positions: Mapping[int, int]) -> None:
        """Until the snapshot holds the log up to these offsets."""
        until(
            lambda: self.process.poll() is not None or offsets(self.settings) == positions,
            f"the snapshot comes to {positions}: {self.log}",
            60,
        )
        assert offsets(self.settings) == positions, self.log

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def end(self) -> None:
        """Whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(settings: Settings, **more: str) -> Process:
        started.append(Process(settings, tmp_path / f"materializer-{len(started)}.log", **more))
        return started[-1]

    yield start
    for process in started:
        process.end()


@contextmanager
def snapshot(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(str(settings.snapshot), read_only=True)
    try:
        yield connection
    finally:
        connection.close()


def offsets(settings: Settings) -> Mapping[int, int]:
    """How far the snapshot is."""
    if not settings.snapshot.exists():
        return {}
    with snapshot(settings) as connection:
        return {p: position.next_offset for p, position in read_positions(connection).items()}


def hashes(settings: Settings) -> Mapping[str, str]:
    with snapshot(settings) as connection:
        return table_hashes(connection, TABLES)


def produce(settings: Settings, records: Sequence[LoggedEvent]) -> None:
    """Append records to the event log where they say that they are."""
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_server, acks="all")
    try:
        sent = [
            producer.send(
                settings.topics.events,
                key=record.header.stream_id.encode(),
                value=CODEC.encode(record.header, record.payload),
                partition=record.partition,
                timestamp_ms=record.logged_at,
            )
            for record in records
        ]
        for future, record in zip(sent, records, strict=True):
            assert future.get(timeout=60).offset == record.offset
    finally:
        producer.close()


def logs(seed: int, steps: int) -> list[LogWriter]:
    return [random_log(seed + p, steps, partition=p, newer=False) for p in range(PARTITIONS)]


def ends(written: Sequence[LogWriter]) -> dict[int, int]:
    return {log.partition: len(log.records) for log in written}


def assert_rows(settings: Settings, written: Sequence[LogWriter]) -> None:
    """The snapshot's rows are what each log leads to in one go."""
    expected: dict[str, list[Any]] = {}
    for log in written:
        for name, rows in expected_tables(log.partition, log.records).items():
            expected.setdefault(name, []).extend(rows)
    assert not list(compare(store_content(settings.snapshot), expected))


def check(settings: Settings, written: Sequence[LogWriter]) -> None:
    """The snapshot holds the logs."""
    with snapshot(settings) as connection:
        assert_rows(settings, written)
        for log in written:
            found = connection.execute("SELECT count(*) FROM events WHERE partition = $1", [log.partition]).fetchone()
            newest = connection.execute(
                "SELECT next_offset, epoch, next_n FROM partitions WHERE partition = $1", [log.partition]
            ).fetchone()
            accepted = sum(isinstance(record.payload, ev.PartitionClaimed) for record in log.records)
            assert newest == (len(log.records), log.epoch, log.n)
            assert found is not None
            assert found[0] >= accepted


def test_an_empty_log_is_published_at_once(settings: Settings, start: Callable[..., Process]) -> None:
    process = start(settings)
    process.wait_ready()
    assert offsets(settings) == dict.fromkeys(range(PARTITIONS), 0)
    with snapshot(settings) as connection:
        assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    assert process.stop() == 0


def test_follows_the_log_and_comes_back_to_its_checkpoint(settings: Settings, start: Callable[..., Process]) -> None:
    written = logs(1, 150)
    produce(settings, [record for log in written for record in log.records])
    process = start(settings)
    process.wait_ready()
    process.wait_for(ends(written))
    check(settings, written)
    before = ends(written)
    for log in written:
        write_on(log, 100, newer=False)
    produce(settings, [record for log in written for record in log.records[before[log.partition] :]])
    process.wait_for(ends(written))
    check(settings, written)
    assert process.stop() == 0
    live = hashes(settings)

    again = start(settings)
    again.wait_ready()
    assert again.stop() == 0
    assert hashes(settings) == live
    assert "rebuilt" not in again.log

    (settings.data_dir / "analytics.duckdb").unlink()
    settings.snapshot.unlink()
    rebuilt = start(settings, TURNLOG_STORE_BATCH_EVENTS="17")
    rebuilt.wait_ready()
    rebuilt.wait_for(ends(written))
    assert rebuilt.stop() == 0
    assert hashes(settings) == live


def test_a_snapshot_that_cannot_be_published_stops_nothing_and_comes_when_it_can(
    settings: Settings, start: Callable[..., Process]
) -> None:
    (settings.snapshot / "folder").mkdir(parents=True)
    spilled = settings.snapshot.with_name("snapshot.duckdb.tmp")  # as a reader leaves it that was killed
    spilled.mkdir()
    process = start(settings)
    process.wait_ready()
    until(lambda: "there is a folder of that name" in process.log, "it says so", 60)
    (settings.snapshot / "folder").rmdir()
    settings.snapshot.rmdir()
    until(lambda: settings.snapshot.is_file(), "the snapshot is published", 60)
    assert process.stop() == 0
    assert process.log.count("there is a folder of that name") == 1
    assert spilled.is_dir()
    assert offsets(settings) == dict.fromkeys(range(PARTITIONS), 0)


def test_kill_in_the_middle_of_commits(settings: Settings, start: Callable[..., Process]) -> None:
    written = logs(11, 150)
    produce(settings, [record for log in written for record in log.records])
    for hit in (1, 3, 5):
        process = start(settings, TURNLOG_CRASH_AT=f"materializer.mid_commit:{hit}", TURNLOG_STORE_BATCH_EVENTS="40")
        assert process.process.wait(60) == -signal.SIGKILL, process.log
        assert sum(offsets(settings).values()) < sum(ends(written).values())
    process = start(settings, TURNLOG_STORE_BATCH_EVENTS="40")
    process.wait_ready()
    process.wait_for(ends(written))
    assert process.stop() == 0
    check(settings, written)
    live = hashes(settings)
    (settings.data_dir / "analytics.duckdb").unlink()
    rebuilt = start(settings)
    rebuilt.wait_ready()
    rebuilt.wait_for(ends(written))
    assert hashes(settings) == live


def test_the_file_of_another_log_is_moved_aside(settings: Settings, start: Callable[..., Process]) -> None:
    written = logs(21, 60)
    produce(settings, [record for log in written for record in log.records])
    process = start(settings)
    process.wait_ready()
    assert process.stop() == 0

    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_server)
    try:
        admin.delete_topics([settings.topics.events])
        until(lambda: settings.topics.events not in admin.list_topics(), "the topic is deleted")
    finally:
        admin.close()
    init_topics(settings)
    other = logs(31, 90)
    produce(settings, [record for log in other for record in log.records])
    again = start(settings)
    again.wait_ready()
    again.wait_for(ends(other))
    check(settings, other)
    assert "moved aside and rebuilt" in again.log
    assert len(list((settings.data_dir / "aside").glob("analytics.*.duckdb"))) == 1


def test_the_checkpoint_must_be_the_same_record(settings: Settings, start: Callable[..., Process]) -> None:
    written = logs(41, 60)
    produce(settings, [record for log in written for record in log.records])
    process = start(settings)
    process.wait_ready()
    assert process.stop() == 0
    live = hashes(settings)
    connection = duckdb.connect(str(settings.data_dir / "analytics.duckdb"))
    connection.execute("UPDATE partitions SET last_event_id = 'another' WHERE partition = 1")
    connection.execute("DELETE FROM internal.messages")
    connection.close()
    again = start(settings)
    again.wait_ready()
    again.wait_for(ends(written))
    assert hashes(settings) == live
    assert f"{settings.topics.events}[1]@" in again.log


def test_bytes_of_dead_letters(settings: Settings, start: Callable[..., Process]) -> None:
    log = LogWriter(random_log(1, 1).rng, 1)
    log.claim()
    for offset in (7, 8):
        log.partition_event(ev.RequestDeadLettered(offset=offset, code="undecodable", reason="random bytes"))
    produce(settings, log.records)
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_server)

    def park(offset: int, value: bytes) -> None:
        headers = [("x-turnlog-partition", b"1"), ("x-turnlog-offset", str(offset).encode())]
        producer.send(settings.topics.dead_letters, key=b"k", value=value, headers=headers).get(timeout=60)

    def rows() -> Any:
        with snapshot(settings) as connection:
            return connection.execute(
                "SELECT request_offset, bytes FROM dead_letters ORDER BY request_offset"
            ).fetchall()

    try:
        park(7, b"\x00\xff")
        park(99, b"of an owner that was fenced")
        producer.send(settings.topics.dead_letters, value=b"of nobody").get(timeout=60)
        process = start(settings)
        process.wait_ready()
        until(lambda: rows() == [(7, b"\x00\xff"), (8, None)], "the first bytes are there")
        park(8, b"later")
        until(lambda: rows() == [(7, b"\x00\xff"), (8, b"later")], "the second bytes are there")
        assert process.stop() == 0
    finally:
        producer.close()


def newer_event() -> Schema:
    """An event type of a later version."""
    schema = packaged().current("events", "RequestsLost")
    assert schema is not None
    raw = json.loads(schema.text)
    raw["name"] = "turnlog.events.SessionDreamt"
    return load(json.dumps(raw))


def test_a_dead_letter_that_cannot_be_parsed_stops_nobody(settings: Settings, start: Callable[..., Process]) -> None:
    """Somebody else wrote it, with a header key that is not UTF-8: the events go on."""
    bad = raw_batches.batch([Raw(key=b"x", value=b"y", headers=[(b"\xff", b"")])])

    async def park() -> None:
        async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_server) as producer:
            await raw_batches.produce(producer, settings.topics.dead_letters, 0, bad)

    asyncio.run(park())
    written = logs(1, 30)
    process = start(settings)
    process.wait_ready()
    until(lambda: "dead letters are not copied any more" in process.log, "it is said")
    produce(settings, [record for log in written for record in log.records])
    process.wait_for(ends(written))
    check(settings, written)
    assert process.stop() == 0


def test_an_event_of_a_newer_version_is_kept_raw(settings: Settings, start: Callable[..., Process]) -> None:
    log = random_log(3, 60, partition=0, newer=False)
    produce(settings, log.records)
    process = start(settings)
    process.wait_ready()
    session_id = next(name for name, session in log.sessions.items() if session.exists)
    schema = newer_event()
    log.newer_event(session_id)
    header = log.records[-1].header
    body = io.BytesIO()
    schemaless_writer(body, schema.parsed, to_dict(ev.EventHeader)(header) | {"from_offset": 4, "to_offset": 5})
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_server)
    try:
        text = schema.text.encode()
        key = schema.fingerprint.hex().encode()
        producer.send(settings.topics.schemas, key=key, value=text).get(timeout=60)
        value = AVRO_MAGIC + schema.fingerprint + body.getvalue()
        producer.send(settings.topics.events, value=value, partition=0).get(timeout=60)
    finally:
        producer.close()
    write_on(log, 30, newer=False)
    produce(settings, log.records[_index(log, header) + 1 :])
    process.wait_for({0: len(log.records), 1: 0, 2: 0})
    with snapshot(settings) as connection:
        assert connection.execute(
            "SELECT unknown_events FROM sessions WHERE session_id = $1", [session_id]
        ).fetchone() == (1,)
        assert connection.execute("SELECT type, body FROM internal.unknown_events").fetchall() == [
            ("SessionDreamt", '{"from_offset":4,"to_offset":5,"reason":null}')
        ]
    assert process.stop() == 0


def _index(log: LogWriter, header: ev.EventHeader) -> int:
    return next(index for index, record in enumerate(log.records) if record.header is header)


def test_a_record_that_nobody_can_read_stops_it_with_a_sentence(
    settings: Settings, start: Callable[..., Process]
) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_server)
    try:
        for foreign in (b"random bytes", None):
            producer.send(settings.topics.events, value=foreign, key=b"k", partition=2).get(timeout=60)
        producer.send(settings.topics.events, value=b"\xc3\x01" + b"a newer version's?", partition=2).get(timeout=60)
    finally:
        producer.close()
    process = start(settings)
    assert process.process.wait(60) == 1
    assert f"{settings.topics.events}[2]@2 cannot be read as an event" in process.log


def test_missing_topics_and_a_second_materializer_are_errors(
    broker: DevBroker, tmp_path: Path, start: Callable[..., Process]
) -> None:
    settings = deployment(broker, tmp_path)
    process = start(settings)
    assert process.process.wait(60) == 1
    assert "turnlog topics init" in process.log
    init_topics(settings)
    first = start(settings)
    first.wait_ready()
    second = start(settings)
    assert second.process.wait(60) == 1
    assert "another materializer is running" in second.log
    assert first.stop() == 0


def test_the_broker_goes_away_and_comes_back(tmp_path: Path, start: Callable[..., Process]) -> None:
    with DevBroker(tmp_path / "broker", preferred_port=None) as own:
        settings = deployment(own, tmp_path)
        init_topics(settings)
        written = logs(51, 40)
        produce(settings, [record for log in written for record in log.records])
        process = start(settings, TURNLOG_APPEND_TIMEOUT_S="1", TURNLOG_STARTUP_TIMEOUT_S="5")
        process.wait_ready()
        own.kill()
        until(lambda: "trying again" in process.log, "the materializer notices", 60)
        own.start()
        before = ends(written)
        for log in written:
            write_on(log, 40, newer=False)
        produce(settings, [record for log in written for record in log.records[before[log.partition] :]])
        process.wait_for(ends(written))
        check(settings, written)
        assert process.stop() == 0
