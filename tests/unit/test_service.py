"""A worker's end, step by step: one that fails or hangs keeps no other from its own."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import eventually
from turnlog_streams.topics import Topics
from turnlog_workers.base import tasks
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.config import Settings
from turnlog_workers.base.ports import LogError
from turnlog_workers.process import service
from turnlog_workers.process.service import WorkerService
from turnlog_workers.process.tail_watch import TailWatch
from turnlog_workers.runners.base import RunnerError
from turnlog_workers.shard.worker_context import Membership


class Part:
    """Something that is stopped."""

    def __init__(self, ends: str = "well") -> None:
        self.ends = ends
        self.stopped = False

    async def stop(self) -> None:
        if self.ends == "fails":
            raise RuntimeError("a defect")
        if self.ends == "hangs":
            await asyncio.Event().wait()
        self.stopped = True

    close = stop


def a_worker(folder: Path) -> Any:
    async def name_is_ours() -> bool:
        return True

    return WorkerService(
        Settings(data_dir=folder),
        owner="w",
        name_is_ours=name_is_ours,
        ack=lambda *acked: None,
        stop=lambda reason: None,
    )


def test_a_worker_runs_only_what_its_list_allows_whoever_accepted_the_turn(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="not allowed here") as caught:
        a_worker(tmp_path)._runners.make("script:7")
    assert (caught.value.code, caught.value.retryable) == ("model_not_allowed", False)


@pytest.mark.parametrize("ends", ["fails", "hangs"])
async def test_a_shard_that_does_not_stop_keeps_no_other_from_being_released(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_RELEASE_LIMIT_S", 0.1)
    monkeypatch.setattr(service, "_STEP_LIMIT_S", 0.1)
    worker = a_worker(tmp_path)
    shards = [Part(), Part(ends), Part()]
    clients = [Part(ends), Part(), Part()]
    worker._shards = dict(enumerate(shards))
    worker._replies, worker._producer, worker._reader = clients
    worker._stores = Part()
    async with asyncio.timeout(60):
        await worker.stop()
    assert [shard.stopped for shard in shards] == [True, False, True]
    assert [client.stopped for client in clients] == [False, True, True]
    assert worker._stores.stopped


async def test_an_assignment_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STEP_LIMIT_S", 0.05)
    worker = a_worker(tmp_path)
    await worker._changing.acquire()
    worker._shards = {0: (shard := Part())}
    async with asyncio.timeout(60):
        await worker.stop()
    assert shard.stopped


async def test_the_watch_over_the_ends_goes_on_after_an_error_that_nobody_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[str] = []

    async def look(self: TailWatch) -> None:
        looks.append("look")
        raise LogError("away") if len(looks) % 2 else ZeroDivisionError

    monkeypatch.setattr(TailWatch, "look", look)
    given_up: list[str] = []
    reader: Any = None
    watch = TailWatch(
        *(reader, Topics(), {}),
        membership=Membership(),
        interval_s=0.0,
        stalled_delivery_s=0.0,
        now=lambda: 1.0,
        requests_id="",
        broken=given_up.append,
    )
    task = tasks.kept_running(watch.run, "the watch", gave_up=given_up.append, backoff=Backoff(0.0))
    await eventually(lambda: given_up, "given up in the end")
    assert len(looks) == 2 * tasks.MAX_DEATHS
    await tasks.end(task)
