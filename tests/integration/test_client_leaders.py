"""A client whose partition's leader stands still: another node leads within seconds, and the request goes there."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.faults.cluster import NODES, FaultCluster, fault_cluster
from turnlog.client.connection import Connection
from turnlog.client.request_sender import PreparedRequest
from turnlog_schemas.commands import GetSession
from turnlog_streams.topics import partition_of
from turnlog_workers.base.config import Settings
from turnlog_workers.kafka.topics_admin import init_topics

SEND_TIMEOUT_S = 30.0  # as it is by default: what is tested fits into it
CONNECT_TIMEOUT_S = 10.0
PARTITIONS = 3


@pytest.mark.timeout(600)
async def test_a_request_reaches_the_next_leader_of_its_partition_in_time(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(fault_cluster(tmp_path))
        settings = Settings(
            bootstrap_server=cluster.bootstrap_server, partitions=PARTITIONS, replication_factor=len(NODES)
        )
        init_topics(settings, timeout_s=120.0)
        connection = Connection(
            settings,
            client_id="test-leaders",
            connect_timeout_s=CONNECT_TIMEOUT_S,
            send_timeout_s=SEND_TIMEOUT_S,
            resend_after_s=60.0,
        )
        await connection.open()
        stack.push_async_callback(connection.close)
        request = connection.prepare(GetSession(), session_id="a-session", request_id="before")
        before = await connection.send(request)

        led = await _leads(cluster, settings, request)
        cluster.pause(led)
        try:
            after = await connection.send(
                connection.prepare(GetSession(), session_id="a-session", request_id="meanwhile")
            )
            assert await _leads(cluster, settings, request) != led
        finally:
            cluster.resume(led)
        assert (after.partition, after.offset) == (before.partition, before.offset + 1)


async def _leads(cluster: FaultCluster, settings: Settings, request: PreparedRequest) -> int:
    partition = partition_of(request.key.encode(), PARTITIONS)
    return (await cluster.leaders([settings.topics.requests]))[settings.topics.requests, partition].leader
