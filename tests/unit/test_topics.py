"""Names of topics, and the partitioner that every client must share."""

import pytest
from aiokafka.partitioner import DefaultPartitioner as AiokafkaPartitioner
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner import DefaultPartitioner as KafkaPythonPartitioner

from turnlog_streams.topics import Topics, murmur2, partition_of


def test_names() -> None:
    assert Topics().all == (
        "chat.requests",
        "chat.events",
        "chat.replies",
        "chat.schemas",
        "chat.settings",
        "chat.dead-letters",
    )
    assert Topics(prefix="t1").events == "t1.events"


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        # Vectors of Kafka's own UtilsTest.testMurmur2 (there as signed numbers).
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_java_client_s_vectors(key: bytes, digest: int) -> None:
    assert murmur2(key) == digest & 0xFFFFFFFF


class OneTopic:
    """As much of a cluster as kafka-python's partitioner asks about."""

    def __init__(self, count: int) -> None:
        self.count = count

    def topics(self) -> set[str]:
        return {"any"}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(self.count))

    available_partitions_for_topic = partitions_for_topic


@given(st.binary(max_size=64), st.integers(1, 200))
def test_both_python_clients_choose_the_same_partition(key: bytes, count: int) -> None:
    partitions = list(range(count))
    assert murmur2(key) == aiokafka_murmur2(key) & 0xFFFFFFFF
    assert partition_of(key, count) == AiokafkaPartitioner()(key, partitions, partitions)
    cluster = OneTopic(count)
    assert partition_of(key, count) == KafkaPythonPartitioner().partition("any", key, key, b"", b"", cluster)
