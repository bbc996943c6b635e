"""How each topic of a deployment is to be."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from turnlog_workers.base.config import MIB, Settings

COMPACTED_WITHIN = "max.compaction.lag.ms"
TIMESTAMPS = "message.timestamp.type"
AT_LEAST = ("max.message.bytes", "retention.ms", "retention.bytes")
_DAY_MS = 24 * 60 * 60 * 1000
UNLIMITED = "-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """A topic as it must be."""

    name: str
    partitions: int
    config: Mapping[str, str]
    advised: Mapping[str, str] = field(default_factory=dict)  #: how it is made; one that differs works, with a warning
    strict: bool = False  #: any other cleanup policy or retention would lose what cannot be replaced


def topic_specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """Every topic, in the order in which they are made."""
    topics, count = settings.topics, settings.partitions
    big = str(8 * MIB)  # a dead letter with its headers always fits
    deleted = {"cleanup.policy": "delete", "max.message.bytes": big}
    # Kafka deletes by timestamps. A producer's may be of 1970, or of the day of a message that is moved here from
    # elsewhere: Kafka 4.4 takes such a record, confirms it and deletes it within minutes, whether it was read or not.
    # Nor is the size to decide: a cluster may have a limit for topics that do not say (log.retention.bytes).
    expiring = {TIMESTAMPS: "LogAppendTime", "retention.bytes": UNLIMITED}
    compacted = {"cleanup.policy": "compact", "max.message.bytes": big}
    return (
        TopicSpec(
            name=topics.requests,
            partitions=count,
            config=deleted | {"retention.ms": str(7 * _DAY_MS), "max.message.bytes": str(settings.max_request_bytes)},
            advised=expiring,
        ),
        TopicSpec(
            name=topics.events,
            partitions=count,
            config=deleted | {"retention.ms": UNLIMITED, "retention.bytes": UNLIMITED},
            strict=True,
        ),
        TopicSpec(
            name=topics.replies, partitions=count, config=deleted | {"retention.ms": str(_DAY_MS)}, advised=expiring
        ),
        TopicSpec(name=topics.schemas, partitions=1, config=compacted, strict=True),
        TopicSpec(name=topics.settings, partitions=1, config=compacted),
        TopicSpec(
            name=topics.dead_letters,
            partitions=1,
            config=deleted | {"retention.ms": str(30 * _DAY_MS)},
            advised=expiring,
        ),
        *([_keys_spec(settings)] if settings.seal_texts else []),
    )


def _keys_spec(settings: Settings) -> TopicSpec:
    """Of a sealed prefix. What is dropped from it is to be gone soon."""
    config = {"cleanup.policy": "compact", COMPACTED_WITHIN: str(_DAY_MS)}
    return TopicSpec(name=settings.topics.keys, partitions=settings.partitions, config=config, strict=True)


def suffices(key: str, actual: str, expected: str) -> bool:
    """More room or more time than asked for is nobody's problem; -1 is without limit."""
    if key not in AT_LEAST:
        return actual == expected
    return actual == UNLIMITED or (expected != UNLIMITED and int(actual) >= int(expected))
