"""The topics of a deployment: made once, checked at every start, never changed behind anybody's back."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    KafkaError,
    NodeNotReadyError,
    NotControllerError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownBrokerIdError,
    UnknownTopicOrPartitionError,
    for_code,
)

from turnlog_streams.policy import ErasurePolicy
from turnlog_streams.topics import Topics
from turnlog_workers.base.config import Settings
from turnlog_workers.base.counted import counted
from turnlog_workers.base.errors import BrokerUnreachableError, NotFoundError
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.topic_specs import (
    AT_LEAST,
    COMPACTED_WITHIN,
    TIMESTAMPS,
    UNLIMITED,
    TopicSpec,
    suffices,
    topic_specs,
)

_CLIENT_ID = "turnlog-topics"
_INIT = "run: turnlog topics init"
_SEGMENT_ENDS_WITHIN = "segment.ms"
#: What is said of a controller that was elected a moment ago, or is being elected.
_NO_CONTROLLER = (NodeNotReadyError, NotControllerError, UnknownBrokerIdError)
_CONTROLLER_AGAIN_S = 0.5


class TopicsError(NotFoundError):
    """The topics are not as they must be: which, and what to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFound:
    """A topic as it is."""

    name: str
    topic_id: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicReport:
    """What ``init_topics`` did with one topic."""

    name: str
    created: bool
    partitions: int
    problems: tuple[str, ...] = ()  #: how it differs from what it must be, each with what to run
    warnings: tuple[str, ...] = ()  #: how it differs, where all works nevertheless


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicsState:
    """What a worker needs to know of the topics."""

    partition_count: int  #: of events and replies: the one that says where a session lives
    requests_partitions: int  #: as many, or more: see ``process.surplus_partitions``
    requests_topic_id: str
    events_topic_id: str
    erasure: ErasurePolicy | None = None  #: absent: texts are not sealed
    problems: tuple[str, ...] = field(default=())  #: worth a warning, no reason to stop


def init_topics(settings: Settings, *, timeout_s: float | None = None) -> list[TopicReport]:
    """Create the topics that are missing; those that exist are reported on, never altered.

    ``timeout_s`` bounds each request, and how long a cluster that is just starting is waited for.

    Raises :class:`TopicsError` (the broker refuses to make one) or :class:`BrokerUnreachableError`.
    """
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _init_topics(settings, timeout_s)
        except BrokerUnreachableError as error:
            # A client knows the brokers that were there when it connected, and no address of one that came since.
            if not isinstance(error.__cause__, _NO_CONTROLLER) or time.monotonic() >= deadline:
                raise
        time.sleep(_CONTROLLER_AGAIN_S)


def _init_topics(settings: Settings, timeout_s: float) -> list[TopicReport]:
    specs = topic_specs(settings)
    with connected(KafkaAdminClient, settings, _CLIENT_ID, timeout_s) as admin:
        before = _describe(admin, [spec.name for spec in specs])
        missing = [spec for spec in specs if spec.name not in before]
        _check_new(settings, before)
        if missing:
            _create(admin, missing, settings, timeout_s)
        found = before | _describe(admin, [spec.name for spec in missing])
    topics = settings.topics
    requests, recorded = found[topics.requests].partitions, found[topics.events].partitions
    more = requests > recorded
    return [
        TopicReport(
            name=spec.name,
            created=spec.name not in before,
            partitions=found[spec.name].partitions,
            problems=tuple(_differences(spec, found[spec.name], settings, counts=not (more and spec is specs[0]))),
            warnings=(
                *((grown(topics, requests, recorded),) if more and spec is specs[0] else ()),
                *_ill_advised(spec, found[spec.name], settings),
            ),
        )
        for spec in specs
    ]


def check_topics(settings: Settings, *, timeout_s: float | None = None) -> TopicsState:
    """The state of the topics, if a worker can run on them.

    Raises :class:`TopicsError` (one sentence: which topic, and what to run) or :class:`BrokerUnreachableError`.
    """
    specs = topic_specs(settings)
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    with connected(KafkaAdminClient, settings, _CLIENT_ID, timeout_s) as admin:
        found = _describe(admin, [spec.name for spec in specs])
        keys = _keys_topic(admin, settings)
    missing = [spec.name for spec in specs if spec.name not in found]
    if missing:
        what = f"topic {missing[0]} does not exist" if len(missing) == 1 else f"topics {_and(missing)} do not exist"
        raise TopicsError(f"{what}; {_INIT}")
    requests, events, replies = (found[spec.name] for spec in specs[:3])
    counts = [topic.partitions for topic in (requests, events, replies)]
    if events.partitions != replies.partitions or requests.partitions < events.partitions:
        raise TopicsError(unequal(settings.topics, counts))
    if keys is not None and keys.partitions != events.partitions:
        raise TopicsError(
            f"topic {keys.name} has {counted(keys.partitions, 'partition')}, and {events.name} has "
            f"{events.partitions}: keys are beside what they open; choose a new TURNLOG_PREFIX and {_INIT}"
        )
    problems: list[str] = []
    if requests.partitions > events.partitions:
        problems.append(grown(settings.topics, requests.partitions, events.partitions))
    for spec in specs:
        # How many partitions there are was decided when the topics were made; the setting is for new ones.
        differences = _differences(spec, found[spec.name], settings, counts=False)
        if differences and spec.strict and _loses_records(spec, found[spec.name]):
            raise TopicsError(differences[-1])
        problems += [*differences, *_ill_advised(spec, found[spec.name], settings)]
    return TopicsState(
        partition_count=events.partitions,
        requests_partitions=requests.partitions,
        requests_topic_id=requests.topic_id,
        events_topic_id=events.topic_id,
        erasure=None if keys is None else _erasure(settings, found, keys),
        problems=tuple(problems),
    )


def _check_new(settings: Settings, before: Mapping[str, TopicFound]) -> None:
    """What a log says in the clear stays there: raises :class:`TopicsError` where it is too late to seal."""
    keys, events = settings.topics.keys, settings.topics.events
    if settings.seal_texts and events in before and keys not in before:
        raise TopicsError(
            f"topic {events} exists, and {keys} does not: whether texts are sealed is chosen when a prefix is made. "
            f"Choose a new TURNLOG_PREFIX, or unset TURNLOG_SEAL_TEXTS; if {keys} was lost, restore it"
        )


def _keys_topic(admin: Any, settings: Settings) -> TopicFound | None:
    """Of a sealed prefix; ``None``: it is none, as far as this user may know (the log's claims say so, too)."""
    try:
        return _describe(admin, [settings.topics.keys]).get(settings.topics.keys)
    except TopicAuthorizationFailedError:
        if settings.seal_texts:
            raise
        return None


def _erasure(settings: Settings, found: Mapping[str, TopicFound], keys: TopicFound) -> ErasurePolicy:
    topics = settings.topics
    requests, replies, letters = (
        _kept_ms(found[name].config) for name in (topics.requests, topics.replies, topics.dead_letters)
    )
    return ErasurePolicy(
        requests_kept_ms=requests,
        replies_kept_ms=replies,
        dead_letters_kept_ms=letters,
        key_kept_ms=int(keys.config.get(COMPACTED_WITHIN, 0)),
    )


def _kept_ms(config: Mapping[str, str]) -> int:
    """How long a topic may keep a record; -1: for ever. A segment goes when its newest record is too old."""
    retention_ms = int(config["retention.ms"])
    return retention_ms if retention_ms < 0 else retention_ms + int(config[_SEGMENT_ENDS_WITHIN])


def sealed_partitions(settings: Settings, *, timeout_s: float | None = None) -> int | None:
    """How many partitions of keys a sealed prefix has; ``None``: it is none. Raises as :func:`check_topics`."""
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    with connected(KafkaAdminClient, settings, _CLIENT_ID, timeout_s) as admin:
        keys = _keys_topic(admin, settings)
    return None if keys is None else keys.partitions


def unequal(topics: Topics, counts: Sequence[int]) -> str:
    """The sentence for partition counts (of requests, events and replies) that cannot be worked with."""
    return (
        f"topics {_and([topics.requests, topics.events, topics.replies])} must have the same number of partitions, but "
        f"have {_and([str(count) for count in counts])}; choose a new TURNLOG_PREFIX and {_INIT}"
    )


def grown(topics: Topics, requests: int, recorded: int) -> str:
    """The sentence for a requests topic with more partitions than the event log."""
    first, last = recorded, requests - 1
    those = f"partition {first}" if first == last else f"partitions {first} to {last}"
    return (
        f"topic {topics.requests} has {counted(requests, 'partition')}, {topics.events} has {recorded}: partitions "
        f"were added, which moves no session. Workers send the requests of {those} on, and those that producers now "
        f"put elsewhere; that costs a hop, and nothing is lost. For more partitions choose a new TURNLOG_PREFIX "
        f"and {_INIT}"
    )


def list_topics(settings: Settings, *, timeout_s: float | None = None) -> list[TopicFound]:
    """The topics of this deployment that exist. Raises as :func:`check_topics`."""
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    with connected(KafkaAdminClient, settings, _CLIENT_ID, timeout_s) as admin:
        return list(_describe(admin, settings.topics.all).values())


def topic_id(settings: Settings, name: str, *, timeout_s: float | None = None) -> str | None:
    """The id of a topic, another one each time it is made; ``None``: it does not exist. Raises as `check_topics`."""
    timeout_s = settings.startup_timeout_s if timeout_s is None else timeout_s
    with connected(KafkaAdminClient, settings, _CLIENT_ID, timeout_s) as admin:
        found = _describe(admin, [name]).get(name)
    return found.topic_id if found else None


def _describe(admin: Any, names: Iterable[str]) -> dict[str, TopicFound]:
    """Those of the named topics that exist, in the order of the names."""
    existing = _existing(admin, list(names))
    configs = _configs(admin, list(existing))
    # One that was deleted between the two questions is not there, and is no matter of rights.
    untold = _existing(admin, [name for name in existing if name not in configs])
    for name in untold:
        raise TopicsError(
            f"the broker does not tell the configuration of topic {name}: grant DESCRIBE_CONFIGS on it to this user"
        )
    return {
        name: TopicFound(
            name=name,
            topic_id=_id_of(topic),
            partitions=len(topic["partitions"]),
            replication_factor=min(len(partition["replica_nodes"]) for partition in topic["partitions"]),
            config=configs[name],
        )
        for name, topic in existing.items()
        if name in configs
    }


def _existing(admin: Any, names: Sequence[str]) -> dict[str, Any]:
    if not names:
        return {}
    described = {topic["name"]: topic for topic in admin.describe_topics(names)}
    existing: dict[str, Any] = {}
    for name in names:
        code = described[name]["error_code"]
        if code == UnknownTopicOrPartitionError.errno:
            continue
        if code == TopicAuthorizationFailedError.errno:
            raise TopicAuthorizationFailedError(name)
        if code:
            raise TopicsError(f"the broker does not describe topic {name}: {for_code(code).__name__}")
        existing[name] = described[name]
    return existing


def _id_of(topic: Mapping[str, Any]) -> str:
    if not topic["topic_id"]:
        raise TopicsError(f"the broker tells no id of topic {topic['name']}: Kafka 2.8 or newer is needed")
    return str(topic["topic_id"])


def _configs(admin: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of those topics that the broker tells them of."""
    if not names:
        return {}
    keys = ["cleanup.policy", TIMESTAMPS, *AT_LEAST]
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, name, [*keys, COMPACTED_WITHIN, _SEGMENT_ENDS_WITHIN])
        for name in names
    ]
    answer = admin.describe_configs(resources, config_filter="all").get("topic", {})
    configs = {name: {key: entry["value"] for key, entry in answer.get(name, {}).items()} for name in names}
    return {name: config for name, config in configs.items() if not set(keys) - set(config)}


def _create(admin: Any, specs: Sequence[TopicSpec], settings: Settings, timeout_s: float) -> None:
    wanted = {
        spec.name: {
            "num_partitions": spec.partitions,
            "replication_factor": settings.replication_factor,
            "configs": {**spec.config, **spec.advised},
        }
        for spec in specs
    }
    try:
        answer = admin.create_topics(wanted, timeout_ms=int(timeout_s * 1000), raise_errors=False)
    except RuntimeError as error:
        if isinstance(error, KafkaError):
            raise
        raise NotControllerError(str(error)) from error  # kafka-python 3.0.12 asks twice, and then says it so
    for topic in answer["topics"]:
        code = topic["error_code"]
        if code and code != TopicAlreadyExistsError.errno:  # somebody else was faster: it is reported on like any other
            reason = topic["error_message"] or for_code(code).__name__
            raise TopicsError(f"the broker refuses to make topic {topic['name']}: {reason}")
    admin.wait_for_topics(list(wanted), timeout_ms=int(timeout_s * 1000))


def _differences(spec: TopicSpec, found: TopicFound, settings: Settings, *, counts: bool = True) -> list[str]:
    """How a topic differs from what it must be, each with what to run."""
    problems: list[str] = []
    if counts and found.partitions != spec.partitions:
        problems.append(
            f"topic {spec.name} has {counted(found.partitions, 'partition')}, not {spec.partitions}: their number "
            f"never changes, since sessions would move to other logs; choose a new TURNLOG_PREFIX for "
            f"{spec.partitions} and {_INIT}"
        )
    if found.replication_factor < settings.replication_factor:
        problems.append(
            f"topic {spec.name} has {found.replication_factor} replicas, not {settings.replication_factor}; "
            "run: kafka-reassign-partitions.sh"
        )
    return [*problems, *_unlike(spec.config, found, settings)]


def _unlike(wanted: Mapping[str, str], found: TopicFound, settings: Settings) -> list[str]:
    """The sentence for what a topic is configured to in another way, with what to run; none if there is nothing."""
    wrong = [key for key, value in wanted.items() if not suffices(key, found.config.get(key, ""), value)]
    if not wrong:
        return []
    has = _and([f"{key}={found.config.get(key)}" for key in wrong])
    must = ",".join(f"{key}={wanted[key]}" for key in wrong)
    return [
        f"topic {found.name} has {has}; run: kafka-configs.sh --bootstrap-server {settings.bootstrap_server} "
        f"--alter --entity-type topics --entity-name {found.name} --add-config {must}"
    ]


def _ill_advised(spec: TopicSpec, found: TopicFound, settings: Settings) -> list[str]:
    """The sentence for a topic that others made, or an earlier version: all works, as long as nobody is late."""
    until_then = " (until then Kafka may delete records before they are read: those that say they are old, or many)"
    for_ever = found.config.get("retention.ms") == UNLIMITED  # then no time is too old
    advised = {key: value for key, value in spec.advised.items() if not (for_ever and key == TIMESTAMPS)}
    return [sentence + until_then for sentence in _unlike(advised, found, settings)]


def _loses_records(spec: TopicSpec, found: TopicFound) -> bool:
    keys = [key for key in spec.config if key != "max.message.bytes"]
    return any(not suffices(key, found.config.get(key, ""), spec.config[key]) for key in keys)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


__all__ = [
    "BrokerUnreachableError",
    "TopicFound",
    "TopicReport",
    "TopicsError",
    "TopicsState",
    "check_topics",
    "init_topics",
    "list_topics",
    "sealed_partitions",
    "topic_id",
]
