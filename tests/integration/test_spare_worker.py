"""More workers than partitions: a spare one is ready, and takes over."""

import asyncio
from pathlib import Path

from tests.deployment import START_S, Deployment
from tests.waiting import eventually
from turnlog_workers.devstack.broker import DevBroker


async def test_a_worker_without_a_partition_is_ready_and_takes_over(broker: DevBroker, tmp_path: Path) -> None:
    with Deployment(broker.bootstrap_server, tmp_path, partitions=1) as deployment:
        deployment.make_topics()
        workers = {name: deployment.worker(name) for name in ("w0", "w1")}
        await eventually(lambda: all(worker.ready for worker in workers.values()), "both are ready", START_S)
        async with deployment.wire() as wire:
            await wire.chat_json("web-1", "hello", request_id="r1")
            first = (await wire.terminal("r1")).headers["ce_source"].decode()
            await asyncio.to_thread(workers[first].kill)
            await wire.chat_json("web-1", "still there?", request_id="r2")
            assert (await wire.terminal("r2")).headers["ce_source"].decode() == ({*workers} - {first}).pop()
