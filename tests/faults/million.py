"""``python -m tests.faults.million [--events 1000000]``: how long a partition with a long log takes to be taken over.

Writes the log of one partition (sessions of ten turns, five events a turn), then lets a worker without any files take
the partition over, then one that finds the files of the first. Prints one JSON document; exits with 0 if the first
takeover took no longer than the bound.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaProducer

from tests.deployment import Deployment, Process, Wire
from tests.faults.broker import fault_broker
from tests.waiting import eventually
from turnlog_schemas import events as ev
from turnlog_schemas.codec import Codec
from turnlog_schemas.parts import NewSession, Usage, text_content
from turnlog_schemas.registry import EVENTS
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.topics_admin import topic_id

TURNS_A_SESSION = 10
EVENTS_A_TURN = 5
#: A million events are caught up with in this time on two cores, busy ones too; docs/guarantees.md says so.
BOUND_S = 120.0
_LIMIT_S = 1200.0
_BATCH_BYTES = 900_000
_TEXT = "the log keeps every answer, in the order in which it was given, for as long as it is asked for " * 3


def log_of(count: int, requests_topic_id: str) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a log of so many events under one claim; every turn has ended and is answered."""
    codec = Codec(EVENTS)
    claim = ev.PartitionClaimed(
        log_format=ev.LOG_FORMAT,
        owner="writer",
        incarnation="writer",
        generation=0,
        partition_count=1,
        requests_topic_id=requests_topic_id,
    )
    yield b"0", codec.encode(_header("partition", "0", 0, epoch=-1, n=-1, turn_id=None), claim)
    n = 0
    session = 0
    while True:
        session_id = f"old-{session:08x}"
        session += 1
        version = 0
        for number in range(TURNS_A_SESSION):
            turn_id = f"t-{session}-{number}"
            for payload in _turn(session_id, number):
                version += 1
                of_turn = None if isinstance(payload, ev.SessionCreated) else turn_id
                header = _header("session", session_id, version, epoch=0, n=n, turn_id=of_turn)
                yield session_id.encode(), codec.encode(header, payload)
                n += 1
            if n >= count:
                return


def _header(kind: str, stream_id: str, version: int, *, epoch: int, n: int, turn_id: str | None) -> ev.EventHeader:
    return ev.EventHeader(
        stream_kind=kind,
        stream_id=stream_id,
        stream_version=version,
        epoch=epoch,
        n=n,
        accepted=-1,
        replied=n,
        turn_id=turn_id,
        attempt=0 if turn_id is None else 1,
        recorded_at=1_700_000_000_000 + n,
    )


def _turn(session_id: str, number: int) -> Iterator[Any]:
    """The events of a turn, the session's beginning before the first."""
    if number == 0:
        yield ev.SessionCreated(new_session=NewSession(channel=session_id, title="an old session"))
    asked = text_content(f"question {number}")
    yield ev.TurnAccepted(request_id=f"r{number}", command_hash="0" * 32, content=asked)
    yield ev.TurnStarted(model="echo:", cause="first")
    yield ev.MessageStored(message_seq=2 * number + 1, role="user", content=asked)
    yield ev.MessageStored(message_seq=2 * number + 2, role="assistant", content=text_content(_TEXT))
    yield ev.TurnCompleted(usage=Usage(input_tokens=100, output_tokens=50, model_calls=1))


async def write_log(deployment: Deployment, count: int) -> int:
    """Write it in batches as large as the topic takes; how many records there are."""
    requests_id = await asyncio.to_thread(topic_id, deployment.settings, deployment.topics.requests) or ""
    producer = AIOKafkaProducer(
        **client_options(deployment.settings, "million"),
        acks="all",
        max_batch_size=2 * _BATCH_BYTES,
        max_request_size=4 * _BATCH_BYTES,
    )
    await producer.start()
    written, size, last = 0, 0, None
    batch = producer.create_batch()
    try:
        for key, value in log_of(count, requests_id):
            if size > _BATCH_BYTES:
                batch.close()
                last = await producer.send_batch(batch, deployment.topics.events, partition=0)
                batch, size = producer.create_batch(), 0
            batch.append(timestamp=None, key=key, value=value)
            size += len(key) + len(value) + 32
            written += 1
        batch.close()
        last = await producer.send_batch(batch, deployment.topics.events, partition=0)
        await last
    finally:
        await producer.stop()
    return written


async def takeover(deployment: Deployment, wire: Wire, name: str, data_dir: Path) -> dict[str, float]:
    """A worker starts: seconds until it has the partition, until it serves, and until a waiting chat is answered."""
    await wire.chat_json("old-00000007", f"hello {name}", request_id=name)
    began = time.monotonic()
    worker = deployment.worker(name, data_dir=str(data_dir))
    assigned = await _seen(worker, " gained", began)
    served = await _seen(worker, "serving from request", began)
    done = await wire.terminal(name, _LIMIT_S)
    answered = done.seen_at - began
    assert await asyncio.to_thread(worker.stop) == 0, worker.log
    return {
        "start_to_assigned_s": round(assigned, 2),
        "assigned_to_serving_s": round(served - assigned, 2),
        "start_to_answer_s": round(answered, 2),
    }


async def _seen(worker: Process, text: str, began: float) -> float:
    await eventually(lambda: text in worker.log or not worker.running, f"{worker.name}: {text}", _LIMIT_S)
    assert worker.running, worker.log
    return time.monotonic() - began


async def measure(folder: Path, count: int) -> dict[str, Any]:
    """All figures."""
    async with fault_broker(folder) as broker:
        with Deployment(broker.bootstrap_server, folder / "run", partitions=1) as deployment:
            await asyncio.to_thread(deployment.make_topics)
            began = time.monotonic()
            records = await write_log(deployment, count)
            wrote_s = time.monotonic() - began
            data_dir = folder / "data"
            async with Wire(deployment) as wire:
                fresh = await takeover(deployment, wire, "fresh", data_dir)
                again = await takeover(deployment, wire, "again", data_dir)
            size = sum(path.stat().st_size for path in (data_dir / "stores").glob("*.duckdb"))
    return {
        "records": records,
        "write_s": round(wrote_s, 1),
        "never_owned": fresh,
        "events_per_s": round(records / max(fresh["assigned_to_serving_s"], 0.01)),
        "owned_before": again,
        "bound_s": BOUND_S,
        "store_mb": round(size / 1e6, 1),
        "load_average": round(psutil.getloadavg()[0], 1),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.million", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--result", type=Path, help="write it here, too (docs/results/million.json)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnlog-million-") as name:
        found = asyncio.run(measure(Path(name), options.events))
    print(json.dumps(found), flush=True)
    if options.result:
        options.result.parent.mkdir(parents=True, exist_ok=True)
        options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if found["never_owned"]["assigned_to_serving_s"] <= BOUND_S else 1


if __name__ == "__main__":
    sys.exit(main())
