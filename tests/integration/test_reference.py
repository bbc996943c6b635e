"""docs/reference.md, done: every row on a real broker, through the client and on the command line, and every refusal.

What a row says is compared with what stands in the topics afterwards.
"""

import asyncio
import contextlib
import shlex
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from typer.testing import CliRunner

from tests.deployment import START_S, Deployment, partitions_of
from tests.reference_table import Row, operations, refusals
from turnlog import ChatTurn, Client, HistoryCompactionFailedError, RequestRefusedError
from turnlog.cli.app import app
from turnlog_schemas import events as ev
from turnlog_schemas.codec import Codec
from turnlog_schemas.commands import Forwarded, ForwardReceipt
from turnlog_schemas.events import CHANNEL, SESSION, EventHeader
from turnlog_schemas.frames import TERMINAL_FRAMES, FrameHeader, TurnStarted
from turnlog_schemas.parts import ClientTool, InitialMessage, NewSession, ToolCall, ToolOutput, text_content
from turnlog_schemas.registry import COMMANDS, EVENTS, FRAMES
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.kafka.connections import client_options

SLOW = "script:slow?tools=0&words=2000&delta_ms=20"
TERMINAL = (ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled)
ROWS = {row.operation: row for row in operations()}


@contextlib.contextmanager
def deployed(broker: DevBroker, folder: Path, **settings: str) -> Iterator[Deployment]:
    with Deployment(broker.bootstrap_server, folder, max_text_bytes="5000", **settings) as deployment:
        deployment.make_topics()
        deployment.ready_worker()
        yield deployment


@pytest.fixture(scope="module")
def stack(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(broker, tmp_path_factory.mktemp("reference"), seal_texts="true") as deployment:
        yield deployment


@pytest.fixture(scope="module")
def stack_without_summaries(broker: DevBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One whose summary model always fails."""
    with deployed(broker, tmp_path_factory.mktemp("failing"), fast_model="script:f?tools=0&fatal=true") as deployment:
        yield deployment


class Tail:
    """All that is in the topics, as far as it was read."""

    def __init__(self, stack: Deployment) -> None:
        self._topics = stack.topics
        options = client_options(stack.settings, "test-tail")
        self._consumer = AIOKafkaConsumer(**options, auto_offset_reset="earliest", fetch_max_wait_ms=20)
        self._requests, self._events, self._frames = Codec(COMMANDS), Codec(EVENTS), Codec(FRAMES)
        self.requests: list[Any] = []
        self.events: list[tuple[EventHeader, Any]] = []
        self.frames: list[tuple[FrameHeader, Any]] = []

    async def __aenter__(self) -> "Tail":
        await self._consumer.start()
        topics = (self._topics.requests, self._topics.events, self._topics.replies)
        self._partitions = [tp for topic in topics for tp in await partitions_of(self._consumer, topic)]
        self._consumer.assign(self._partitions)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def catch_up(self) -> None:
        end = await self._consumer.end_offsets(self._partitions)
        while any([await self._consumer.position(tp) < end[tp] for tp in self._partitions]):
            for tp, records in (await self._consumer.getmany(timeout_ms=100)).items():
                for record in records:
                    self._take(tp.topic, record.value)

    def _take(self, topic: str, value: bytes) -> None:
        if topic == self._topics.requests:
            self.requests.append(self._requests.decode(value)[1])
        elif topic == self._topics.events:
            self.events.append(self._events.decode(value))
        else:
            self.frames.append(self._frames.decode(value))

    async def settled(self) -> tuple[int, int, int]:
        """Read until every forward is delivered and every turn but the running ones is ended: how much there is."""
        deadline = time.monotonic() + START_S
        while True:
            await self.catch_up()
            kinds = [type(payload) for _, payload in self.events]
            if kinds.count(ev.CommandForwarded) == kinds.count(ev.ForwardDelivered):
                return len(self.requests), len(self.events), len(self.frames)
            assert time.monotonic() < deadline, "a forward is not delivered"

    async def answered(self, start: int, kind: str) -> None:
        """Read until a terminal frame of the kind comes, behind so many others."""
        deadline = time.monotonic() + START_S
        while True:
            await self.catch_up()
            answers = [frame for _, frame in self.frames[start:] if isinstance(frame, TERMINAL_FRAMES)]
            if kind in [type(frame).__name__ for frame in answers]:
                return
            assert time.monotonic() < deadline, f"no {kind}, but {answers}"

    async def ended(self) -> None:
        """Read until no turn is open."""
        deadline = time.monotonic() + START_S
        while True:
            await self.catch_up()
            kinds = [type(payload) for _, payload in self.events]
            if kinds.count(ev.TurnAccepted) + kinds.count(ev.ToolOutputsAccepted) == sum(
                kinds.count(kind) for kind in TERMINAL
            ):
                return
            assert time.monotonic() < deadline, "a turn is not ended"


@dataclass
class Scene:
    """Where an operation is done: a channel and a session of its own, and turns that are to be followed."""

    client: Client
    name: str
    session_id: str = ""
    turn_id: str = ""
    call_id: str = ""
    open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def started(self, text: str) -> ChatTurn:
        """A turn that runs, and would for long."""
        turn = await self.open.enter_async_context(self.client.chat(self.session_id, text, model=SLOW))
        async for reply in turn:
            if isinstance(reply.frame, TurnStarted):
                return turn
        raise AssertionError("it did not start")

    async def queued(self, text: str) -> ChatTurn:
        """A turn that waits."""
        turn = await self.open.enter_async_context(self.client.chat(self.session_id, text))
        self.turn_id = (await anext(turn)).header.turn_id or ""
        return turn


# ---- what is there before an operation


async def nothing(scene: Scene) -> None:
    scene.session_id = f"{scene.name}-0123abcd"


async def chatted(scene: Scene) -> None:
    await nothing(scene)
    await scene.client.chat(scene.session_id, "Hello").result()


async def chatted_in_channel(scene: Scene) -> None:
    await nothing(scene)
    new = NewSession(channel=scene.name)
    await scene.client.chat(scene.session_id, "Hello", new_session=new).result()


async def awaiting(scene: Scene) -> None:
    """The session's turn ended in a call that its client runs."""
    await nothing(scene)
    model, tools = "script:1?tools=0&client_calls=1", [ClientTool(name="look_up")]
    turn = await scene.client.chat(scene.session_id, "Look", model=model, tools=tools).result()
    (call,) = turn.pending_calls
    scene.call_id = call.call_id


async def ended(scene: Scene) -> None:
    await nothing(scene)
    scene.turn_id = (await scene.client.chat(scene.session_id, "Hello").result()).turn_id or ""


async def created(scene: Scene) -> None:
    scene.session_id = (await scene.client.create(scene.name)).session_id


async def overtaken(scene: Scene) -> None:
    scene.session_id = (await scene.client.create(scene.name, title="First")).session_id
    await scene.client.create(scene.name)


async def overtaking(scene: Scene) -> None:
    await scene.client.create(scene.name)
    scene.session_id = (await scene.client.create(scene.name)).session_id


async def above_its_limit(scene: Scene) -> None:
    """Ten times its limit: the next turn begins with a summary."""
    scene.session_id = (await scene.client.create(scene.name, title="Long", history_max_tokens=400)).session_id
    await scene.client.chat(scene.session_id, "word " * 990).result()


async def to_be_compacted(scene: Scene) -> None:
    """Two messages, and only the newest one stays as it is."""
    scene.session_id = (await scene.client.create(scene.name, history_keep_tail=0)).session_id
    await scene.client.chat(scene.session_id, "Hello").result()


async def compacted(scene: Scene) -> None:
    await to_be_compacted(scene)
    assert (await scene.client.compact(scene.session_id)).changed


async def running(scene: Scene) -> None:
    await chatted(scene)
    turn = await scene.started("Go")
    while (await anext(turn)).frame.__class__.__name__ != "TextDelta":
        continue


async def waiting(scene: Scene) -> None:
    await running(scene)
    await scene.queued("Later")


async def waiting_in_channel(scene: Scene) -> None:
    await chatted_in_channel(scene)
    await scene.started("Go")
    await scene.queued("Later")


Step = Callable[[Scene], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """How a row is done: what must be there, and the client's verb."""

    before: Step
    verb: Callable[[Scene], Awaitable[object]]


def chat(**options: Any) -> Step:
    return lambda scene: scene.client.chat(scene.session_id, "Hi", **options).result()


async def compact_in_vain(scene: Scene) -> None:
    with pytest.raises(HistoryCompactionFailedError):
        await scene.client.compact(scene.session_id)


async def ERASE(scene: Scene) -> None:
    await scene.client.erase(scene.session_id)


COMPACT = Operation(before=to_be_compacted, verb=lambda scene: scene.client.compact(scene.session_id))
CREATE = Operation(before=nothing, verb=lambda scene: scene.client.create(scene.name))
RESOLVE = Operation(before=nothing, verb=lambda scene: scene.client.resolve(scene.name))
ARCHIVE = Operation(before=created, verb=lambda scene: scene.client.archive(scene.session_id, scene.name))
BY_ITS_ID: Step = lambda scene: scene.client.archive(scene.session_id)  # noqa: E731
OPERATIONS: dict[str, Operation] = {
    "chat with a new session": Operation(before=nothing, verb=chat()),
    "chat with a new session of a channel": Operation(
        before=nothing,
        verb=lambda scene: scene.client.chat(
            scene.session_id, "Hi", new_session=NewSession(channel=scene.name)
        ).result(),
    ),
    "chat": Operation(before=chatted, verb=chat()),
    "first chat with a session that was created without a title": Operation(before=created, verb=chat()),
    "chat with a session that is not the active one": Operation(before=overtaken, verb=chat()),
    "chat that interrupts": Operation(before=running, verb=chat(on_busy="interrupt")),
    "chat with a history above its limit": Operation(before=above_its_limit, verb=chat()),
    "answer the calls of tools of one's own": Operation(
        before=awaiting,
        verb=lambda scene: scene.client.chat(
            scene.session_id, tool_outputs=[ToolOutput(call_id=scene.call_id, output="42")]
        ).result(),
    ),
    "hide a turn": Operation(before=ended, verb=lambda scene: scene.client.hide_turn(scene.session_id, scene.turn_id)),
    "send without waiting": Operation(before=chatted, verb=lambda scene: scene.client.enqueue(scene.session_id, "Hi")),
    "cancel the running turn": Operation(before=running, verb=lambda scene: scene.client.cancel(scene.session_id)),
    "cancel a queued turn": Operation(
        before=waiting, verb=lambda scene: scene.client.cancel(scene.session_id, scene.turn_id)
    ),
    "update a session": Operation(before=chatted, verb=lambda scene: scene.client.update(scene.session_id, title="Hi")),
    "erase a session": Operation(before=chatted, verb=ERASE),
    "erase a session of a channel": Operation(before=created, verb=ERASE),
    "reset the runner": Operation(before=chatted, verb=lambda scene: scene.client.reset_runner(scene.session_id)),
    "get": Operation(before=chatted, verb=lambda scene: scene.client.get(scene.session_id)),
    "history": Operation(before=chatted, verb=lambda scene: scene.client.history(scene.session_id)),
    "compact the history": COMPACT,
    "compact a history whose summary says it all": Operation(before=compacted, verb=COMPACT.verb),
    "compact a short history": Operation(before=chatted, verb=COMPACT.verb),
    "bring a summary of the history": Operation(
        before=chatted, verb=lambda scene: scene.client.compact(scene.session_id, summary="They met.", to_seq=1)
    ),
    "compact the history when the model fails": Operation(before=to_be_compacted, verb=compact_in_vain),
    "create": CREATE,
    "create beside an active session": Operation(before=created, verb=CREATE.verb),
    "resolve a channel without an active session": RESOLVE,
    "resolve": Operation(before=created, verb=RESOLVE.verb),
    "rotate": Operation(before=created, verb=lambda scene: scene.client.rotate(scene.name)),
    "archive a session of no channel": Operation(before=chatted, verb=BY_ITS_ID),
    "archive a session of a channel by its id": Operation(before=created, verb=BY_ITS_ID),
    "archive": ARCHIVE,
    "archive with a queued turn": Operation(before=waiting_in_channel, verb=ARCHIVE.verb),
    "archive the active one of two": Operation(before=overtaking, verb=ARCHIVE.verb),
    "active session of a channel": Operation(before=created, verb=lambda scene: scene.client.active(scene.name)),
}


LEAVES_A_TURN = {"cancel a queued turn", "archive with a queued turn"}
FAILS = {"HistoryCompactionFailed"}  #: terminal frames whose commands end with exit code 1


def on_the_command_line(row: Row, scene: Scene, stack: Deployment) -> None:
    """Run the row's command line, its capitals filled in."""
    values = {"SESSION": scene.session_id, "CHANNEL": scene.name, "TURN": scene.turn_id, "TEXT": "Hi", "NUMBER": "1"}
    values["CALL=TEXT"] = f"{scene.call_id}=42"
    words = [values.get(word, word) for word in shlex.split(row.command_line)]
    assert words.pop(0) == "turnlog"
    where = ["-b", stack.settings.bootstrap_server, "--prefix", stack.settings.prefix, "--json"]
    result = CliRunner().invoke(app, [*words, *where])
    fails = row.frame in FAILS
    assert result.exit_code == (1 if fails else 0), result.output
    assert result.stdout.count("\n") == (0 if fails else 1), result.output


def test_every_row_can_be_done() -> None:
    assert set(OPERATIONS) == set(ROWS)


@pytest.mark.parametrize("face", ["client", "command line"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_row_is_true(request: pytest.FixtureRequest, operation: str, face: str) -> None:
    row, how = ROWS[operation], OPERATIONS[operation]
    stack: Deployment = request.getfixturevalue("stack_without_summaries" if row.frame in FAILS else "stack")
    async with Client(stack.settings) as client:
        scene = Scene(client=client, name=f"op{list(OPERATIONS).index(operation)}{face[:2]}")
        await check_row(row, how, scene, stack, face)


async def check_row(row: Row, how: Operation, scene: Scene, stack: Deployment, face: str) -> None:
    async with Tail(stack) as tail, scene.open:
        await how.before(scene)
        requests, events, frames = await tail.settled()
        if face == "client":
            await how.verb(scene)
            assert row.client in how.verb.__code__.co_names
        else:
            await asyncio.to_thread(on_the_command_line, row, scene, stack)
        await tail.answered(frames, row.frame)
        if row.operation not in LEAVES_A_TURN:
            await tail.ended()
        await tail.settled()

        asked = [command for command in tail.requests[requests:] if not isinstance(command, Forwarded | ForwardReceipt)]
        assert [type(command).__name__ for command in asked] == [row.command]
        found = tail.events[events:]
        for kind, expected in ((SESSION, row.session_events), (CHANNEL, row.channel_events)):
            assert {type(payload).__name__ for header, payload in found if header.stream_kind == kind} == expected
        if row.operation in LEAVES_A_TURN:
            await scene.client.cancel(scene.session_id)


# ---- refusals


async def refused_chat(scene: Scene, **options: Any) -> None:
    await scene.client.chat(scene.session_id, options.pop("text", "Hi"), **options).result()


async def archived(scene: Scene) -> None:
    await created(scene)
    await scene.client.archive(scene.session_id)


def used_before(verb: Callable[..., Awaitable[object]]) -> Step:
    """The verb under the request id of another one."""

    async def step(scene: Scene) -> None:
        await scene.client.resolve(scene.name, title="another", request_id="used")
        await verb(scene, request_id="used")

    return step


async def used_by_a_chat(scene: Scene) -> None:
    await scene.client.chat(scene.session_id, "Hello", request_id="used").result()


async def chat_conflict(scene: Scene) -> None:
    await used_by_a_chat(scene)
    await refused_chat(scene, request_id="used")


async def two_calls_one_output(scene: Scene) -> None:
    calls = tuple(ToolCall(call_id=call_id, name="look_up", arguments="{}") for call_id in ("a", "b"))
    said = (
        InitialMessage(role="user", content=text_content("Look twice.")),
        InitialMessage(role="assistant", tool_calls=calls),
    )
    output = ToolOutput(call_id="a", output="1")
    await refused_chat(scene, text=(), new_session=NewSession(messages=said), tool_outputs=[output])


async def hide_conflict(scene: Scene) -> None:
    await used_by_a_chat(scene)
    await scene.client.hide_turn(scene.session_id, of_request="used", request_id="used")


async def update_conflict(scene: Scene) -> None:
    await used_by_a_chat(scene)
    await scene.client.update(scene.session_id, title="Hi", request_id="used")


async def erase_conflict(scene: Scene) -> None:
    await used_by_a_chat(scene)
    await scene.client.erase(scene.session_id, request_id="used")


async def update_twice_too_much(scene: Scene) -> None:
    for first in (0, 200):
        metadata = {f"name{number}": "1" for number in range(first, first + 200)}
        await scene.client.update(scene.session_id, metadata=metadata)


async def cancel_conflict(scene: Scene) -> None:
    await used_by_a_chat(scene)
    await scene.client.cancel(scene.session_id, request_id="used")


async def busy(scene: Scene) -> None:
    await scene.started("Go")
    try:
        await refused_chat(scene, on_busy="reject")
    finally:
        await scene.client.cancel(scene.session_id)


async def compact_conflict(scene: Scene) -> None:
    await used_by_a_chat(scene)
    await scene.client.compact(scene.session_id, request_id="used")


async def compact_busy(scene: Scene) -> None:
    """A turn that runs, and more requests behind it than may wait: those that wait are not answered yet."""
    await scene.started("Go")
    asked = [asyncio.ensure_future(scene.client.compact(scene.session_id)) for _ in range(13)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=START_S)
    await scene.client.cancel(scene.session_id)
    await asyncio.gather(*asked, return_exceptions=True)
    for request in done:
        await request


FORBIDDEN = {"model": "openai:gpt"}
PROVOKED: dict[tuple[str, str], tuple[Step, Step]] = {
    ("Chat", "archived"): (archived, refused_chat),
    ("Chat", "busy"): (nothing, busy),
    ("Chat", "empty_text"): (nothing, lambda scene: refused_chat(scene, text=" \n")),
    ("Chat", "too_long"): (nothing, lambda scene: refused_chat(scene, text="x" * 5001)),
    ("Chat", "model_not_allowed"): (
        nothing,
        lambda scene: refused_chat(scene, new_session=NewSession(model="openai:gpt")),
    ),
    ("Chat", "conflict"): (nothing, chat_conflict),
    ("Chat", "not_newest"): (chatted, lambda scene: refused_chat(scene, after_turn="t-0-99999")),
    ("Chat", "not_waiting"): (
        chatted,
        lambda scene: refused_chat(scene, text=(), tool_outputs=[ToolOutput(call_id="c", output="1")]),
    ),
    ("Chat", "unknown_call"): (
        awaiting,
        lambda scene: refused_chat(scene, text=(), tool_outputs=[ToolOutput(call_id="c", output="1")]),
    ),
    ("Chat", "missing_outputs"): (nothing, two_calls_one_output),
    ("HideTurn", "not_found"): (chatted, lambda scene: scene.client.hide_turn(scene.session_id, "t-0-99999")),
    ("HideTurn", "conflict"): (nothing, hide_conflict),
    ("UpdateSession", "not_found"): (nothing, lambda scene: scene.client.update(scene.session_id, title="Hi")),
    ("UpdateSession", "archived"): (archived, lambda scene: scene.client.update(scene.session_id, title="Hi")),
    ("UpdateSession", "model_not_allowed"): (chatted, lambda scene: scene.client.update(scene.session_id, **FORBIDDEN)),
    ("UpdateSession", "too_long"): (chatted, update_twice_too_much),
    ("UpdateSession", "conflict"): (nothing, update_conflict),
    ("EraseSession", "not_found"): (nothing, lambda scene: scene.client.erase(scene.session_id)),
    ("EraseSession", "not_sealed"): (chatted, lambda scene: scene.client.erase(scene.session_id)),
    ("EraseSession", "conflict"): (nothing, erase_conflict),
    ("CancelTurn", "not_found"): (nothing, lambda scene: scene.client.cancel(scene.session_id)),
    ("CancelTurn", "not_running"): (chatted, lambda scene: scene.client.cancel(scene.session_id)),
    ("CancelTurn", "conflict"): (nothing, cancel_conflict),
    ("ResetRunner", "not_found"): (nothing, lambda scene: scene.client.reset_runner(scene.session_id)),
    ("GetSession", "not_found"): (nothing, lambda scene: scene.client.get(scene.session_id)),
    ("GetHistory", "not_found"): (nothing, lambda scene: scene.client.history(scene.session_id)),
    ("CompactHistory", "not_found"): (nothing, lambda scene: scene.client.compact(scene.session_id)),
    ("CompactHistory", "archived"): (archived, lambda scene: scene.client.compact(scene.session_id)),
    ("CompactHistory", "busy"): (nothing, compact_busy),
    ("CompactHistory", "wrong_range"): (
        chatted,
        lambda scene: scene.client.compact(scene.session_id, summary="They met.", to_seq=2),
    ),
    ("CompactHistory", "conflict"): (nothing, compact_conflict),
    ("CreateSession", "exists"): (
        created,
        lambda scene: scene.client.create(scene.name, session_id=scene.session_id),
    ),
    ("CreateSession", "model_not_allowed"): (nothing, lambda scene: scene.client.create(scene.name, **FORBIDDEN)),
    ("CreateSession", "conflict"): (nothing, used_before(lambda s, **id: s.client.create(s.name, **id))),
    ("ResolveSession", "model_not_allowed"): (created, lambda scene: scene.client.resolve(scene.name, **FORBIDDEN)),
    ("ResolveSession", "conflict"): (nothing, used_before(lambda s, **id: s.client.resolve(s.name, **id))),
    ("RotateSession", "model_not_allowed"): (nothing, lambda scene: scene.client.rotate(scene.name, **FORBIDDEN)),
    ("RotateSession", "conflict"): (nothing, used_before(lambda s, **id: s.client.rotate(s.name, **id))),
    ("ArchiveSession", "not_found"): (nothing, lambda scene: scene.client.archive(scene.session_id, scene.name)),
    ("ArchiveSession", "conflict"): (
        created,
        used_before(lambda s, **id: s.client.archive(s.session_id, s.name, **id)),
    ),
    ("ActiveSession", "not_found"): (archived, lambda scene: scene.client.active(scene.name)),
}


def test_every_refusal_can_be_provoked() -> None:
    assert set(PROVOKED) == set(refusals())


@pytest.mark.parametrize(("command", "code"), PROVOKED)
async def test_a_refusal_is_as_it_says(request: pytest.FixtureRequest, command: str, code: str) -> None:
    before, step = PROVOKED[command, code]
    in_the_clear = code == "not_sealed"
    stack: Deployment = request.getfixturevalue("stack_without_summaries" if in_the_clear else "stack")
    async with Client(stack.settings) as client:
        scene = Scene(client=client, name=f"no{list(PROVOKED).index((command, code))}")
        await check_refusal(before, step, scene, stack, command, code)


async def check_refusal(before: Step, step: Step, scene: Scene, stack: Deployment, command: str, code: str) -> None:
    async with Tail(stack) as tail, scene.open:
        await before(scene)
        requests, _, _ = await tail.settled()
        with pytest.raises(RequestRefusedError) as caught:
            await step(scene)
        assert caught.value.code == code
        await tail.catch_up()
        assert command in [type(each).__name__ for each in tail.requests[requests:]]
