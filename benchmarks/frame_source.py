"""Frames as workers would send them, written straight into the reply topic by a process of its own.

Half of the streams are a session's frames, half are responses, whose requests are there, too. It prints their paths as
JSON; when a line comes in it writes pieces of text until the time is over: each says its number and the record's time.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks.load import MODEL
from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.frames import FrameHeader, TextDelta, TurnAccepted, TurnStarted
from turnlog_schemas.parts import text_content
from turnlog_schemas.registry import COMMANDS, FRAMES
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.connections import client_options

_TICK_S = 0.04
_BATCH_BYTES = 1024 * 1024
_EPOCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many streams, how fast, how long, and where."""

    bootstrap_server: str
    prefix: str
    partitions: int
    streams: int
    frames_per_s: float  #: of one stream
    frames: int  #: of one stream


@dataclass(slots=True, kw_only=True)
class _Stream:
    session_id: str
    partition: int
    response: bool
    path: str = ""
    turn_id: str = ""
    sent: int = 0

    def header(self, attempt: int, frame_seq: int) -> FrameHeader:
        return FrameHeader(
            session_id=self.session_id,
            request_id=f"r-{self.session_id}",
            turn_id=self.turn_id,
            attempt=attempt,
            epoch=_EPOCH,
            frame_seq=frame_seq,
        )


class FrameSource:
    """The streams of a plan."""

    def __init__(self, plan: Plan, producer: AIOKafkaProducer) -> None:
        self._plan = plan
        self._producer = producer
        self._topics = Settings(bootstrap_server=plan.bootstrap_server, prefix=plan.prefix).topics
        self._frames = Codec(FRAMES)
        ids = [f"http-{index:05d}" for index in range(plan.streams)]
        self._streams = [
            _Stream(session_id=name, partition=partition_of(name.encode(), plan.partitions), response=index % 2 == 1)
            for index, name in enumerate(ids)
        ]

    async def begin(self) -> list[str]:
        """Write what stands before the pieces; the paths of the streams."""
        codec = Codec(COMMANDS)
        for partition in range(self._plan.partitions):
            mine = [stream for stream in self._streams if stream.partition == partition]
            asked = [stream for stream in mine if stream.response]
            if asked:
                first = await self._write(
                    self._topics.requests,
                    partition,
                    [
                        (
                            stream.session_id.encode(),
                            codec.encode(
                                RequestHeader(request_id=f"r-{stream.session_id}", session_id=stream.session_id),
                                Chat(content=text_content("Go on."), model=MODEL),
                            ),
                        )
                        for stream in asked
                    ],
                )
                for offset, stream in enumerate(asked, first):
                    stream.turn_id = f"t-{partition}-{offset}"
                    stream.path = f"/v1/responses/resp_{partition}_{offset}_{stream.session_id}?stream=true"
            for stream in mine:
                stream.turn_id = stream.turn_id or f"t-{partition}-0"
                stream.path = stream.path or f"/v1/sessions/{stream.session_id}/stream"
            if not mine:
                continue
            await self._write(
                self._topics.replies,
                partition,
                [
                    (stream.session_id.encode(), self._frames.encode(stream.header(attempt, 0), frame))
                    for stream in mine
                    for attempt, frame in ((0, TurnAccepted()), (1, TurnStarted(model=MODEL)))
                ],
            )
        return [stream.path for stream in self._streams]

    async def _write(self, topic: str, partition: int, records: list[tuple[bytes, bytes]]) -> int:
        """In one batch; the offset of the first."""
        batch = self._producer.create_batch()
        for key, value in records:
            assert batch.append(timestamp=None, key=key, value=value, headers=[]) is not None
        batch.close()
        stored = await (await self._producer.send_batch(batch, topic, partition=partition))
        return int(stored.offset)

    async def stream(self) -> None:
        """Write the pieces, those of all streams evenly over the time."""
        start, total = time.monotonic(), self._plan.streams * self._plan.frames
        per_s = self._plan.streams * self._plan.frames_per_s
        written, flying = 0, set[asyncio.Future[object]]()
        while written < total:
            due = min(total, int((time.monotonic() - start) * per_s))
            by_partition: dict[int, list[_Stream]] = {}
            for number in range(written, due):
                stream = self._streams[number % self._plan.streams]
                by_partition.setdefault(stream.partition, []).append(stream)
            written = due
            for partition, streams in by_partition.items():
                flying.add(await self._pieces(partition, streams))
            done = {future for future in flying if future.done()}
            flying -= done
            for future in done:
                future.result()
            await asyncio.sleep(_TICK_S)
        await asyncio.gather(*flying)

    async def _pieces(self, partition: int, streams: list[_Stream]) -> "asyncio.Future[object]":
        batch = self._producer.create_batch()
        now_ms = time.time_ns() // 1_000_000
        for stream in streams:
            text = f" and so it goes on, #{stream.sent}@{now_ms};"
            value = self._frames.encode(stream.header(1, stream.sent + 1), TextDelta(text=text))
            stored = batch.append(timestamp=now_ms, key=stream.session_id.encode(), value=value, headers=[])
            assert stored is not None
            stream.sent += 1
        batch.close()
        future: asyncio.Future[object] = await self._producer.send_batch(
            batch, self._topics.replies, partition=partition
        )
        return future


async def _run(plan: Plan) -> None:
    settings = Settings(bootstrap_server=plan.bootstrap_server, prefix=plan.prefix)
    options = client_options(settings, "bench-frames")
    async with AIOKafkaProducer(**options, max_batch_size=_BATCH_BYTES, acks="all") as producer:
        source = FrameSource(plan, producer)
        print(json.dumps(await source.begin()), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await source.stream()
        await asyncio.to_thread(sys.stdin.readline)  # what it took is looked at before it ends


def arguments_of(plan: Plan) -> list[str]:
    """The command line of the process that carries it out."""
    return [sys.executable, "-m", "benchmarks.frame_source", json.dumps(asdict(plan))]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(Plan(**json.loads(sys.argv[1]))))
