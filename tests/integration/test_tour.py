"""A tour of every verb of the session API over three workers, one of which is killed (SIGKILL) between steps.

The short form kills before five sampled steps (``TOUR_SEED`` says which), ``TOUR_KILLS=all`` before every one. Each
time it is the worker that owns the session, or the channel, that the next step asks.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import Deployment, Process, eventually_async
from tests.waiting import until
from turnlog import (
    ChatTurn,
    Client,
    RequestRefusedError,
    SessionArchivedError,
    SessionBusyError,
    SessionInfo,
    SessionNotFoundError,
)
from turnlog_schemas import events as ev
from turnlog_schemas.frames import TextDelta, TurnAccepted, TurnStarted
from turnlog_schemas.parts import content_text
from turnlog_streams.topics import partition_of
from turnlog_workers.devstack.broker import DevBroker

WORKERS = 3
SAMPLED_KILLS = 5
SEED = int(os.environ.get("TOUR_SEED", "5"))
SLOW = "script:slow?tools=0&words=3000&delta_ms=20"  #: a minute, if nobody ends it
SHORT = "script:short?tools=1&words=40&delta_ms=20"
CHANNEL = "tour"
HOME: dict[str, Any] = {
    "title": "Home",
    "instructions": "Be brief.",
    "history_keep_tail": 2,
    "request_id": "create",
}


class Recorded:
    """A client that remembers which verbs were used."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.used.add(name)
        return getattr(self._client, name)


@dataclass
class Tour:
    """Where the tour stands."""

    client: Any
    turns: AsyncExitStack
    home: str = ""
    other: str = ""
    new: str = ""
    made: SessionInfo | None = None
    running: ChatTurn | None = None
    queued: ChatTurn | None = None
    done: list[tuple[str, str]] = field(default_factory=list)  #: session and text of every turn that completed

    async def ask(self, session_id: str, text: str, **options: Any) -> str:
        """A chat that completes: its answer."""
        turn = await self.client.chat(session_id, text, **options).result()
        turn.raise_for_status()
        self.done.append((session_id, text))
        return str(turn.text)

    async def start(self, session_id: str, text: str, model: str) -> ChatTurn:
        """A turn that has begun to answer."""
        turn: ChatTurn = await self.turns.enter_async_context(self.client.chat(session_id, text, model=model))
        async for reply in turn:
            if isinstance(reply.frame, TextDelta | TurnStarted):
                return turn
        raise AssertionError("it ended at once")

    async def active(self) -> str | None:
        """The channel's active session."""
        try:
            return str((await self.client.active(CHANNEL)).session_id)
        except SessionNotFoundError:
            return None


async def create(tour: Tour) -> None:
    tour.made = await tour.client.create(CHANNEL, **HOME)
    assert tour.made.created
    tour.home = tour.made.session_id


async def get(tour: Tour) -> None:
    info = await tour.client.get(tour.home)
    assert (info.title, info.instructions, info.messages, info.active) == ("Home", "Be brief.", 0, True)


async def chat(tour: Tour) -> None:
    assert await tour.ask(tour.home, "Hello", request_id="hello") == "Hello"


async def read_history(tour: Tour) -> None:
    assert [m.message_seq for m in (await tour.client.history(tour.home, limit=1)).messages] == [1]
    found = [(m.role, content_text(m.content)) async for m in tour.client.messages(tour.home, page=1)]
    assert found == [("user", "Hello"), ("assistant", "Hello")]


async def update(tour: Tour) -> None:
    changed = await tour.client.update(tour.home, metadata={"ticket": "4711"})
    assert changed.metadata["ticket"] == "4711"
    assert (await tour.client.get(tour.home)).metadata["ticket"] == "4711"


async def resolve(tour: Tour) -> None:
    info = await tour.client.resolve(CHANNEL)
    assert (info.session_id, info.created) == (tour.home, False)


async def create_another(tour: Tour) -> None:
    tour.other = (await tour.client.create(CHANNEL, session_id="tour-other", title="Other")).session_id
    assert await tour.active() == tour.other
    assert not (await tour.client.get(tour.home)).active


async def chat_beside_the_active_one(tour: Tour) -> None:
    """It changes nothing about which one that is."""
    await tour.ask(tour.home, "I am here", model="echo:")
    assert await tour.active() == tour.other


async def start_a_turn(tour: Tour) -> None:
    tour.running = await tour.start(tour.home, "Talk", SLOW)


async def queue_another(tour: Tour) -> None:
    tour.queued = await tour.turns.enter_async_context(tour.client.chat(tour.home, "Later"))
    assert isinstance((await anext(tour.queued)).frame, TurnAccepted)


async def be_refused(tour: Tour) -> None:
    with pytest.raises(SessionBusyError):
        await tour.client.chat(tour.home, "Not now", on_busy="reject").result()


async def cancel_the_queued(tour: Tour) -> None:
    assert tour.queued is not None
    cancelled = await tour.client.cancel(tour.home, tour.queued.view.turn_id)
    assert cancelled.turn_id == tour.queued.view.turn_id
    assert (await tour.queued.result()).status == "cancelled"


async def cancel_the_running(tour: Tour) -> None:
    assert tour.running is not None
    cancelled = await tour.client.cancel(tour.home, request_id="stop")
    ended = await tour.running.result()
    assert (ended.status, ended.turn_id, ended.text) == ("cancelled", cancelled.turn_id, cancelled.text)


async def ask_again(tour: Tour) -> None:
    """Every answer is given again under its request id."""
    assert (await tour.client.create(CHANNEL, **HOME)).created
    assert (await tour.client.chat(tour.home, "Hello", request_id="hello").result()).text == "Hello"
    assert tour.running is not None
    again = await tour.client.cancel(tour.home, request_id="stop")
    assert again.turn_id == tour.running.view.turn_id

    async def refused() -> bool:
        """An owner that took over may tell of the first use once more; then that is what the request sees first."""
        try:
            ended = await tour.client.chat(tour.home, "Something else", request_id="hello").result()
        except RequestRefusedError as error:
            return error.code == "conflict"
        assert ended.text == "Hello"
        return False

    await eventually_async(refused, "the id's second use is refused")


async def interrupt(tour: Tour) -> None:
    running = await tour.start(tour.home, "Talk again", SLOW)
    assert await tour.ask(tour.home, "Listen", on_busy="interrupt") == "Listen"
    assert (await running.result()).status == "cancelled"


async def enqueue(tour: Tour) -> None:
    sent = await tour.client.enqueue(tour.home, "Nobody waits", request_id="enqueued")
    assert sent.request_id == "enqueued"


async def follow(tour: Tour) -> None:
    async with (
        aclosing(tour.client.follow(tour.home, request_id="enqueued", from_position="beginning")) as replies,
        asyncio.timeout(60),
    ):
        kinds = [type(reply.frame).__name__ async for reply in replies]
    assert kinds[-1] == "TurnCompleted"
    tour.done.append((tour.home, "Nobody waits"))


async def hide(tour: Tour) -> None:
    hidden = await tour.client.hide_turn(tour.home, of_request="enqueued")
    assert hidden == await tour.client.hide_turn(tour.home, hidden)


async def be_refused_an_erasure(tour: Tour) -> None:
    with pytest.raises(RequestRefusedError, match="not_sealed"):
        await tour.client.erase(tour.home)


async def choose_a_model(tour: Tour) -> None:
    turn = tour.client.chat(tour.home, "With tools", model="script:7?tools=2&words=3")
    assert (await turn.result()).status == "completed"
    assert turn.view.model == "script:7?tools=2&words=3"
    tour.done.append((tour.home, "With tools"))


async def set_the_default_model(tour: Tour) -> None:
    wanted = "script:default?tools=0&words=2"
    await tour.client.set_setting(f"default-model/{CHANNEL}", wanted)
    assert await tour.client.get_settings() == {f"default-model/{CHANNEL}": wanted}
    number = count()

    async def followed() -> bool:
        text = f"Who are you? {next(number)}"
        turn = tour.client.chat(tour.other, text)
        (await turn.result()).raise_for_status()
        tour.done.append((tour.other, text))
        return bool(turn.view.model == wanted)

    await eventually_async(followed, "the default model is followed")
    await tour.client.set_setting(f"default-model/{CHANNEL}", None)


async def reset(tour: Tour) -> None:
    info = await tour.client.reset_runner(tour.home)
    assert info.session_id == tour.home
    await tour.ask(tour.home, "After the reset", model="echo:")


async def compact(tour: Tour) -> None:
    before = [message async for message in tour.client.messages(tour.home)]
    done = await tour.client.compact(tour.home, instructions="Keep the names.", request_id="compact")
    assert done.changed
    assert 0 < done.to_seq <= len(before) - 2
    page = await tour.client.history(tour.home, skip_covered=True)
    assert (page.covered_to, page.summary) == (done.to_seq, done.summary)
    after = [message async for message in tour.client.messages(tour.home)]
    assert [(m.role, m.content) for m in after] == [(m.role, m.content) for m in before]


async def compact_again(tour: Tour) -> None:
    """The same id has the same answer; another one has nothing to do."""
    first = await tour.client.compact(tour.home, instructions="Keep the names.", request_id="compact")
    assert first.changed
    again = await tour.client.compact(tour.home, instructions="Keep the names.")
    assert (again.changed, again.summary, again.to_seq) == (False, first.summary, first.to_seq)


async def start_a_last_turn(tour: Tour) -> None:
    tour.running = await tour.start(tour.other, "The end", SHORT)


async def rotate(tour: Tour) -> None:
    info = await tour.client.rotate(CHANNEL, title="New", request_id="rotate")
    assert info.created
    tour.new = info.session_id
    assert await tour.active() == tour.new
    with pytest.raises(SessionArchivedError):
        await tour.client.chat(tour.other, "Too late").result()


async def let_it_end(tour: Tour) -> None:
    assert tour.running is not None
    assert (await tour.running.result()).status == "completed"
    tour.done.append((tour.other, "The end"))
    assert (await tour.client.get(tour.other)).archived
    assert await tour.active() == tour.new


async def archive(tour: Tour) -> None:
    assert (await tour.client.archive(tour.new)).archived
    assert await tour.active() == tour.home
    assert (await tour.client.archive(tour.home, CHANNEL)).archived
    assert await tour.active() is None
    with pytest.raises(SessionArchivedError):
        await tour.client.chat(tour.home, "Too late").result()


async def resolve_anew(tour: Tour) -> None:
    info = await tour.client.resolve(CHANNEL)
    assert info.created
    assert info.session_id not in (tour.home, tour.other, tour.new)
    assert (await tour.client.rotate(CHANNEL, title="New", request_id="rotate")).session_id == tour.new


async def list_all(tour: Tour) -> None:
    async def listed() -> bool:
        page = await tour.client.list_sessions(channel=CHANNEL, include_archived=True)
        return page.lag_events == 0 and page.total == 4

    await eventually_async(listed, "the snapshot has all four", 60.0)
    assert (await tour.client.list_sessions(channel=CHANNEL)).total == 1


Step = Callable[[Tour], Awaitable[None]]
STEPS: tuple[Step, ...] = (
    *(
        create,
        get,
        chat,
        read_history,
        update,
        resolve,
        create_another,
        chat_beside_the_active_one,
        start_a_turn,
        queue_another,
        be_refused,
    ),
    *(cancel_the_queued, cancel_the_running, ask_again, interrupt, enqueue, follow, hide),
    *(be_refused_an_erasure, choose_a_model),
    *(set_the_default_model, reset, compact, compact_again, start_a_last_turn, rotate, let_it_end, archive),
    *(resolve_anew, list_all),
)
#: These ask the channel; the others, the session ``home``.
OF_CHANNEL = {create, resolve, create_another, rotate, archive, resolve_anew}


def steps_with_a_kill() -> set[str]:
    """Before which steps a worker is killed."""
    names = [step.__name__ for step in STEPS]
    if os.environ.get("TOUR_KILLS") == "all":
        return set(names)
    return set(random.Random(SEED).sample(names, SAMPLED_KILLS))


@pytest.fixture
def deployment(broker: DevBroker, tmp_path: Path) -> Iterator[Deployment]:
    settings = {"publish_interval_s": "0.3", "snapshot_path": str(tmp_path / "snapshot.duckdb")}
    with Deployment(broker.bootstrap_server, tmp_path, partitions=6, **settings) as deployment:
        deployment.make_topics()
        yield deployment


class Workers:
    """Three workers; one that is killed is started again."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._running: dict[str, Process] = {}
        self.killed: list[str] = []
        for number in range(WORKERS):
            self._start(f"w{number}")
        for worker in self._running.values():
            until(lambda worker=worker: worker.ready, f"{worker.name} is ready", 120.0)  # type: ignore[misc]

    def _start(self, name: str) -> None:
        self._running[name] = self._deployment.worker(name)

    async def kill_owner_of(self, key: str) -> None:
        """SIGKILL for the worker whose claim is the newest in the key's partition."""
        partition = partition_of(key.encode(), self._deployment.settings.partitions)

        async def owners() -> list[str]:
            log = await self._deployment.accepted()
            return [e.payload.owner for e in log[partition] if isinstance(e.payload, ev.PartitionClaimed)]

        owner = (await eventually_async(owners, f"partition {partition} has an owner"))[-1]
        self._running[owner].kill()
        self.killed.append(owner)
        self._start(owner)


@pytest.mark.timeout(1800)
async def test_the_tour(deployment: Deployment) -> None:
    workers = Workers(deployment)
    deployment.start("materializer", "materialize")
    kills = steps_with_a_kill()
    async with Client(deployment.settings, resend_after_s=2.0) as client, AsyncExitStack() as turns:
        recorded = Recorded(client)
        tour = Tour(client=recorded, turns=turns)
        for step in STEPS:
            if step.__name__ in kills:
                await workers.kill_owner_of(CHANNEL if step in OF_CHANNEL or not tour.home else tour.home)
            try:
                async with asyncio.timeout(90):
                    await step(tour)
            except BaseException as error:
                error.add_note(f"step {step.__name__}; killed before {sorted(kills)}: {workers.killed}")
                raise
        assert len(workers.killed) == len(kills) >= SAMPLED_KILLS
        verbs = {name for name in dir(Client) if not name.startswith("_")} - {"aclose", "failure", "partition_count"}
        assert recorded.used == verbs
        await check(deployment, tour)


async def check(deployment: Deployment, tour: Tour) -> None:
    """Nothing is lost or twice: what was told to the tour is what the log holds."""
    log = [event for events in (await deployment.accepted()).values() for event in events]
    accepted = [e.header.turn_id for e in log if isinstance(e.payload, ev.TurnAccepted)]
    terminal = (ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled)
    ended = Counter(e.header.turn_id for e in log if isinstance(e.payload, terminal))
    assert ended == Counter(accepted), "every accepted turn ended once"
    completed = {e.header.turn_id for e in log if isinstance(e.payload, ev.TurnCompleted)}
    texts = [
        (e.header.stream_id, content_text(e.payload.content))
        for e in log
        if isinstance(e.payload, ev.TurnAccepted) and e.header.turn_id in completed
    ]
    assert Counter(texts) == Counter(tour.done)
    for session_id in (tour.home, tour.other, tour.new):
        stored = [
            e.payload for e in log if e.header.stream_id == session_id and isinstance(e.payload, ev.MessageStored)
        ]
        assert [message.message_seq for message in stored] == list(range(1, len(stored) + 1))
    opened = [e.payload.session_id for e in log if isinstance(e.payload, ev.ChannelSessionOpened)]
    assert len(opened) == len(set(opened)) == 4
