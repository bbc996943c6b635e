"""What the broker tells of topics, and what is made of what it does not tell."""

from collections.abc import Sequence
from typing import Any

import pytest

from turnlog_workers.kafka import topics_admin
from turnlog_workers.kafka.topics_admin import TopicsError


class Admin:
    """Describes topics; ``gone`` ones are deleted before their configuration is asked for."""

    def __init__(self, *, gone: Sequence[str] = (), secret: Sequence[str] = ()) -> None:
        self.topics = {"requests", "events"}
        self.gone, self.secret = set(gone), secret

    def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        partitions = [{"replica_nodes": [1]}]
        return [
            {"name": name, "error_code": 0 if name in self.topics else 3, "topic_id": "id", "partitions": partitions}
            for name in names
        ]

    def describe_configs(self, resources: Sequence[Any], config_filter: str) -> dict[str, Any]:
        self.topics -= self.gone
        told = [each for each in resources if each.name in self.topics and each.name not in self.secret]
        return {"topic": {each.name: {key: {"value": "1"} for key in each.configs} for each in told}}


def test_one_that_is_deleted_meanwhile_is_not_there() -> None:
    found = topics_admin._describe(Admin(gone=["requests"]), ["requests", "events", "replies"])
    assert list(found) == ["events"]


def test_one_whose_configuration_is_not_told_is_a_matter_of_rights() -> None:
    with pytest.raises(TopicsError, match="configuration of topic events: grant DESCRIBE_CONFIGS"):
        topics_admin._describe(Admin(secret=["events"]), ["requests", "events"])
