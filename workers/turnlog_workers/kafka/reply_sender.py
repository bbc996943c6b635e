"""Reply frames on their way: collected for a few milliseconds per partition, then one produce for all of them.

Frames are ephemeral, terminal ones are not: those are sent again until the broker has them or the owner is gone (the
next owner sends them again). Only what can never be stored is given up: a reply topic of a caller's own may be
deleted, full or forbidden. Then whoever asks again with the same request id is answered from the log. A partition or a
topic that cannot be written delays no other.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, RecordTooLargeError, UnknownTopicOrPartitionError

from turnlog_schemas.codec import FRAMING_JSON, Codec
from turnlog_schemas.frames import Frame, FrameHeader, ReasoningDelta, TextDelta
from turnlog_schemas.registry import FRAMES
from turnlog_streams.reply import Reply
from turnlog_streams.reply_frames import shortened
from turnlog_streams.topics import partition_of
from turnlog_workers.base.cloudevents import Envelope
from turnlog_workers.base.config import Settings
from turnlog_workers.base.linger import linger_s
from turnlog_workers.base.ports import Headers, LogError
from turnlog_workers.base.tasks import was_cancelled, watched
from turnlog_workers.base.trace_context import trace_headers
from turnlog_workers.kafka.connections import client_options
from turnlog_workers.kafka.prompt_producer import PromptProducer
from turnlog_workers.kafka.reply_lane import DROPPED, MANY_FRAMES, Encoded, Lane, SentFrame, WaitingDelta

log = logging.getLogger(__name__)
_BATCH_BYTES = 1024 * 1024
_BATCH_RECORDS = 2000
_BEYOND_THE_CLIENT_S = 1.0  #: the client's own deadline comes first
_SHARE_OF_ONE_TOPIC = 10  #: a caller's own reply topic may hold a tenth of what may wait
#: Of the text of a delta that others join, so that the frame is at most 64 KiB long, whatever JSON has to escape.
_JOINED_BYTES, _JOINED_JSON_BYTES = 60 * 1024, 10 * 1024
_PAUSE_PER_FRAME_S = 0.003  #: a lane sends about 330 later deltas a second, what is said beyond that joins them,
_MOST_PAUSE_S = 0.13  #: and none waits longer than this for others
_UNPAUSED_S = 0.015  #: a pause up to this is not worth its timer
_OVERFLOW = 2  #: so many times ``max_pending_replies`` may wait, then terminal frames are given up, too


def _shortened(
    encode: Callable[[Any, Any], bytes], header: FrameHeader, frame: Frame, framing: str, limit_bytes: int
) -> bytes:
    return encode(header, shortened(frame, limit_bytes, framing))


class ReplySender:
    """Sends frames; :meth:`send` never blocks. Above ``max_pending_replies`` ephemeral frames are dropped, counted."""

    def __init__(
        self, settings: Settings, *, source: str, now_ms: Callable[[], int], codec: Codec | None = None
    ) -> None:
        self._settings = settings
        self._default_topic = settings.topics.replies
        self._own_topics = frozenset((settings.topics.replies, settings.topics.requests))
        self._envelope = Envelope("frames", source)
        self._now_ms = now_ms
        self._codec = codec or Codec(FRAMES)
        self._producer: AIOKafkaProducer | None = None
        self._replacing = asyncio.Lock()
        self._lanes: dict[tuple[str, int], Lane] = {}  #: those with frames
        self._draining: set[asyncio.Task[None]] = set()
        self._counts: dict[str, int] = {}  #: partitions, of every topic that the broker told last
        self._looking = asyncio.Lock()
        self._looked_at = 0.0
        self._stopped = False
        self._pending = 0
        self.dropped = 0  #: pieces of text, of too many frames that wait
        self.given_up = 0  #: frames that no broker took
        self.sent = 0  #: frames that the broker has
        self.joined = 0  #: deltas that went in the frame of one before them

    async def start(self) -> None:
        """Connect. Raises ``KafkaError`` or ``TimeoutError``."""
        self._producer = producer = self._new_producer()
        try:
            async with asyncio.timeout(self._settings.startup_timeout_s):
                await producer.start()
        except BaseException:
            await producer.stop()
            raise

    def _new_producer(self) -> AIOKafkaProducer:
        return PromptProducer(
            **client_options(self._settings, "turnlog-replies"),
            # What only a leader has goes with it; nobody would send the end of a turn again that was acknowledged.
            acks="all",
            linger_ms=0,
            max_batch_size=8 * _BATCH_BYTES,
            max_request_size=16 * _BATCH_BYTES,
            request_timeout_ms=int(self._settings.append_timeout_s * 1000),
        )

    async def _replace(self, broken: AIOKafkaProducer | None) -> None:
        """Go on with a new producer, if it is still that one. If none can be started, the next failure tries again."""
        async with self._replacing:
            if broken is None or self._producer is not broken or self._stopped:
                return
            ended: Any = broken
            fresh: Any = None
            try:
                fresh = self._new_producer()
                async with asyncio.timeout(self._settings.append_timeout_s):
                    await fresh.start()
            except Exception as error:  # of the broker, or of a secret's file that is being replaced
                log.warning("the reply producer is broken, and a new one does not start: %s", type(error).__name__)
                ended = fresh
            else:
                self._producer = fresh
                log.warning("the reply producer was broken; another one goes on")
        if ended is None:
            return
        try:
            async with asyncio.timeout(self._settings.append_timeout_s):
                await ended.stop()
        except Exception as error:  # whatever broke it may be told again
            log.info("the broken reply producer did not stop in order: %s", type(error).__name__)

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Send what waits (bounded), then disconnect."""
        self._stopped = True
        for lane in self._lanes.values():
            lane.pressed.set()
        if self._draining:
            tasks = tuple(self._draining)
            await asyncio.wait(tasks, timeout=timeout_s)
            for task in tasks:
                task.cancel()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            try:
                async with asyncio.timeout(timeout_s):
                    await producer.stop()
            except (KafkaError, OSError) as error:  # a timeout is one, too
                log.warning("the reply producer did not stop: %s", type(error).__name__)

    def knows_topic(self, topic: str) -> bool:
        """Was the topic there when the broker was asked last?"""
        return topic in self._counts

    async def look_for_topics(self) -> None:
        """Ask for all topics: asked for one by its name, a broker may make it. Raises :class:`LogError`."""
        asked_at = asyncio.get_running_loop().time()
        async with self._looking:
            if self._looked_at > asked_at:
                return  # somebody asked meanwhile
            if self._producer is None:
                raise LogError("the reply producer is not connected")
            looked_at = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(self._settings.append_timeout_s):
                    found = await self._producer.client.fetch_all_metadata()
            except (KafkaError, OSError) as error:
                raise LogError(f"the broker does not tell its topics ({type(error).__name__})") from error
            counts = {t: len(found.partitions_for_topic(t) or ()) for t in found.topics(exclude_internal_topics=False)}
            self._counts = {topic: count for topic, count in counts.items() if count}
            self._looked_at = looked_at

    def send(
        self, reply: Reply, *, stream_id: str, partition: int, epoch: int, frame_seq: int, may_wait: bool = False
    ) -> SentFrame:
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
        key = stream_id.encode()
        topic = address.reply_to or self._default_topic
        if topic != self._default_topic:
            partition = partition_of(key, self._counts[topic]) if topic in self._counts else -1
        if may_wait and isinstance(reply.frame, TextDelta | ReasoningDelta):
            limit = _JOINED_JSON_BYTES if framing == FRAMING_JSON else _JOINED_BYTES
            later = partial(self._encode_delta, encode, header, reply, event_id)
            delta = WaitingDelta(key, reply.frame.text, later, limit_bytes=limit)
            self._pending += 1
            self._put(topic, partition, delta)
            return delta
        headers = self._headers(reply, event_id)
        shorten = partial(_shortened, encode, header, reply.frame, framing) if terminal else None
        # A turn's first words and its end: somebody waits for them. Its beginning may wait for its first words.
        urgent = terminal or isinstance(reply.frame, TextDelta | ReasoningDelta)
        frame = SentFrame(key, encode(header, reply.frame), headers, terminal=terminal, shorten=shorten)
        return self._queued(topic, partition, frame, urgent=urgent)

    def _headers(self, reply: Reply, event_id: str) -> Headers:
        address = reply.address
        headers = self._envelope.headers(reply.frame.__class__, event_id, self._now_ms(), address.framing)
        if address.traceparent:
            headers.extend(trace_headers(address.traceparent, address.tracestate))
        return headers

    def _encode_delta(
        self, encode: Callable[[Any, Any], bytes], header: FrameHeader, reply: Reply, event_id: str, text: str
    ) -> Encoded:
        return encode(header, reply.frame.__class__(text=text)), self._headers(reply, event_id)  # type: ignore[call-arg]

    def put(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes,
        headers: Headers,
        *,
        lasting: bool = True,
    ) -> SentFrame:
        """Queue any record; a ``lasting`` one is sent again when the broker does not take it."""
        return self._queued(topic, partition, SentFrame(key, value, headers, terminal=lasting))

    def _queued(self, topic: str, partition: int, frame: SentFrame, *, urgent: bool = False) -> SentFrame:
        self._pending += 1
        self._put(topic, partition, frame, urgent=urgent)
        return frame

    def _put(self, topic: str, partition: int, queued: SentFrame, *, urgent: bool = False) -> None:
        lane = self._lanes.get((topic, partition))
        if self._stopped or self._pending > self._most(topic, lane):
            self._give_up([queued])
            return
        if lane is None:
            lane = self._lanes[topic, partition] = Lane(topic, partition, lasting=topic == self._default_topic)
            task = watched(self._drain(lane), f"the sending of frames to {lane}")
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        lane.add(queued)
        if urgent:
            lane.hurry()

    def _most(self, topic: str, lane: Lane | None) -> int:
        """How many frames may wait now that another one is queued there."""
        most = _OVERFLOW * self._settings.max_pending_replies
        if topic in self._own_topics or lane is None:
            return most
        waiting = len(lane.queue) + lane.delta_count
        return most if waiting < self._settings.max_pending_replies // _SHARE_OF_ONE_TOPIC else 0

    async def _drain(self, lane: Lane) -> None:
        """Empty a lane: collect a little, send, until nothing waits. Deltas go a pause after those before them."""
        loop = asyncio.get_running_loop()
        linger, due = self._settings.reply_linger_ms / 1000, 0.0
        try:
            while lane.queue or lane.deltas or (loop.time() < due and not self._stopped):
                if not lane.queue and await self._paused(lane, due - loop.time()):
                    due = 0.0  # without another moment for collecting: it was long enough
                    if not (lane.queue or lane.deltas):  # both may have come in this very moment
                        break
                else:
                    await lane.collect(linger_s(linger, len(lane.queue) or lane.delta_count, many=MANY_FRAMES))
                began = loop.time()
                deltas = lane.release() if began >= due or self._stopped else 0
                if lane.partition < 0:
                    await self._find_partitions(lane)
                elif lane.queue:
                    await self._send_some(lane)
                if deltas:  # overload shows in how many wait and how long it takes: frames get larger, not more
                    pause_s = min(_MOST_PAUSE_S, max(_PAUSE_PER_FRAME_S * deltas, loop.time() - began))
                    due = loop.time() + pause_s if pause_s > _UNPAUSED_S else 0.0
        finally:
            if self._lanes.get((lane.topic, lane.partition)) is lane:
                del self._lanes[lane.topic, lane.partition]
            if not self._stopped:  # it died: whoever waits for these must not wait for ever
                self._give_up(lane.give_up())

    async def _paused(self, lane: Lane, pause_s: float) -> bool:
        """Let deltas wait for others, until something else comes. Was it the whole pause?"""
        if pause_s <= 0 or self._stopped:
            return False
        lane.pressed.clear()
        try:
            async with asyncio.timeout(pause_s):
                await lane.pressed.wait()
        except TimeoutError:
            return True
        return False

    async def _send_some(self, lane: Lane) -> None:
        batch = lane.next_batch(_BATCH_RECORDS)
        withdrawn = [frame for frame in batch if isinstance(frame, WaitingDelta) and frame.withdrawn]
        if withdrawn:
            self._finish(withdrawn, stored=False)
            batch = [frame for frame in batch if frame.on_its_way()]
            if not batch:
                return
        producer = self._producer
        try:
            rest = await self._produce(producer, lane, batch)
        except BaseException as error:
            if was_cancelled(error):
                raise
            if type(error) is KafkaError:  # aiokafka's sending ended, on a connection reset: it fails from now on
                await self._replace(producer)
            await self._failed(lane, batch, error)
        else:
            lane.queue.extendleft(reversed(rest))
            self.sent += len(batch) - len(rest)
            self._finish(batch[: len(batch) - len(rest)], stored=True)
            lane.went_well()

    async def _failed(self, lane: Lane, batch: list[SentFrame], error: BaseException) -> None:
        if isinstance(error, UnknownTopicOrPartitionError) and lane.topic not in self._own_topics:
            self._counts.pop(lane.topic, None)  # it is gone, or was made anew with fewer partitions
        given_up, pause_s = lane.failed(batch, error)
        log.warning("%d frames not sent to %s: %s", len(batch), lane, type(error).__name__)
        self._give_up(given_up, f"{lane} cannot be written ({type(error).__name__})")
        await asyncio.sleep(pause_s)

    async def _find_partitions(self, lane: Lane) -> None:
        """A caller's own reply topic: how many partitions does it have?"""
        try:
            await self.look_for_topics()
        except LogError as error:
            given_up, pause_s = lane.failed([], TimeoutError(str(error)))
            self._give_up(given_up, str(error))
            await asyncio.sleep(pause_s)
            return
        waiting = list(lane.give_up())
        count = self._counts.get(lane.topic)
        if count is None:
            self._give_up(waiting, f"reply topic {lane.topic} is not there any more")
            return
        for queued in waiting:
            self._put(lane.topic, partition_of(queued.key, count), queued)

    async def _produce(
        self, producer: AIOKafkaProducer | None, lane: Lane, batch: Sequence[SentFrame]
    ) -> list[SentFrame]:
        """One produce; what did not fit comes back."""
        if producer is None:
            raise TimeoutError
        builder = producer.create_batch()
        taken = 0
        for queued in batch:
            self.joined += queued.make()
            if builder.append(timestamp=None, key=queued.key, value=queued.value, headers=queued.headers) is None:
                break
            taken += 1
        builder.close()
        if taken == 0:
            raise RecordTooLargeError(f"a frame of {len(batch[0].value)} bytes is too large to send")
        async with asyncio.timeout(self._settings.append_timeout_s + _BEYOND_THE_CLIENT_S):
            await (await producer.send_batch(builder, lane.topic, partition=lane.partition))
        return list(batch[taken:])

    def _give_up(self, frames: Iterable[SentFrame], reason: str = "too many frames wait") -> None:
        frames = list(frames)
        if lasting := sum(frame.terminal for frame in frames):
            log.error("%d frames are given up: %s", lasting, reason)
        self.given_up += len(frames)
        self._finish(frames, stored=False)

    def _finish(self, batch: Iterable[SentFrame], *, stored: bool) -> None:
        for queued in batch:
            if queued.on_its_way():
                queued.finish(stored=stored)
                self._pending -= 1
