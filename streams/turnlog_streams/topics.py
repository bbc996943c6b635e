"""Names of the topics, and which partition a key belongs to."""

from dataclasses import dataclass

DEFAULT_PREFIX = "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """The topics of one deployment."""

    prefix: str = DEFAULT_PREFIX

    @property
    def requests(self) -> str:
        return f"{self.prefix}.requests"

    @property
    def events(self) -> str:
        return f"{self.prefix}.events"

    @property
    def replies(self) -> str:
        return f"{self.prefix}.replies"

    @property
    def schemas(self) -> str:
        return f"{self.prefix}.schemas"

    @property
    def settings(self) -> str:
        return f"{self.prefix}.settings"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}.dead-letters"

    @property
    def keys(self) -> str:
        """Of a prefix whose texts are sealed, and of no other."""
        return f"{self.prefix}.keys"

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic that each prefix has, in the order in which they are made."""
        return (self.requests, self.events, self.replies, self.schemas, self.settings, self.dead_letters)


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, seed 0x9747b28c, as the Java client's default partitioner uses it.

    Source: the algorithm as published by Austin Appleby (public domain), parameters of Kafka's ``Utils.murmur2``.
    """
    mask = 0xFFFFFFFF
    multiplier = 0x5BD1E995
    length = len(data)
    h = (0x9747B28C ^ length) & mask
    whole = length - length % 4
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little")
        k = (k * multiplier) & mask
        k ^= k >> 24
        k = (k * multiplier) & mask
        h = ((h * multiplier) & mask) ^ k
    tail = data[whole:]
    if tail:
        h ^= int.from_bytes(tail, "little")
        h = (h * multiplier) & mask
    h ^= h >> 13
    h = (h * multiplier) & mask
    return h ^ (h >> 15)


def partition_of(key: bytes, partition_count: int) -> int:
    """The partition of a key: what Java, kafka-python and aiokafka compute."""
    return (murmur2(key) & 0x7FFFFFFF) % partition_count
