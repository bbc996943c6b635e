"""Topics on a real broker: made as they must be, reported on when they are not, never changed."""

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import NodeNotReadyError, UnknownBrokerIdError

from tests.waiting import until
from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_ports import free_port
from turnlog_workers.kafka import topics_admin
from turnlog_workers.kafka.topic_specs import topic_specs
from turnlog_workers.kafka.topics_admin import (
    BrokerUnreachableError,
    TopicsError,
    check_topics,
    init_topics,
    list_topics,
    topic_id,
)


@pytest.fixture
def settings(broker: DevBroker) -> Settings:
    """A deployment of the test's own."""
    return Settings(bootstrap_server=broker.bootstrap_server, prefix=f"t-{uuid.uuid4().hex[:12]}", partitions=3)


@pytest.fixture
def admin(broker: DevBroker) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap_server)
    yield client
    client.close()


def create(admin: Any, name: str, partitions: int = 3, **config: str) -> None:
    configs = {key.replace("_", "."): value for key, value in config.items()}
    spec = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
    admin.create_topics({name: spec}, wait_for_metadata=True)


def change(admin: Any, name: str, **config: str) -> None:
    configs = {key.replace("_", "."): value for key, value in config.items()}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs)])
    until(lambda: described(admin, name, *configs) == configs, f"{name} has {configs}")


def described(admin: Any, name: str, *keys: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResourceType.TOPIC, name, list(keys))
    found = admin.describe_configs([resource], config_filter="all")["topic"][name]
    return {key: entry["value"] for key, entry in found.items()}


def test_every_topic_is_made_as_the_design_says(settings: Settings, admin: Any) -> None:
    reports = init_topics(settings)
    assert [report.name for report in reports] == list(settings.topics.all)
    assert all(report.created and not report.problems for report in reports)
    keys = ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes", "message.timestamp.type")
    mib, day = 1024 * 1024, 24 * 60 * 60 * 1000

    def config(name: str) -> tuple[str, ...]:
        found = described(admin, name, *keys)
        return tuple(found[key] for key in keys)

    topics = settings.topics
    assert config(topics.requests) == ("delete", str(7 * day), "-1", str(mib), "LogAppendTime")
    assert config(topics.events) == ("delete", "-1", "-1", str(8 * mib), "CreateTime")
    assert config(topics.replies) == ("delete", str(day), "-1", str(8 * mib), "LogAppendTime")
    assert config(topics.schemas)[0] == "compact"
    assert config(topics.settings)[0] == "compact"
    assert config(topics.dead_letters) == ("delete", str(30 * day), "-1", str(8 * mib), "LogAppendTime")
    counts = {found.name: found.partitions for found in list_topics(settings)}
    assert counts == {spec.name: spec.partitions for spec in topic_specs(settings)}
    assert [counts[name] for name in (topics.requests, topics.events, topics.replies)] == [3, 3, 3]


def test_a_second_time_changes_nothing(settings: Settings) -> None:
    init_topics(settings)
    ids = {found.name: found.topic_id for found in list_topics(settings)}
    again = init_topics(settings)
    assert not any(report.created or report.problems for report in again)
    assert {found.name: found.topic_id for found in list_topics(settings)} == ids


def test_what_is_missing_is_added(settings: Settings, admin: Any) -> None:
    create(admin, settings.topics.replies)
    reports = {report.name: report for report in init_topics(settings)}
    assert not reports[settings.topics.replies].created
    assert reports[settings.topics.events].created
    (problem,) = reports[settings.topics.replies].problems
    assert problem == (
        f"topic {settings.topics.replies} has max.message.bytes=1048588; run: kafka-configs.sh --bootstrap-server "
        f"{settings.bootstrap_server} --alter --entity-type topics --entity-name {settings.topics.replies} "
        "--add-config max.message.bytes=8388608"
    )


def test_many_at_once_make_each_topic_once(settings: Settings) -> None:
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.extend(init_topics(settings))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(reports) == 3 * len(settings.topics.all)
    assert not any(report.problems for report in reports)
    assert check_topics(settings).partition_count == 3


def test_the_state_of_right_topics(settings: Settings) -> None:
    init_topics(settings)
    state = check_topics(settings)
    assert state.partition_count == 3
    assert state.problems == ()
    assert state.requests_topic_id == topic_id(settings, settings.topics.requests)
    assert len(state.requests_topic_id) == 36


def test_a_setting_of_another_count_is_for_new_topics_only(settings: Settings) -> None:
    init_topics(settings)
    other = settings.model_copy(update={"partitions": 5})
    assert check_topics(other).partition_count == 3
    reports = {report.name: report for report in init_topics(other)}
    (problem,) = reports[settings.topics.events].problems
    assert "has 3 partitions, not 5: their number never changes" in problem


def test_a_topic_that_is_made_again_has_another_id(settings: Settings, admin: Any) -> None:
    init_topics(settings)
    name = settings.topics.requests
    before = topic_id(settings, name)
    admin.delete_topics([name])
    until(lambda: topic_id(settings, name) is None, f"{name} is gone")
    init_topics(settings)
    after = topic_id(settings, name)
    assert after is not None
    assert after != before


def test_no_topics_at_all(settings: Settings) -> None:
    with pytest.raises(TopicsError, match=r"topics .*\.requests, .* and .*\.dead-letters do not exist; run: turnlog"):
        check_topics(settings)
    assert list_topics(settings) == []
    assert topic_id(settings, settings.topics.events) is None


def test_one_missing_topic(settings: Settings, admin: Any) -> None:
    init_topics(settings)
    admin.delete_topics([settings.topics.schemas])
    until(lambda: topic_id(settings, settings.topics.schemas) is None, "the topic is gone")
    with pytest.raises(TopicsError) as caught:
        check_topics(settings)
    assert str(caught.value) == f"topic {settings.topics.schemas} does not exist; run: turnlog topics init"


def test_counts_that_differ(settings: Settings, admin: Any) -> None:
    create(admin, settings.topics.events, partitions=4, retention_ms="-1", max_message_bytes="8388608")
    reports = {report.name: report for report in init_topics(settings)}
    assert "has 4 partitions, not 3" in reports[settings.topics.events].problems[0]
    with pytest.raises(TopicsError, match="must have the same number of partitions, but have 3, 4 and 3; choose a new"):
        check_topics(settings)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"cleanup_policy": "compact"}, "has cleanup.policy=compact; run: kafka-configs.sh"),
        ({"cleanup_policy": "compact,delete"}, "has cleanup.policy=compact,delete; run: kafka-configs.sh"),
        ({"retention_ms": "604800000"}, "has retention.ms=604800000; run: kafka-configs.sh"),
        ({"retention_bytes": "1000000000"}, "has retention.bytes=1000000000; run: kafka-configs.sh"),
    ],
)
def test_an_event_log_that_would_lose_events(settings: Settings, admin: Any, config: dict[str, str], told: str) -> None:
    init_topics(settings)
    change(admin, settings.topics.events, **config)
    with pytest.raises(TopicsError) as caught:
        check_topics(settings)
    assert f"topic {settings.topics.events} {told}" in str(caught.value)
    key = next(iter(config)).replace("_", ".")
    assert described(admin, settings.topics.events, key)[key] != topic_specs(settings)[1].config[key], "left as it was"


def test_schemas_that_would_be_lost(settings: Settings, admin: Any) -> None:
    init_topics(settings)
    change(admin, settings.topics.schemas, cleanup_policy="delete")
    with pytest.raises(TopicsError, match=r"\.schemas has cleanup\.policy=delete; run: kafka-configs\.sh .*=compact"):
        check_topics(settings)


def test_what_loses_nothing_is_a_warning(settings: Settings, admin: Any) -> None:
    init_topics(settings)
    change(admin, settings.topics.requests, retention_ms="1000", max_message_bytes="9000000")
    change(admin, settings.topics.events, max_message_bytes="1000000")
    change(admin, settings.topics.dead_letters, retention_ms="-1", message_timestamp_type="CreateTime")
    change(admin, settings.topics.replies, retention_bytes="1000000000")
    problems = check_topics(settings).problems
    assert len(problems) == 3
    assert f"topic {settings.topics.requests} has retention.ms=1000; run:" in problems[0]
    assert f"topic {settings.topics.events} has max.message.bytes=1000000; run:" in problems[1]
    assert f"topic {settings.topics.replies} has retention.bytes=1000000000; run:" in problems[2]


def test_what_is_kept_for_days_is_kept_from_when_it_came(settings: Settings) -> None:
    """Not from the time that its producer says: Kafka deletes by timestamps, whether a record was read or not."""
    init_topics(settings)
    topics = settings.topics
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_server)
    try:
        for topic in (topics.requests, topics.replies, topics.dead_letters):
            for said_ms in (1_790_000_000, int(time.time() * 1000) - 60 * 24 * 60 * 60 * 1000):
                before_ms = int(time.time() * 1000)
                stored = producer.send(topic, b"v", partition=0, timestamp_ms=said_ms).get(timeout=60)
                assert before_ms - 1000 <= stored.timestamp <= time.time() * 1000 + 1000, topic
    finally:
        producer.close()


def test_a_prefix_of_an_earlier_version_works_and_is_told_what_to_run(settings: Settings, admin: Any) -> None:
    init_topics(settings)
    topic = settings.topics.requests
    change(admin, topic, message_timestamp_type="CreateTime")
    (told,) = check_topics(settings).problems
    assert told == (
        f"topic {topic} has message.timestamp.type=CreateTime; run: kafka-configs.sh --bootstrap-server "
        f"{settings.bootstrap_server} --alter --entity-type topics --entity-name {topic} --add-config "
        "message.timestamp.type=LogAppendTime (until then Kafka may delete records before they are read: those that "
        "say they are old, or many)"
    )
    reports = {report.name: report for report in init_topics(settings)}
    assert (reports[topic].problems, reports[topic].warnings) == ((), (told,))
    assert not any(report.problems or report.warnings for name, report in reports.items() if name != topic)


def test_a_broker_that_refuses_says_why(settings: Settings) -> None:
    three = settings.model_copy(update={"replication_factor": 3})
    with pytest.raises(TopicsError, match=r"the broker refuses to make topic .*: .*replicat"):
        init_topics(three)
    init_topics(settings)
    assert "has 1 replicas, not 3" in check_topics(three).problems[0]


class AdminOfAStartingCluster(KafkaAdminClient):  # type: ignore[misc]
    """Three clients in a row are told of a controller that they know no address of, and of none, as 3.0.12 says it."""

    said: ClassVar[list[RuntimeError]] = []

    def create_topics(self, *arguments: Any, **options: Any) -> Any:
        if self.said:
            raise self.said.pop()
        return super().create_topics(*arguments, **options)


def test_a_controller_that_has_just_come_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first metadata of a cluster that starts do not tell of all its brokers."""
    errors: list[RuntimeError] = [UnknownBrokerIdError(3), NodeNotReadyError(3), RuntimeError("no active controller")]
    monkeypatch.setattr(AdminOfAStartingCluster, "said", errors)
    monkeypatch.setattr(topics_admin, "KafkaAdminClient", AdminOfAStartingCluster)
    assert all(report.created and not report.problems for report in init_topics(settings))
    assert not errors
    check_topics(settings)


def test_a_controller_that_does_not_come_is_waited_for_no_longer_than_that(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdminOfAStartingCluster, "said", [UnknownBrokerIdError(3) for _ in range(100)])
    monkeypatch.setattr(topics_admin, "KafkaAdminClient", AdminOfAStartingCluster)
    with pytest.raises(BrokerUnreachableError, match="UnknownBrokerIdError: 3"):
        init_topics(settings, timeout_s=1.5)
    assert 90 < len(AdminOfAStartingCluster.said) < 99


def test_no_broker_is_told_in_time_and_leaves_no_thread(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"bootstrap_server": f"127.0.0.1:{free_port()}"})
    before = threading.active_count()
    started = time.monotonic()
    for ask in (check_topics, init_topics, list_topics):
        with pytest.raises(BrokerUnreachableError, match=f"no broker answers at {nowhere.bootstrap_server} "):
            ask(nowhere, timeout_s=1.0)
    assert time.monotonic() - started < 15
    until(lambda: threading.active_count() <= before, "every thread has ended")
