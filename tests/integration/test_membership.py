"""Workers as members of the consumer group on a real broker: names, places that are kept, and who ends."""

import asyncio
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from kafka import KafkaAdminClient

from tests.deployment import START_S, Deployment, Process, Wire, eventually_async
from tests.waiting import eventually, until
from turnlog_schemas.events import PartitionClaimed
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options

PARTITIONS = 6


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    # A long session: what happens within it is not the group's giving a dead worker up.
    with Deployment(broker.bootstrap_server, tmp_path, partitions=PARTITIONS, session_timeout_s="20") as deployment:
        deployment.make_topics()
        yield deployment


class Group:
    """What the broker says of the deployment's group."""

    def __init__(self, admin: Any, group_id: str) -> None:
        self._admin, self._group_id = admin, group_id

    def state(self) -> str:
        """``Stable``, or what it waits for."""
        return str(self._admin.describe_groups([self._group_id])[self._group_id]["group_state"])

    def members(self) -> dict[str, set[int]]:
        """Partitions by instance id, while nobody joins or leaves; empty otherwise."""
        group = self._admin.describe_groups([self._group_id])[self._group_id]
        if group["group_state"] != "Stable":
            return {}
        return {
            member["group_instance_id"]: {
                partition
                for topic in member["member_assignment"]["assigned_partitions"]
                for partition in topic["partitions"]
            }
            for member in group["members"]
        }


@pytest.fixture
def group(broker: DevBroker, deployment: Deployment) -> Iterator[Group]:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_server)
    yield Group(admin, deployment.settings.group_id)
    admin.close()


async def claims(deployment: Deployment) -> list[PartitionClaimed]:
    """Every claim, partition by partition."""
    events = [event for log in (await deployment.log()).values() for event in log]
    return [event.payload for event in events if isinstance(event.payload, PartitionClaimed)]


#: A session of each partition.
SESSIONS = {partition_of(b"web-%d" % number, PARTITIONS): f"web-{number}" for number in range(100)}


async def answered(wire: Wire, name: str, partitions: Iterable[int] = range(PARTITIONS)) -> None:
    """A turn in each partition."""
    wanted = [SESSIONS[partition] for partition in partitions]
    for session_id in wanted:
        await wire.chat_json(session_id, "hello", request_id=f"{name}-{session_id}", model="echo:")
    for session_id in wanted:
        await wire.terminal(f"{name}-{session_id}")


def stable(group: Group, *names: str) -> dict[str, set[int]]:
    """Who has what, once exactly these are members and all partitions are theirs."""

    def shared() -> dict[str, set[int]] | None:
        members = group.members()
        return members if set(members) == set(names) and sum(map(len, members.values())) == PARTITIONS else None

    found = until(shared, f"{names} share the partitions", START_S)
    assert found is not None
    return found


def generations(worker: Process) -> list[int]:
    """The generations that a worker says it was given partitions in."""
    return [int(number) for number in re.findall(r"generation (\d+):", worker.log)]


async def test_a_killed_worker_takes_its_old_place_and_the_others_notice_nothing(
    deployment: Deployment, group: Group
) -> None:
    first, second = deployment.ready_worker("one"), deployment.ready_worker("two")
    before = await asyncio.to_thread(stable, group, "one", "two")
    async with deployment.wire() as wire:
        await answered(wire, "before")
        heard, claimed = generations(first), len([c for c in await claims(deployment) if c.owner == "one"])
        second.kill()
        second = await asyncio.to_thread(deployment.ready_worker, "two")
        await answered(wire, "after")
    assert await asyncio.to_thread(stable, group, "one", "two") == before
    assert generations(first) == heard
    assert generations(second) == heard[-1:]
    assert len([c for c in await claims(deployment) if c.owner == "one"]) == claimed


async def test_a_worker_that_is_told_to_stop_leaves_for_good_and_at_once(deployment: Deployment, group: Group) -> None:
    deployment.ready_worker("one")
    second = deployment.ready_worker("two")
    before = await asyncio.to_thread(stable, group, "one", "two")
    assert await asyncio.to_thread(second.stop) == 0
    # The session timeout is 20 s: nobody waits for it.
    assert await asyncio.to_thread(until, lambda: set(group.members()) == {"one"}, "the other one has all", 8.0)
    async with deployment.wire() as wire:
        await answered(wire, "after")
    deployment.ready_worker("two")
    after = await asyncio.to_thread(stable, group, "one", "two")
    assert len(after["one"]) == PARTITIONS // 2
    assert after["one"] <= before["one"] | before["two"]


async def test_a_worker_that_is_to_remain_in_the_group_has_its_place_back_and_the_others_notice_nothing(
    deployment: Deployment, group: Group
) -> None:
    remains = {"on_stop": "remain"}
    first, second = deployment.ready_worker("one"), deployment.ready_worker("two", **remains)
    before = await asyncio.to_thread(stable, group, "one", "two")
    async with deployment.wire() as wire:
        await answered(wire, "before")
        heard = generations(first)
        assert await asyncio.to_thread(second.stop) == 0
        assert "'two' keeps its place in the group: back within 20 s" in second.log
        waits = SESSIONS[min(before["two"])]
        await wire.chat_json(waits, "hello", request_id="meanwhile", model="echo:")
        await answered(wire, "meanwhile", before["one"])
        second = await asyncio.to_thread(deployment.ready_worker, "two", **remains)
        await wire.terminal("meanwhile")
        await answered(wire, "after")
    assert await asyncio.to_thread(stable, group, "one", "two") == before
    assert generations(first) == heard
    assert generations(second) == heard[-1:]
    assert second.log.count(", back in its place") == len(before["two"])


async def test_a_worker_that_remains_in_the_group_and_does_not_come_back_is_given_up_by_it(
    broker: DevBroker, tmp_path: Path
) -> None:
    """As one that was killed."""
    with Deployment(broker.bootstrap_server, tmp_path / "short", partitions=PARTITIONS, session_timeout_s="6") as short:
        short.make_topics()
        short.ready_worker("one")
        second = short.ready_worker("two", on_stop="remain")
        async with short.wire() as wire:
            await answered(wire, "before")
            assert await asyncio.to_thread(second.stop) == 0
            await answered(wire, "after")


async def test_those_who_stay_keep_what_they_have(deployment: Deployment, group: Group) -> None:
    one, two = deployment.ready_worker("one"), deployment.ready_worker("two")
    two_members = await asyncio.to_thread(stable, group, "one", "two")
    deployment.ready_worker("three")
    three_members = await asyncio.to_thread(stable, group, "one", "two", "three")
    assert three_members["one"] < two_members["one"]
    assert three_members["two"] < two_members["two"]
    assert await asyncio.to_thread(one.stop) == 0
    left = await asyncio.to_thread(stable, group, "two", "three")
    assert left["two"] > three_members["two"]
    assert left["three"] > three_members["three"]
    assert two.running


async def test_a_second_process_of_one_name_ends_and_the_first_goes_on(
    deployment: Deployment, group: Group, tmp_path: Path
) -> None:
    quick = {"session_timeout_s": "2"}
    first = deployment.ready_worker("one", **quick)
    heard = generations(first)
    # As on another host: it cannot see the first one's lock.
    second = deployment.worker("one", data_dir=str(tmp_path / "another-host"), **quick)
    assert await asyncio.to_thread(second.wait) == 1
    assert "has another live worker 'one'" in second.log
    assert "TURNLOG_WORKER_NAME" in second.log
    async with deployment.wire() as wire:
        await answered(wire, "after")
    assert generations(first) == heard
    third = deployment.worker("one", **quick)
    assert await asyncio.to_thread(third.wait) == 2
    assert "another process on this data directory is the worker 'one'" in third.log
    assert await asyncio.to_thread(stable, group, "one")


async def test_the_name_of_a_dead_worker_on_another_host_is_free_after_its_session(
    deployment: Deployment, tmp_path: Path
) -> None:
    quick = {"session_timeout_s": "2"}
    first = deployment.ready_worker("one", **quick)
    first.kill()
    deployment.ready_worker("one", data_dir=str(tmp_path / "another-host"), **quick)
    async with deployment.wire() as wire:
        await answered(wire, "after")


async def test_a_worker_whose_name_was_taken_ends_with_a_sentence(
    deployment: Deployment, group: Group, tmp_path: Path
) -> None:
    """Two start in the same moment, or a disk was copied: the group knows one of them only."""
    first = deployment.ready_worker("one")
    copied = tmp_path / "another-host" / "workers"
    copied.mkdir(parents=True)
    (copied / "one.lock").write_bytes((deployment.settings.data_dir / "workers" / "one.lock").read_bytes())
    second = deployment.ready_worker("one", data_dir=str(tmp_path / "another-host"))
    assert await asyncio.to_thread(first.wait) == 1
    assert "another process has joined the group" in first.log
    assert await asyncio.to_thread(stable, group, "one")
    async with deployment.wire() as wire:
        await answered(wire, "after")
    assert second.running


async def test_two_unnamed_workers_of_one_directory_have_names_of_their_own(
    deployment: Deployment, group: Group
) -> None:
    first, second = deployment.worker("a", worker_name=""), deployment.worker("b", worker_name="")
    await eventually(lambda: first.ready and second.ready, "both are ready", START_S)

    async def two() -> list[str]:
        members = await asyncio.to_thread(group.members)
        return sorted(members) if len(members) == 2 else []

    names = await eventually_async(two, "both are members")
    assert [name.rsplit("-", 1)[1] for name in names] == ["1", "2"]
    for worker in (first, second):
        worker.kill()
    again = deployment.worker("a", worker_name="")
    await eventually(lambda: again.ready, "it is ready", START_S)
    assert await eventually_async(two, "its old name") == names


async def test_a_worker_that_keeps_dying_disturbs_nobody_else(deployment: Deployment, group: Group) -> None:
    """Killed as soon as it serves, again and again: every chat is answered, and the other one keeps its claims."""
    deployment.ready_worker("one")
    dying = deployment.ready_worker("two")
    await asyncio.to_thread(stable, group, "one", "two")
    async with deployment.wire() as wire:
        await answered(wire, "before")
        claimed = [c for c in await claims(deployment) if c.owner == "one"]
        for number in range(3):
            dying.kill()
            dying = deployment.worker("two")
            await eventually(lambda worker=dying: worker.ready, "it is back", START_S)  # type: ignore[misc]
            await answered(wire, f"round-{number}")
        terminal = [frame.header.request_id for frame in wire.frames if frame.terminal]
    assert len(set(terminal)) == 4 * PARTITIONS
    assert [c for c in await claims(deployment) if c.owner == "one"] == claimed


async def test_what_a_worker_owns_is_served_while_the_group_waits_for_one_that_does_not_answer(
    deployment: Deployment, group: Group
) -> None:
    patient = {"rebalance_timeout_s": "60", "session_timeout_s": "60", "stalled_delivery_s": "60"}
    one, two = deployment.ready_worker("one", **patient), deployment.ready_worker("two", **patient)
    mine = (await asyncio.to_thread(stable, group, "one", "two"))["one"]
    async with deployment.wire() as wire:
        await answered(wire, "before")
        heard = one.log.count("the group rebalances")
        two.signal(signal.SIGSTOP)
        # Any client that joins; it waits for its assignment until two answers.
        joiner = AIOKafkaConsumer(
            deployment.topics.requests,
            **client_options(deployment.settings, "test-joiner"),
            group_id=deployment.settings.group_id,
        )
        joining = asyncio.create_task(joiner.start())
        try:
            await eventually(lambda: one.log.count("the group rebalances") > heard, "one hears of the join", START_S)
            await answered(wire, "meanwhile", mine)
            assert await asyncio.to_thread(group.state) == "PreparingRebalance"
            two.signal(signal.SIGCONT)
            await asyncio.wait_for(joining, START_S)
        finally:
            joining.cancel()
            await joiner.stop()
        await answered(wire, "after")
