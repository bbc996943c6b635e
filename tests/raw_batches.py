"""Record batches made by hand: what producers in other languages may write and Python's client libraries do not.

:func:`produce` sends them to a real broker, which takes what it can parse itself.
"""

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

from tests.waiting import tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A record to be written."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[bytes, bytes | None]] = ()


def varint(value: int) -> bytes:
    """Zigzag, as in records."""
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def _bytes(value: bytes | None) -> bytes:
    return varint(-1) if value is None else varint(len(value)) + value


def record(delta: int, raw: Raw) -> bytes:
    """One record; its offset is ``delta`` above the batch's."""
    body = b"\0" + varint(0) + varint(delta) + _bytes(raw.key) + _bytes(raw.value) + varint(len(raw.headers))
    body += b"".join(_bytes(name) + _bytes(value) for name, value in raw.headers)
    return varint(len(body)) + body


def batch(
    records: Sequence[Raw],
    *,
    base: int = 0,
    attributes: int = 0,
    payload: bytes | None = None,
    producer: tuple[int, int, int] = (-1, -1, -1),
    timestamp_ms: int | None = None,
) -> bytes:
    """A batch. ``payload`` stands for the records, compressed or broken; ``producer``: id, epoch, sequence.

    ``timestamp_ms``: now, unless told otherwise. A broker deletes what is older than its topic keeps, unread or not.
    """
    if timestamp_ms is None:
        timestamp_ms = int(time.time() * 1000)
    if payload is None:
        payload = b"".join(record(delta, raw) for delta, raw in enumerate(records))
    signed = struct.pack(">hiqqqhii", attributes, len(records) - 1, timestamp_ms, timestamp_ms, *producer, len(records))
    signed += payload
    head = struct.pack(">ibI", 0, 2, calc_crc32c(signed))
    return struct.pack(">qi", base, len(head) + len(signed)) + head + signed


_STARTING = {3, 5, 6}  #: unknown topic, leader not available, not the leader


async def produce(producer: AIOKafkaProducer, topic: str, partition: int, data: bytes) -> int:
    """Send a batch as it is; the offset of its first record. Raises what the broker says.

    Right after a topic was made, its leader may not know of it yet: then it is asked again.
    """

    async def stored() -> tuple[int, int] | None:
        await producer.client.force_metadata_update()
        await producer.partitions_for(topic)
        leader = producer.client.cluster.leader_for_partition(TopicPartition(topic, partition))
        if leader is None or leader < 0:
            return None
        answer = await producer.client.send(leader, ProduceRequest(None, -1, 10_000, [(topic, [(partition, data)])]))
        (_, ((_, code, offset, *_),)) = answer.topics[0]
        return None if code in _STARTING else (code, int(offset))

    code, offset = await tried(stored, f"{topic}[{partition}] has a leader")
    if code:
        raise for_code(code)(f"{topic}[{partition}]")
    return offset
