"""Failure stays where it happens, on a real broker: a newer writer, and a reply topic that goes away."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.deployment import Deployment, Wire, eventually_async
from tests.integration.test_schema_topic import later_version, newer, record
from turnlog_schemas.events import RequestDeadLettered
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.schema_topic import publish_schemas

PARTITIONS = 12


@pytest.fixture(scope="module")
def deployment(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(broker.bootstrap_server, tmp_path_factory.mktemp("contained"), partitions=PARTITIONS) as deployment:
        deployment.make_topics()
        deployment.ready_worker()
        yield deployment


def one_each(name: str) -> list[str]:
    """A session of every partition."""
    found: dict[int, str] = {}
    for number in range(10_000):
        session_id = f"{name}-{number}"
        found.setdefault(partition_of(session_id.encode(), PARTITIONS), session_id)
    return [found[partition] for partition in range(PARTITIONS)]


async def test_a_newer_writer_s_first_requests_are_answered_in_every_partition(deployment: Deployment) -> None:
    """A rolling upgrade: its schemas are in their topic, and no worker has seen them yet. Garbage comes as well."""
    for upgrade in range(3):
        chat = newer("Chat", {"name": f"priority_{upgrade}", "type": "long", "default": 0})
        publish_schemas(deployment.settings, later_version(chat))
        garbage = b"\xc3\x01" + f"garbage{upgrade}".encode() + b"x" * 40
        async with deployment.wire() as wire:
            sessions = one_each(f"upgrade{upgrade}")
            await asyncio.gather(
                *(wire.produce(name.encode(), garbage, partition=place) for place, name in enumerate(sessions[:6])),
                *(
                    wire.produce(name.encode(), record(chat, session_id=name, request_id=f"{name}/{number}"))
                    for number in range(3)
                    for name in sessions
                ),
            )
            for name in sessions:
                for number in range(3):
                    assert (await wire.terminal(f"{name}/{number}")).kind == "TurnCompleted"

    async def parked() -> bool:
        letters = [e.payload for log in (await deployment.log()).values() for e in log]
        return sum(isinstance(letter, RequestDeadLettered) for letter in letters) == 3 * 6

    await eventually_async(parked, "the garbage, and nothing else, is in the dead letters")
    assert await claims(deployment) == PARTITIONS, "no partition was released"


async def claims(deployment: Deployment) -> int:
    log = await deployment.log()
    return sum(type(logged.payload).__name__ == "PartitionClaimed" for events in log.values() for logged in events)


async def test_a_reply_topic_that_goes_away_delays_nobody_and_pins_nothing(deployment: Deployment) -> None:
    topic = f"{deployment.topics.replies}.mine"
    admin = AIOKafkaAdminClient(bootstrap_servers=deployment.settings.bootstrap_server)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 2, 1)])
        name = one_each("mine")[0]
        neighbour = next(
            each for each in (f"next-{n}" for n in range(999)) if partition_of(each.encode(), PARTITIONS) == 0
        )
        async with deployment.wire() as wire:
            async with Wire(deployment, topic=topic) as mine:
                await mine.chat_json(name, "Hi", request_id="m1", reply_to=topic)
                assert (await mine.terminal("m1")).kind == "TurnCompleted"
                slow = "script:1?words=30&tools=0&delta_ms=100"
                await mine.chat_json(name, "Hi", request_id="m2", reply_to=topic, model=slow)
                await mine.wait_for("m2", "TextDelta")
            await admin.delete_topics([topic])
            for number in range(20):
                await wire.chat_json(neighbour, "Hi", request_id=f"n{number}")
                assert (await wire.terminal(f"n{number}", 10.0)).kind == "TurnCompleted"

            async def passed_by() -> bool:
                """The end of that turn is behind what the log says is answered."""
                await wire.chat_json(neighbour, "Hi")
                log = (await deployment.accepted())[0]
                ended = [
                    e.offset for e in log if e.header.stream_id == name and type(e.payload).__name__ == "TurnCompleted"
                ]
                return len(ended) == 2 and log[-1].header.replied >= ended[-1]

            await eventually_async(passed_by, "nothing is pinned", 90.0, interval_s=1.0)
            await wire.chat_json(name, "Hi", request_id="m2", model=slow)
            assert (await wire.terminal("m2")).kind == "TurnCompleted", "who asks again is answered"
    finally:
        await admin.close()


async def test_what_somebody_else_writes_to_the_event_log_stops_nobody(broker: DevBroker, tmp_path: Path) -> None:
    """A tool that was given the wrong topic. Every reader passes it over: also the next owner, and the materializer."""
    with Deployment(broker.bootstrap_server, tmp_path, partitions=2) as deployment:
        deployment.make_topics()
        worker = deployment.ready_worker()
        foreign = AIOKafkaProducer(bootstrap_servers=deployment.settings.bootstrap_server)
        await foreign.start()
        try:
            async with deployment.wire() as wire:
                for number in range(6):
                    for partition in (0, 1):
                        for value in (b"random bytes", None, b"{}"):
                            await foreign.send_and_wait(deployment.topics.events, value, key=b"k", partition=partition)
                    await wire.chat_json(f"web-{number}", "Hi", request_id=f"r{number}")
                    assert (await wire.terminal(f"r{number}")).kind == "TurnCompleted"
                worker.kill()
                deployment.ready_worker("next")
                await wire.chat_json("web-0", "Hi again", request_id="again")
                assert (await wire.terminal("again")).kind == "TurnCompleted"
        finally:
            await foreign.stop()
