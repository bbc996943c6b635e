"""Chat requests for many sessions, ready encoded, and how far a topic has come."""

import asyncio
import functools
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import Chat, RequestHeader
from turnlog_schemas.events import CommandForwarded, ForwardDelivered
from turnlog_schemas.frames import Frame, FrameHeader
from turnlog_schemas.parts import text_content
from turnlog_schemas.registry import COMMANDS, EVENTS, FRAMES
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.connections import client_options

MODEL = "echo:?deltas=3"
#: Of one turn of :data:`MODEL` in a session that exists, when its deltas are not joined.
EVENTS_PER_TURN = 5  # accepted, started, the user's message, the answer, completed
FRAMES_PER_TURN = 7  # accepted, started, 3 deltas, the answer, completed
MIN_FRAMES_PER_TURN = 5  # where they are joined: the first and, at most, all others together
_BATCH_BYTES = 512 * 1024
_POLL_S = 0.02


@functools.cache
def _codec() -> Codec:
    return Codec(COMMANDS)  # made once: it reads every schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, encoded."""

    request_id: str
    partition: int
    key: bytes
    value: bytes


def requests(
    run: str, count: int, *, sessions: int, framing: str, partitions: int, model: str = MODEL, first: int = 0
) -> list[Request]:
    """``count`` chats, one session after the other from ``first`` on; ``run`` makes the request ids unique."""
    return [
        request(run, index, session=index % sessions, framing=framing, partitions=partitions, model=model)
        for index in range(first, first + count)
    ]


def request(run: str, index: int, *, session: int, framing: str, partitions: int, model: str = MODEL) -> Request:
    """A chat of a session."""
    codec = _codec()
    encode = codec.encode if framing == "avro" else codec.encode_json
    session_id = f"bench-s{session:05d}"  # of no channel: none has anything to tell another stream
    text = f"Message {index:06d}: what is the cheapest way to get from here to there on Friday?"
    header = RequestHeader(request_id=f"{run}-{index:06d}", session_id=session_id)
    key = session_id.encode()
    value = encode(header, Chat(content=text_content(text), model=model))
    return Request(request_id=f"{run}-{index:06d}", partition=partition_of(key, partitions), key=key, value=value)


class Broker:
    """A producer for requests and a consumer that looks at ends of topics."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = AIOKafkaProducer(
            **client_options(settings, "bench-load"), max_batch_size=2 * _BATCH_BYTES, acks="all"
        )
        self.consumer = AIOKafkaConsumer(
            **client_options(settings, "bench-ends"), enable_auto_commit=False, fetch_max_wait_ms=100
        )

    async def __aenter__(self) -> "Broker":
        await self._producer.start()
        await self.consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()
        await self.consumer.stop()

    def tps(self, topic: str) -> list[TopicPartition]:
        """The partitions of a partitioned topic of this deployment."""
        return [TopicPartition(topic, partition) for partition in range(self._settings.partitions)]

    async def send_all(self, made: Sequence[Request]) -> None:
        """Produce everything, in as few batches as it takes."""
        by_partition: dict[int, list[Request]] = {}
        for request in made:
            by_partition.setdefault(request.partition, []).append(request)
        await asyncio.gather(*(self._send_part(partition, part) for partition, part in by_partition.items()))

    async def _send_part(self, partition: int, part: Sequence[Request]) -> None:
        rest = list(reversed(part))
        while rest:
            batch = self._producer.create_batch()
            size = 0
            while rest and size < _BATCH_BYTES:
                request = rest.pop()
                batch.append(timestamp=None, key=request.key, value=request.value, headers=[])
                size += len(request.value) + len(request.key) + 64
            batch.close()
            await (await self._producer.send_batch(batch, self._settings.topics.requests, partition=partition))

    async def send(self, request: Request) -> None:
        """Hand one request to the producer."""
        await self._producer.send(
            self._settings.topics.requests, value=request.value, key=request.key, partition=request.partition
        )

    async def frames(self, framing: str = "avro") -> AsyncIterator[tuple[float, FrameHeader, Frame]]:
        """Every frame of the reply partitions that the consumer has, without an end: when it came, by the monotonic
        clock, and what it is.
        """
        codec = Codec(FRAMES)
        decode = codec.decode if framing == "avro" else codec.from_json
        while True:
            found = await self.consumer.getmany(timeout_ms=500)
            now = time.monotonic()
            for record in itertools.chain(*found.values()):
                header, frame = decode(record.value)
                yield now, header, frame

    async def records(self, topic: str) -> int:
        """How many records a topic has had."""
        ends: Mapping[TopicPartition, int] = await self.consumer.end_offsets(self.tps(topic))
        return sum(ends.values())

    async def until_told(self, topic: str, *, timeout_s: float = 60.0) -> int:
        """Wait until all that streams tell each other has arrived; how many records the event log has had.

        A session that is new tells its channel. Raises ``TimeoutError``.
        """
        codec = Codec(EVENTS)
        self.consumer.assign(self.tps(topic))
        await self.consumer.seek_to_beginning()
        read = pending = 0
        async with asyncio.timeout(timeout_s):
            while pending or read < await self.records(topic):
                for records in (await self.consumer.getmany(timeout_ms=100)).values():
                    kinds = [type(codec.decode(record.value)[1]) for record in records]
                    pending += kinds.count(CommandForwarded) - kinds.count(ForwardDelivered)
                    read += len(records)
        return read

    async def until_acknowledged(self, topic: str, group: str, *, timeout_s: float = 60.0) -> None:
        """Wait until a consumer group has committed everything in a topic. Raises ``TimeoutError``."""
        ends: Mapping[TopicPartition, int] = await self.consumer.end_offsets(self.tps(topic))
        waiting = {tp for tp, end in ends.items() if end}
        member = AIOKafkaConsumer(  # it asks only: what is assigned by hand joins no group
            **client_options(self._settings, "bench-group"), group_id=group, enable_auto_commit=False
        )
        await member.start()
        try:
            member.assign(list(waiting))
            async with asyncio.timeout(timeout_s):
                while waiting:
                    waiting = {tp for tp in waiting if (await member.committed(tp) or 0) < ends[tp]}
                    await asyncio.sleep(_POLL_S)
        finally:
            await member.stop()

    async def until_records(self, topic: str, count: int, *, stalled_s: float, alive: Callable[[], None]) -> float:
        """Wait until a topic has had so many records; the moment (monotonic) when it was seen.

        Raises ``TimeoutError`` when none came for ``stalled_s``, and what ``alive`` raises.
        """
        last, last_at = -1, time.monotonic()
        while True:
            found, now = await self.records(topic), time.monotonic()
            if found >= count:
                return now
            if found != last:
                last, last_at = found, now
            elif now - last_at > stalled_s:
                raise TimeoutError(f"{topic} stands at {found} of {count} records since {stalled_s:g} s")
            alive()
            await asyncio.sleep(_POLL_S)
