"""What the broker refuses of one append costs no other one anything: all of a worker's share a producer."""

import asyncio
from pathlib import Path

import pytest

from tests.deployment import Deployment
from turnlog_workers.base.ports import AppendUncertainError, RecordsRefusedError
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.event_log import LogProducer

PARTITIONS = 6


async def test_a_refused_append_is_told_as_such_and_hurts_no_other(broker: DevBroker, tmp_path: Path) -> None:
    with Deployment(broker.bootstrap_server, tmp_path, partitions=PARTITIONS) as deployment:
        deployment.make_topics()
        topics = deployment.topics
        deployment.limit_topic(topics.dead_letters, 3000)
        producer = LogProducer(deployment.settings)
        loop = asyncio.get_running_loop()
        try:

            async def append(topic: str, partition: int, size: int) -> str:
                try:
                    await producer.send(topic, partition, [(b"k", b"x" * size, [("h", b"")])])
                except (RecordsRefusedError, AppendUncertainError) as error:
                    return type(error).__name__
                return "stored"

            async def events(partition: int) -> list[str]:
                """One in flight at a time, as a shard does."""
                return [await append(topics.events, partition, 500) for _ in range(30)]

            async def letters() -> list[str]:
                return [await append(topics.dead_letters, 0, 5000 if n % 2 else 100) for n in range(6)]

            began = loop.time()
            *appended, parked = await asyncio.gather(*(events(p) for p in range(PARTITIONS)), letters())
            assert {told for each in appended for told in each} == {"stored"}
            assert parked == ["stored", "RecordsRefusedError"] * 3
            assert loop.time() - began < deployment.settings.append_timeout_s
            with pytest.raises(
                RecordsRefusedError, match=r"refuses 1 records of 5012 bytes .*MessageSizeTooLargeError"
            ):
                await producer.send(topics.dead_letters, 0, [(b"k", b"x" * 5000, [("h", b"")])])
            with pytest.raises(RecordsRefusedError, match="refuses 1 records"):  # no batch of ours holds so much
                await producer.send(topics.events, 0, [(b"k", b"x" * 9 * 1024 * 1024, [])])
            assert await append(topics.events, 0, 1) == "stored"
        finally:
            await producer.close()
