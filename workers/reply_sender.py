"""Reply frames on their way: collected for a few milliseconds per partition, then one produce for all of them.

Frames are ephemeral, terminal ones are not: those are sent again until the broker has them or the owner is gone (the
next owner sends them again).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from schemas.codec import FRAMING_JSON, Codec
from schemas.frames import FrameHeader
from schemas.registry import FRAMES
from streams.replies import Reply
from streams.topics import partition_of
from workers.cloudevents import Envelope, trace_headers
from workers.config import Settings
from workers.connections import client_options
from workers.ports import Headers, LogError

log = logging.getLogger(__name__)
_RETRY_S = 0.5
_MAX_RETRIES = 120
_BATCH_BYTES = 1024 * 1024
_BATCH_RECORDS = 2000


class SentFrame:
    """A frame on its way: queued here, until the broker has it."""

    __slots__ = ("_done", "headers", "key", "terminal", "value")

    def __init__(self, key: bytes, value: bytes, headers: Headers, *, terminal: bool) -> None:
        self.key = key
        self.value = value
        self.headers = headers
        self.terminal = terminal
        self._done = False

    def done(self) -> bool:
        return self._done

    def finish(self) -> None:
        """The broker has it, or it is given up: nobody needs its bytes any more."""
        self._done = True
        self.value, self.headers = b"", ()


DROPPED = SentFrame(b"", b"", (), terminal=False)
DROPPED.finish()


class _Lane:
    """The frames of one (topic, partition), in order."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.queue: deque[SentFrame] = deque()
        self.task: asyncio.Task[None] | None = None


class ReplySender:
    """Sends frames; :meth:`send` never blocks. Above ``max_pending_replies`` ephemeral frames are dropped, counted."""

    def __init__(
        self, settings: Settings, *, source: str, now_ms: Callable[[], int], codec: Codec | None = None
    ) -> None:
        self._settings = settings
        self._default_topic = settings.topics.replies
        self._envelope = Envelope("frames", source)
        self._now_ms = now_ms
        self._codec = codec or Codec(FRAMES)
        self._producer: AIOKafkaProducer | None = None
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._counts: dict[str, int] = {}
        self._topics: frozenset[str] = frozenset()
        self._pending = 0
        self.dropped = 0

    async def start(self) -> None:
        """Connect. Raises ``KafkaError`` or ``TimeoutError``."""
        self._producer = AIOKafkaProducer(
            **client_options(self._settings, "turnlog-replies"),
            acks=1,
            linger_ms=0,
            max_batch_size=8 * _BATCH_BYTES,
            max_request_size=16 * _BATCH_BYTES,
        )
        await asyncio.wait_for(self._producer.start(), self._settings.startup_timeout_s)

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Send what waits (bounded), then disconnect."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
            for task in tasks:
                task.cancel()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            try:
                await asyncio.wait_for(producer.stop(), timeout_s)
            except (KafkaError, TimeoutError) as error:
                log.warning("the reply producer did not stop: %s", type(error).__name__)

    def knows_topic(self, topic: str) -> bool:
        """Was the topic there when the broker was asked last?"""
        return topic in self._topics

    async def look_for_topics(self) -> None:
        """Ask for all topics: asked for one by its name, a broker may make it. Raises :class:`LogError`."""
        if self._producer is None:
            raise LogError("the reply producer is not connected")
        try:
            found = await asyncio.wait_for(self._producer.client.fetch_all_metadata(), self._settings.append_timeout_s)
        except (KafkaError, TimeoutError, OSError) as error:
            raise LogError(f"the broker does not tell its topics ({type(error).__name__})") from error
        self._topics = frozenset(found.topics(exclude_internal_topics=False))

    def send(self, reply: Reply, *, stream_id: str, partition: int, epoch: int, frame_seq: int) -> SentFrame:
        """Queue a frame for its reply topic."""
        terminal = reply.terminal
        if self._pending >= self._settings.max_pending_replies and not terminal:
            self.dropped += 1
            return DROPPED
        header = FrameHeader(
            session_id=reply.session_id if reply.session_id is not None else stream_id,
            request_id=reply.request_id,
            turn_id=reply.turn_id,
            attempt=reply.attempt,
            epoch=epoch,
            frame_seq=frame_seq,
            channel=reply.channel,
        )
        address = reply.address
        framing = address.framing
        encode = self._codec.encode_json if framing == FRAMING_JSON else self._codec.encode
        event_id = f"{reply.request_id}.{epoch}.{reply.attempt}.{frame_seq}"
        headers = self._envelope.headers(reply.frame.__class__, event_id, self._now_ms(), framing)
        if address.traceparent:
            headers.extend(trace_headers(address.traceparent, address.tracestate))
        key = stream_id.encode()
        topic = address.reply_to or self._default_topic
        if topic != self._default_topic:
            partition = partition_of(key, self._counts[topic]) if topic in self._counts else -1
        return self.put(topic, partition, key, encode(header, reply.frame), headers, lasting=terminal)

    def put(
        self, topic: str, partition: int, key: bytes, value: bytes, headers: Headers, *, lasting: bool = True
    ) -> SentFrame:
        """Queue any record; a ``lasting`` one is sent again when the broker does not take it."""
        queued = SentFrame(key, value, headers, terminal=lasting)
        self._pending += 1
        self._put(topic, partition, queued)
        return queued

    def _put(self, topic: str, partition: int, queued: SentFrame) -> None:
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = _Lane(topic, partition)
        lane.queue.append(queued)
        if lane.task is None or lane.task.done():
            lane.task = asyncio.create_task(self._drain(lane), name=f"replies {topic}[{partition}]")

    async def _drain(self, lane: _Lane) -> None:
        """Empty a lane: collect a little, send, until nothing waits."""
        retries = 0
        while lane.queue:
            await asyncio.sleep(self._settings.reply_linger_ms / 1000)
            if lane.partition < 0:
                await self._find_partitions(lane)
                continue
            batch = [lane.queue.popleft() for _ in range(min(len(lane.queue), _BATCH_RECORDS))]
            try:
                rest = await self._produce(lane, batch)
                lane.queue.extendleft(reversed(rest))
                self._finish(batch[: len(batch) - len(rest)])
                retries = 0
            except (KafkaError, TimeoutError) as error:
                retries += 1
                hopeless = isinstance(error, UnknownTopicOrPartitionError)
                log.warning(
                    "%d frames not sent to %s[%d]: %s", len(batch), lane.topic, lane.partition, type(error).__name__
                )
                lasting = [] if hopeless else [queued for queued in batch if queued.terminal]
                self._finish([queued for queued in batch if queued not in lasting])
                if retries > _MAX_RETRIES:  # given up, but not done: the next owner sends them again
                    self._pending -= len(lasting)
                else:
                    lane.queue.extendleft(reversed(lasting))
                await asyncio.sleep(_RETRY_S)

    async def _find_partitions(self, lane: _Lane) -> None:
        """A caller's own reply topic: how many partitions does it have?"""
        waiting, lane.queue = list(lane.queue), deque()
        try:
            if self._producer is None:
                raise UnknownTopicOrPartitionError
            found = await asyncio.wait_for(self._producer.partitions_for(lane.topic), self._settings.append_timeout_s)
            self._counts[lane.topic] = len(found)
        except (KafkaError, TimeoutError) as error:
            log.warning("%d frames dropped, reply topic %s: %s", len(waiting), lane.topic, type(error).__name__)
            self._finish(waiting)
            return
        for queued in waiting:
            self._put(lane.topic, partition_of(queued.key, self._counts[lane.topic]), queued)

    async def _produce(self, lane: _Lane, batch: Sequence[SentFrame]) -> list[SentFrame]:
        """One produce; what did not fit comes back."""
        if self._producer is None:
            raise TimeoutError
        builder = self._producer.create_batch()
        taken = 0
        for queued in batch:
            if builder.append(timestamp=None, key=queued.key, value=queued.value, headers=queued.headers) is None:
                break
            taken += 1
        builder.close()
        if taken == 0:
            log.error("a frame of %d bytes is too large to send", len(batch[0].value))
            self._finish(batch[:1])
            return list(batch[1:])
        done = await self._producer.send_batch(builder, lane.topic, partition=lane.partition)
        await done
        return list(batch[taken:])

    def _finish(self, batch: Sequence[SentFrame]) -> None:
        for queued in batch:
            if not queued.done():
                queued.finish()
                self._pending -= 1
