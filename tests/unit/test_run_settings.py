"""A worker's view of the run-time settings, and what it asks the broker for it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.settings_topic import RunSettings


class Topic:
    """The settings topic, of which the first records may be gone."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.first = 0
        self.asked: list[str] = []

    def add(self, key: str, value: str | None) -> None:
        self.records.append(SimpleNamespace(key=key.encode(), value=None if value is None else value.encode()))

    async def ends(self, topic: str, partitions: Sequence[int]) -> Mapping[int, int]:
        self.asked.append("ends")
        return {0: len(self.records)}

    async def bounds(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        self.asked.append("bounds")
        return {0: (self.first, len(self.records))}

    async def read_leniently(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[list[Any]]:
        self.asked.append(f"{start} to {end}")
        yield self.records[start:end]


async def test_while_nothing_changes_one_question_is_asked() -> None:
    topic, seen = Topic(), list[Mapping[str, str]]()
    settings: Any = RunSettings(Settings(), topic, lambda values: seen.append(dict(values)))  # type: ignore[arg-type]
    await settings.catch_up()
    assert (topic.asked, seen) == (["ends"], [])
    topic.add("fast-model", "echo:")
    topic.add("default-model", "echo:?deltas=3")
    topic.add("fast-model", None)
    topic.first, topic.asked = 1, []
    await settings.catch_up()
    assert topic.asked == ["ends", "bounds", "1 to 3"]
    assert seen == [{"default-model": "echo:?deltas=3"}]
    topic.asked = []
    await settings.catch_up()
    assert (topic.asked, len(seen)) == (["ends"], 1)
