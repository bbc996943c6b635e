"""Ten incidents. Up to its ``yield`` each does what goes wrong, and after it what the runbook's page says."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from kafka import KafkaAdminClient

from tests.deployment import START_S
from tests.faults.broker import FaultNode
from tests.game_day.disk import SmallDisk
from tests.game_day.stage import PARTITIONS, WORKERS, Stage
from tests.secured_broker import SecuredBroker, password
from turnlog_workers.base.errors import EXIT_USAGE
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.kafka_python import connected

NEW_PASSWORD = "another one"
HUGE_TURNS, HUGE_CHARACTERS = 40, 250_000  #: of the user; the model says each again
Play = Callable[["Scene"], AsyncIterator[None]]


@dataclass(slots=True)
class Scene:
    """What an incident has to do with."""

    stage: Stage
    broker: FaultNode | DevBroker
    disk: SmallDisk | None = None
    secured: SecuredBroker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A thing that goes wrong."""

    name: str
    what: str  #: in words
    alert: str  #: that fires, and whose page says what mends it; empty: nobody has to be woken
    mended: str  #: by what of the page
    play: Play
    settings: Mapping[str, str] = field(default_factory=dict)  #: of every process
    of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  #: of single ones
    small_disk: str = ""  #: the setting whose folder is on a small disk of its own
    secured: bool = False  #: the broker wants passwords


async def poison_request(scene: Scene) -> AsyncIterator[None]:
    partition, offset = await scene.stage.wire.produce(b"poison", b"\x00\xff no request at all")
    yield
    listed = json.loads((await scene.stage.turnlog("dead-letters", "list", "--json")).splitlines()[0])
    assert f"{partition}@{offset}" in json.dumps(listed), listed
    await scene.stage.turnlog("dead-letters", "show", f"{partition}@{offset}")
    await scene.stage.turnlog("dead-letters", "discard", f"{partition}@{offset}")


async def lag(scene: Scene) -> AsyncIterator[None]:
    stage = scene.stage
    for number in range(PARTITIONS * 250):
        model = "script:slow?tools=0&words=20&delta_ms=200"
        await stage.wire.chat_json(f"burst-{number}", "All at once", request_id=f"burst-{number}", model=model)
    yield
    assert re.search(r"\d", await stage.turnlog("lag"))
    for name in WORKERS:
        await stage.restart(name, max_running_turns="500", max_queued_turns="50000")
    for number in range(PARTITIONS * 250):
        await stage.wire.terminal(f"burst-{number}")


async def hung_worker(scene: Scene) -> AsyncIterator[None]:
    stage = scene.stage
    await stage.wire.chat_json("hung", "Do not wait", request_id="hung", model="hang:")
    yield
    for name in WORKERS:
        if not stage.processes[name].running:
            continue
        stage.processes[name].kill()
        stage.start(name, allow_models="echo:*")
    await stage.ready(*WORKERS)
    assert (await stage.wire.terminal("hung")).kind == "TurnFailed"


async def full_disk(scene: Scene) -> AsyncIterator[None]:
    assert scene.disk is not None
    filling = asyncio.create_task(scene.disk.keep_full())
    yield
    filling.cancel()
    scene.disk.make_room()


async def stuck_snapshot(scene: Scene) -> AsyncIterator[None]:
    assert scene.disk is not None
    scene.disk.read_only()
    yield
    scene.disk.writable()


async def expired_password(scene: Scene) -> AsyncIterator[None]:
    assert scene.secured is not None
    await asyncio.to_thread(scene.secured.make_users, ["worker"], lambda user: NEW_PASSWORD)
    yield
    said = await scene.stage.turnlog("doctor", code=None, sasl_username="worker", sasl_password=password("worker"))
    assert "password" in said, said
    assert any("refuses user 'worker' or the password" in scene.stage.processes[name].log for name in WORKERS)
    for name in WORKERS:
        scene.stage.processes[name].kill()
        scene.stage.start(name, sasl_username="worker", sasl_password=NEW_PASSWORD)
    await scene.stage.ready(*WORKERS)


async def wrong_partition_count(scene: Scene) -> AsyncIterator[None]:
    stage = scene.stage
    with connected(KafkaAdminClient, stage.deployment.settings, "test-partitions", START_S) as admin:
        admin.create_partitions({stage.deployment.topics.events: PARTITIONS + 1})
    await stage.all_answered()  # those that run go on
    stage.processes["w1"].signal(signal.SIGTERM)
    await asyncio.to_thread(stage.processes["w1"].wait)
    assert await asyncio.to_thread(stage.start("w1").wait, START_S) != 0
    yield
    assert "must have the same number of partitions" in await stage.turnlog("doctor", code=None)
    await stage.move_to("another")


async def lost_broker(scene: Scene) -> AsyncIterator[None]:
    assert isinstance(scene.broker, FaultNode)
    await scene.broker.kill()
    yield
    await scene.broker.start()


async def huge_session(scene: Scene) -> AsyncIterator[None]:
    stage = scene.stage
    for number in range(HUGE_TURNS):
        await stage.wire.chat_json("huge", "x" * HUGE_CHARACTERS, request_id=f"huge-{number}")
        await stage.wire.terminal(f"huge-{number}", START_S)
    yield


async def bad_deploy(scene: Scene) -> AsyncIterator[None]:
    stage = scene.stage
    stage.processes["w1"].signal(signal.SIGTERM)
    await asyncio.to_thread(stage.processes["w1"].wait)
    bad = stage.start("w1", default_model="http:nowhere#model")
    assert await asyncio.to_thread(bad.wait, START_S) == EXIT_USAGE
    yield
    stage.start("w1")
    await stage.ready("w1")


INCIDENTS = (
    Incident(
        name="poison-request",
        what="a producer sends bytes that are no request",
        alert="TurnlogDeadLetters",
        mended="`turnlog dead-letters discard`",
        play=poison_request,
    ),
    Incident(
        name="lag",
        what="more requests than the models keep up with",
        alert="TurnlogLag",
        mended="a larger `TURNLOG_MAX_RUNNING_TURNS` and `TURNLOG_MAX_QUEUED_TURNS`",
        play=lag,
        settings={"max_running_turns": "4", "max_queued_turns": "40", "max_queued_turns_per_session": "40"},
    ),
    Incident(
        name="hung-worker",
        what="a runner of somebody's own blocks each worker that takes its turn",
        alert="TurnlogHung",
        mended="its model out of `TURNLOG_ALLOW_MODELS`, workers started again",
        play=hung_worker,
        settings={"allow_models": "echo:*,hang:*"},
    ),
    Incident(
        name="full-disk",
        what="the disk of workers and materializer is full",
        alert="TurnlogStoreOld",
        mended="room made",
        play=full_disk,
        small_disk="data_dir",
    ),
    Incident(
        name="expired-password",
        what="the broker takes the workers' password no more",
        alert="TurnlogPartitionNotServed",
        mended="the new password, workers started again",
        play=expired_password,
        secured=True,
    ),
    Incident(
        name="wrong-partition-count",
        what="the event log's topic was given a partition; then a worker is restarted",
        alert="TurnlogDown",
        mended="a new `TURNLOG_PREFIX` for all",
        play=wrong_partition_count,
    ),
    Incident(
        name="lost-broker",
        what="the broker is away",
        alert="TurnlogPartitionNotServed",
        mended="the broker started",
        play=lost_broker,
    ),
    Incident(
        name="huge-session",
        what=f"one session of {2 * HUGE_TURNS * HUGE_CHARACTERS // 1_000_000} MB, loaded whole for each turn",
        alert="",
        mended="nothing had to be: nobody beside it is late",
        play=huge_session,
        settings={"history_max_tokens": "-1", "idle_timeout_s": "0.5"},
    ),
    Incident(
        name="stuck-snapshot",
        what="the snapshot's disk can only be read",
        alert="TurnlogSnapshotOld",
        mended="the disk mounted for writing",
        play=stuck_snapshot,
        small_disk="snapshot_path",
    ),
    Incident(
        name="bad-deploy",
        what="a worker comes back with a setting that ends it at its start",
        alert="TurnlogDown",
        mended="the version before",
        play=bad_deploy,
    ),
)
