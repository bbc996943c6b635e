""":class:`RecordSender` on Kafka: frames, dead letters and forwarded requests."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import Forwarded, ForwardReceipt, RequestHeader
from turnlog_schemas.registry import COMMANDS
from turnlog_streams.reply import Reply
from turnlog_streams.topics import partition_of
from turnlog_workers.base.cloudevents import Envelope
from turnlog_workers.base.config import Settings
from turnlog_workers.base.crash_points import crash_point
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import Parked, RecordsRefusedError, RequestRecord
from turnlog_workers.kafka.dead_letters import SIZES, dead_letter, in_batches
from turnlog_workers.kafka.event_log import LogProducer
from turnlog_workers.kafka.reply_lane import SentFrame
from turnlog_workers.kafka.reply_sender import ReplySender
from turnlog_workers.observe.counts import bounded

log = logging.getLogger(__name__)


class KafkaRecordSender:
    """Dead letters and forwards go through the log's producer: they must be stored before an event says so."""

    def __init__(
        self,
        settings: Settings,
        producer: LogProducer,
        replies: ReplySender,
        *,
        partition_count: int,
        source: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._producer = producer
        self._replies = replies
        self._partition_count = partition_count
        self._envelope = Envelope("commands", source)
        self._now_ms = now_ms
        self._codec = Codec(COMMANDS)
        self.misrouted = 0  #: requests sent on to their right partition
        self.misrouting: Counter[str] = Counter()  #: the same by producer
        self.parked: Counter[str] = Counter()  #: dead letters by code

    def reply(
        self, reply: Reply, *, stream_id: str, partition: int, epoch: int, frame_seq: int, may_wait: bool = False
    ) -> SentFrame:
        return self._replies.send(
            reply, stream_id=stream_id, partition=partition, epoch=epoch, frame_seq=frame_seq, may_wait=may_wait
        )

    def request(self, header: RequestHeader, command: Forwarded | ForwardReceipt) -> SentFrame:
        key = (header.session_id or header.channel or "").encode()
        headers = self._envelope.headers(type(command), header.request_id or "", self._now_ms())
        value = self._codec.encode(header, command)
        partition = partition_of(key, self._partition_count)
        return self._replies.put(self._topics.requests, partition, key, value, headers)

    def known_reply_topic(self, topic: str) -> bool:
        return self._replies.knows_topic(topic)

    async def look_for_reply_topics(self) -> None:
        await self._replies.look_for_topics()

    async def dead_letters(self, parked: Sequence[Parked]) -> None:
        topic = self._topics.dead_letters
        count = await self._producer.partition_count(topic)
        for together in in_batches(parked, lambda record: record.partition % count):
            await self._store_letters(topic, together[0][0].partition % count, together)
            self.parked.update(code for _, code, _ in together)
            crash_point("outbox.after_dead_letter")

    async def _store_letters(self, topic: str, partition: int, parked: Sequence[Parked]) -> None:
        """One append for all of them: a producer's ten thousand bad records must not cost as many."""
        for limit_bytes in SIZES:
            letters = [
                dead_letter(record, self._topics.requests, code, reason, limit_bytes=limit_bytes)
                for record, code, reason in parked
            ]
            try:
                await self._producer.send(topic, partition, letters)
                return
            except RecordsRefusedError as error:
                if len(parked) > 1:
                    break
                log.warning("a dead letter is cut further: %s", error, extra=self._place(parked[0][0]))
        if len(parked) == 1:
            log.error("the bytes of a dead letter are not kept, only its event", extra=self._place(parked[0][0]))
            return
        for each in parked:  # too long together, or one of them is
            await self._store_letters(topic, partition, [each])

    def _place(self, record: RequestRecord) -> dict[str, Any]:
        return at(topic=self._topics.requests, partition=record.partition, offset=record.offset)

    async def forward(self, record: RequestRecord, key: bytes, value: bytes) -> None:
        target = partition_of(key, self._partition_count)
        await self._producer.send(self._topics.requests, target, [(key, value, record.headers)])
        self._count_misrouted(record)
        crash_point("outbox.after_forward")

    def _count_misrouted(self, record: RequestRecord) -> None:
        """A producer that partitions in its own way does so for each record: one line for each is enough."""
        self.misrouted += 1
        source = (dict(record.headers).get("ce_source") or b"?").decode(errors="replace")[:200]
        new = source not in self.misrouting
        bounded(self.misrouting, source)
        if new and source in self.misrouting:
            log.warning(
                "producer %s puts requests into wrong partitions, or without a key (%d so far): they are sent on; set "
                "its partitioner to murmur2_random (unless partitions were added to the topic: see turnlog doctor)",
                source,
                self.misrouted,
                extra=self._place(record),
            )
