"""Requests as other people's producers write them, on a real broker: compressed, in transactions, unreadable."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests import raw_batches
from tests.deployment import START_S, Deployment, Wire, eventually_async
from tests.raw_batches import Raw
from tests.waiting import eventually
from turnlog_schemas.events import RequestDeadLettered, RequestsLost, TurnAccepted
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import MIB
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.settings_topic import read_settings, write_setting

PARTITIONS = 4
CODECS = ("gzip", "snappy", "lz4", "zstd")
_numbers = iter(range(1_000_000))


@pytest.fixture(scope="module")
def deployment(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One worker for all of them: what harms it fails the tests after it, too."""
    folder = tmp_path_factory.mktemp("records")
    with Deployment(broker.bootstrap_server, folder, partitions=PARTITIONS) as deployment:
        deployment.make_topics()
        deployment.ready_worker()
        yield deployment


@pytest.fixture
async def wire(deployment: Deployment) -> AsyncIterator[Wire]:
    async with deployment.wire() as wire:
        yield wire


def new_id(what: str, partition: int | None = None) -> str:
    """A session id that is new, of a partition if one is given."""
    while True:
        name = f"{what}-{next(_numbers)}"
        if partition is None or partition_of(name.encode(), PARTITIONS) == partition:
            return name


def chat(session_id: str, request_id: str) -> bytes:
    command = {"type": "chat", "text": "hello " * 50}
    return json.dumps({"session_id": session_id, "request_id": request_id, "command": command}).encode()


def raw_chat(request_id: str, partition: int, *headers: tuple[bytes, bytes | None]) -> Raw:
    session_id = new_id("raw", partition)
    return Raw(key=session_id.encode(), value=chat(session_id, request_id), headers=headers)


async def answered(wire: Wire, *request_ids: str) -> None:
    for request_id in request_ids:
        assert (await wire.terminal(request_id)).kind == "TurnCompleted"


async def all_partitions_go_on(deployment: Deployment, wire: Wire) -> None:
    """They answer, and the worker is the one that was started."""
    for partition in range(PARTITIONS):
        request_id = new_id("after")
        await wire.chat_json(new_id("after", partition), "still there?", request_id=request_id)
        await answered(wire, request_id)
    (worker,) = deployment.processes
    assert worker.running


def producer_of(deployment: Deployment, **options: Any) -> AIOKafkaProducer:
    return AIOKafkaProducer(**client_options(deployment.settings, "test-records"), **options)


@pytest.mark.parametrize("codec", CODECS)
async def test_compressed_requests_are_answered(deployment: Deployment, wire: Wire, codec: str) -> None:
    async with producer_of(deployment, compression_type=codec, linger_ms=20) as producer:
        sent = [(new_id(codec, partition), new_id(codec)) for partition in range(PARTITIONS) for _ in range(3)]
        for session_id, request_id in sent:
            await producer.send(deployment.topics.requests, key=session_id.encode(), value=chat(session_id, request_id))
        await producer.flush()
        await answered(wire, *(request_id for _, request_id in sent))
    await all_partitions_go_on(deployment, wire)


async def dead_letter(deployment: Deployment, partition: int, offset: int) -> tuple[Any, dict[str, bytes]]:
    async def parked() -> Any:
        for record in await deployment.dump(deployment.topics.dead_letters):
            headers = dict(record.headers)
            if (int(headers["x-turnlog-partition"]), int(headers["x-turnlog-offset"])) == (partition, offset):
                return record, headers
        return None

    found: tuple[Any, dict[str, bytes]] = await eventually_async(parked, f"the dead letter of {partition}@{offset}")
    return found


@pytest.mark.parametrize("codec", [0, 4])
async def test_a_header_key_that_is_not_utf8_costs_no_other_record(
    deployment: Deployment, wire: Wire, codec: int
) -> None:
    names = [new_id("r") for _ in range(5)]
    records = [raw_chat(name, 1) for name in names]
    bad = raw_chat(names[2], 1, (b"x-mine", b"1"), (b"caf\xe9", b"\xff"), (b"none", None))
    records[2] = bad
    payload = b"".join(raw_batches.record(delta, raw) for delta, raw in enumerate(records))
    data = raw_batches.batch(records, attributes=codec, payload=_zstd(payload) if codec else payload)
    async with producer_of(deployment) as producer:
        base = await raw_batches.produce(producer, deployment.topics.requests, 1, data)
        await answered(wire, *names[:2], *names[3:])
        letter, headers = await dead_letter(deployment, 1, base + 2)
        assert (letter.key, letter.value) == (bad.key, bad.value)
        assert headers["x-mine"] == b"1"
        assert headers["caf\\xe9"] == b"\xff"
        assert headers["x-turnlog-code"] == b"unreadable_record"
        assert b"not UTF-8" in headers["x-turnlog-reason"]
        await all_partitions_go_on(deployment, wire)
        assert not wire.of(names[2])
        letters = [
            event.payload
            for event in (await deployment.accepted())[1]
            if isinstance(event.payload, RequestDeadLettered) and event.payload.offset == base + 2
        ]
        assert len(letters) == 1


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


async def test_a_batch_that_unpacks_to_too_much_is_lost_with_its_reason(deployment: Deployment, wire: Wire) -> None:
    """66 MiB of one letter in a few kilobytes: nobody unpacks that, and its neighbours are answered."""
    names = [new_id("r") for _ in range(2)]
    payload = raw_batches.record(0, Raw(key=b"k", value=b"x" * (66 * MIB)))
    huge = raw_batches.batch([Raw(key=None, value=None)], attributes=4, payload=_zstd(payload))
    async with producer_of(deployment) as producer:
        requests = deployment.topics.requests
        await raw_batches.produce(producer, requests, 0, raw_batches.batch([raw_chat(names[0], 0)]))
        base = await raw_batches.produce(producer, requests, 0, huge)
        await raw_batches.produce(producer, requests, 0, raw_batches.batch([raw_chat(names[1], 0)]))
    await answered(wire, *names)
    lost = [e.payload for e in (await deployment.accepted())[0] if isinstance(e.payload, RequestsLost)]
    assert [(event.from_offset, event.to_offset) for event in lost] == [(base, base)]
    assert "larger than 67108864 bytes when decompressed with zstd" in (lost[0].reason or "")
    await all_partitions_go_on(deployment, wire)


async def test_a_thousand_bad_records_in_one_batch(deployment: Deployment, wire: Wire) -> None:
    """Each is one dead letter; they are stored together, so those behind them and beside them need not wait long."""
    names = [new_id("r") for _ in range(3)]
    records = [Raw(key=b"k", value=b"no request %d" % n) for n in range(1000)]
    records[500] = raw_chat(names[0], 3)
    async with producer_of(deployment) as producer:
        base = await raw_batches.produce(producer, deployment.topics.requests, 3, raw_batches.batch(records))
    await wire.chat_json(new_id("beside", 1), "hello", request_id=names[1])
    await wire.chat_json(new_id("behind", 3), "hello", request_id=names[2])
    await answered(wire, *names)
    accepted = (await deployment.accepted())[3]
    bad = [base + n for n in range(1000) if n != 500]
    told = [
        e.payload.offset for e in accepted if isinstance(e.payload, RequestDeadLettered) and e.payload.offset >= base
    ]
    assert told[:999] == bad
    kept = [
        (int(headers["x-turnlog-offset"]), record.value)
        for record in await deployment.dump(deployment.topics.dead_letters)
        if (headers := dict(record.headers))["x-turnlog-partition"] == b"3"
    ]
    assert [(base + n, records[n].value) for n in range(1000) if n != 500] == [k for k in kept if k[0] >= base][:999]
    await all_partitions_go_on(deployment, wire)


async def test_many_unreadable_batches_in_a_row(deployment: Deployment, wire: Wire) -> None:
    """A producer whose every record has such a header, among good ones."""
    good = []
    async with producer_of(deployment) as producer:
        for _ in range(10):
            bad = [raw_chat(new_id("bad"), 2, (b"\xff\xfe", b""))]
            await raw_batches.produce(producer, deployment.topics.requests, 2, raw_batches.batch(bad))
            good.append(new_id("r"))
            await wire.chat_json(new_id("good", 2), "hello", request_id=good[-1])
    await answered(wire, *good)
    await all_partitions_go_on(deployment, wire)
    tp = TopicPartition(deployment.topics.requests, 2)
    group = AIOKafkaConsumer(
        **client_options(deployment.settings, "test-group"),
        group_id=deployment.settings.group_id,
        enable_auto_commit=False,
    )
    group.assign([tp])
    async with group:

        async def no_lag() -> bool:
            return await group.committed(tp) == (await group.end_offsets([tp]))[tp]

        await eventually_async(no_lag, "the group's offset passes what Faust could not read")


async def test_aborted_transactions_are_never_answered_and_open_ones_after_their_commit(
    deployment: Deployment, wire: Wire
) -> None:
    topic = deployment.topics.requests
    async with producer_of(deployment, transactional_id=new_id("t")) as producer:
        aborted, committed, behind, elsewhere = (new_id("r") for _ in range(4))
        await producer.begin_transaction()
        session_id = new_id("tx", 0)
        await producer.send_and_wait(topic, key=session_id.encode(), value=chat(session_id, aborted))
        await producer.abort_transaction()
        await producer.begin_transaction()
        await producer.send_and_wait(topic, key=session_id.encode(), value=chat(session_id, committed))
        await wire.chat_json(new_id("tx", 0), "behind", request_id=behind)
        for partition in range(1, PARTITIONS):  # an open transaction holds only its own partition's requests
            await wire.chat_json(new_id("tx", partition), "hello", request_id=elsewhere)
            await answered(wire, elsewhere)
            elsewhere = new_id("r")
        assert not wire.of(committed)
        assert not wire.of(behind)
        before = time.monotonic()
        await producer.commit_transaction()
        await answered(wire, committed, behind)
        assert wire.of(committed)[0].seen_at >= before
    await all_partitions_go_on(deployment, wire)
    assert not wire.of(aborted)
    accepted = [e.payload for e in await deployment.events_of(session_id) if isinstance(e.payload, TurnAccepted)]
    assert [event.request_id for event in accepted] == [committed]


async def test_a_run_time_setting_is_followed_past_a_record_that_cannot_be_parsed(deployment: Deployment) -> None:
    (worker,) = deployment.processes
    bad = Raw(key=b"default-model", value=b"script:9", headers=[(b"\xff", b"")])
    async with producer_of(deployment) as producer:
        await raw_batches.produce(producer, deployment.topics.settings, 0, raw_batches.batch([bad]))
        write_setting(deployment.settings, "fast-model", "script:7")
        await eventually(
            lambda: "run-time settings: default-model, fast-model" in worker.log, "it is followed", START_S
        )
        assert read_settings(deployment.settings) == {"default-model": "script:9", "fast-model": "script:7"}
        write_setting(deployment.settings, "default-model", None)


async def test_a_transaction_that_is_open_when_a_worker_starts_holds_one_partition_and_is_named(
    broker: DevBroker, tmp_path: Path
) -> None:
    """What is behind it waits, also through a restart; the log and the doctor say for whom."""
    with Deployment(broker.bootstrap_server, tmp_path, partitions=PARTITIONS) as deployment:
        deployment.make_topics()
        topic = deployment.topics.requests
        async with producer_of(deployment, transactional_id="the-slow-one") as producer, deployment.wire() as wire:
            first, behind = new_id("r"), new_id("r")
            session_id = new_id("tx", 2)
            await producer.begin_transaction()
            await producer.send_and_wait(topic, key=session_id.encode(), value=chat(session_id, first))
            await wire.chat_json(new_id("tx", 2), "behind", request_id=behind)
            for name in ("w0", "w1"):
                worker = deployment.worker(name)
                await eventually(lambda worker=worker: worker.ready, "the worker is ready", START_S)
                for partition in (0, 1, 3):
                    request_id = new_id("r")
                    await wire.chat_json(new_id("free", partition), "hello", request_id=request_id)
                    await answered(wire, request_id)
                if name == "w0":
                    await eventually(
                        lambda worker=worker: "the-slow-one" in worker.log, "its name is in the log", START_S
                    )
                    assert worker.stop() == 0
            doctor = deployment.start("doctor", "doctor", "--timeout-s", "20")
            assert await asyncio.to_thread(doctor.wait) == 0, doctor.log
            assert "waits    transactions: partition 2: requests from offset 0 on wait" in doctor.log
            assert "'the-slow-one'" in doctor.log
            assert not wire.of(first)
            assert not wire.of(behind)
            await producer.commit_transaction()
            await answered(wire, first, behind)


async def test_a_batch_that_was_damaged_on_the_disk_is_lost_with_its_reason(
    broker: DevBroker, deployment: Deployment, wire: Wire
) -> None:
    """A byte of it is another one: nobody can say what was in it. Its neighbours are answered."""
    names = [new_id("r") for _ in range(6)]
    async with producer_of(deployment) as producer:

        async def send(*raw: Raw) -> int:
            return await raw_batches.produce(producer, deployment.topics.requests, 3, raw_batches.batch(raw))

        # A transaction keeps the worker from reading before the damage is done.
        async with producer_of(deployment, transactional_id=new_id("t")) as holder:
            await holder.begin_transaction()
            session_id = new_id("tx", 3)
            await holder.send_and_wait(
                deployment.topics.requests, key=session_id.encode(), value=chat(session_id, names[0])
            )
            await send(raw_chat(names[1], 3))
            marker = b"damage-me-" + names[2].encode()
            base = await send(raw_chat(names[2], 3, (b"x", marker)), raw_chat(names[3], 3))
            await send(raw_chat(names[4], 3))
            damage(broker.data_dir / "kafka-logs" / f"{deployment.topics.requests}-3", marker)
            await holder.commit_transaction()
        await answered(wire, names[0], names[1], names[4])
        await all_partitions_go_on(deployment, wire)
        lost = [e.payload for e in (await deployment.accepted())[3] if isinstance(e.payload, RequestsLost)]
        assert [(event.from_offset, event.to_offset) for event in lost] == [(base, base + 1)]
        assert "checksum" in (lost[0].reason or "")
        assert not wire.of(names[2])
        assert not wire.of(names[3])


def damage(folder: Path, marker: bytes) -> None:
    """Change the bytes of a record in the partition's newest segment."""
    with max(folder.glob("*.log")).open("r+b") as file:
        place = file.read().index(marker)
        file.seek(place)
        file.write(b"DAMAGE")
