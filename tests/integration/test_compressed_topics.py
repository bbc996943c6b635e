"""Every reader of every topic, where an operator has set ``compression.type``."""

from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests.deployment import START_S, Deployment
from tests.waiting import eventually
from turnlog.client.async_client import Client
from turnlog.snapshot.sql import open_snapshot, run
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.kafka_python import connected
from turnlog_workers.kafka.settings_topic import read_settings, write_setting


def compress(deployment: Deployment, codec: str) -> None:
    with connected(KafkaAdminClient, deployment.settings, "test-compress", 10.0) as admin:
        admin.alter_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, name, {"compression.type": codec})
                for name in deployment.topics.all
            ]
        )


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_all_topics_compressed(broker: DevBroker, tmp_path: Path, codec: str) -> None:
    with Deployment(broker.bootstrap_server, tmp_path, partitions=2) as deployment:
        deployment.make_topics()
        compress(deployment, codec)
        settings = deployment.settings
        write_setting(settings, "fast-model", "script:1")
        assert read_settings(settings) == {"fast-model": "script:1"}  # kafka-python
        worker = deployment.worker()
        materializer = deployment.start("m0", "materialize")
        await eventually(lambda: worker.ready, "the worker is ready", START_S)
        assert "run-time settings: fast-model" in worker.log  # aiokafka
        async with deployment.wire() as wire:
            await wire.produce(b"web-1", b"garbage " * 100)
        async with Client(settings) as client:
            for text in ("first", "second"):
                assert (await client.chat("web-1", text, timeout_s=START_S).result()).text
            assert len((await client.history("web-1")).messages) == 4
        # The worker reads its log and the schemas again, the materializer both and the dead letters' bytes.
        assert worker.stop() == 0
        again = deployment.worker("w1")
        await eventually(lambda: again.ready, "the second worker is ready", START_S)

        def parked() -> bool:
            if not settings.snapshot.is_file():
                return False
            with open_snapshot(settings.snapshot) as connection:
                return bool(run(connection, "SELECT 1 FROM dead_letters WHERE bytes IS NOT NULL").rows)

        await eventually(parked, "the dead letter and its bytes are in the snapshot", START_S)
        assert materializer.running
