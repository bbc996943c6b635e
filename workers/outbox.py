""":class:`workers.ports.Outbox` on Kafka: frames, dead letters and forwarded requests."""

from streams.replies import Reply
from streams.topics import partition_of
from workers.config import Settings
from workers.event_log import LogProducer
from workers.ports import RequestRecord
from workers.reply_sender import ReplySender, SentFrame


class KafkaOutbox:
    """Dead letters and forwards go through the log's producer: they must be stored before an event says so."""

    def __init__(
        self, settings: Settings, producer: LogProducer, replies: ReplySender, *, partition_count: int
    ) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._producer = producer
        self._replies = replies
        self._partition_count = partition_count

    def reply(self, reply: Reply, *, session_id: str, partition: int, epoch: int, frame_seq: int) -> SentFrame:
        return self._replies.send(reply, session_id=session_id, partition=partition, epoch=epoch, frame_seq=frame_seq)

    def known_reply_topic(self, topic: str) -> bool:
        return self._replies.knows_topic(topic)

    async def look_for_reply_topics(self) -> None:
        await self._replies.look_for_topics()

    async def dead_letter(self, record: RequestRecord, code: str, reason: str) -> None:
        headers = [
            *record.headers,
            ("x-turnlog-topic", self._topics.requests.encode()),
            ("x-turnlog-partition", str(record.partition).encode()),
            ("x-turnlog-offset", str(record.offset).encode()),
            ("x-turnlog-code", code.encode()),
            ("x-turnlog-reason", reason[:1000].encode()),
        ]
        count = await self._producer.partition_count(self._topics.dead_letters)
        await self._producer.send(
            self._topics.dead_letters, record.partition % count, [(record.key, record.value, headers)]
        )

    async def forward(self, record: RequestRecord, key: bytes, value: bytes) -> None:
        target = partition_of(key, self._partition_count)
        await self._producer.send(self._topics.requests, target, [(key, value, record.headers)])
