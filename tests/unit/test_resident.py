"""The reaper: idle and dead runners are closed, and what nobody uses leaves memory once the store has it."""

import asyncio
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tests.histories import History, summary
from tests.one_session import LIMITS, OneSession, answers
from tests.waiting import eventually
from turnlog_schemas.parts import ToolCall, text_content
from turnlog_streams.folding.fold import StreamName
from turnlog_streams.history.compaction import HistoryCompactionState
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.policy import Policy
from turnlog_streams.reader_rule import LogPosition
from turnlog_streams.session.commands import ResumeTurn
from turnlog_streams.session.state import Session
from turnlog_workers.shard.idle_memory import IdleMemory
from turnlog_workers.shard.residency import Resident
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.store.port import LoadedStream, Saved, StoreError

IDLE_S = 10.0


@dataclass
class Shelf:
    """A store that has some sessions, up to a log offset."""

    position: LogPosition = field(default_factory=lambda: LogPosition(next_offset=100))
    loads: list[list[StreamName]] = field(default_factory=list)
    forgotten: list[StreamName] = field(default_factory=list)
    rests: int = 0
    failing: bool = False

    async def forget(self, names: list[StreamName]) -> None:
        self.forgotten += names

    async def rest(self) -> None:
        if self.failing:
            raise StoreError("the disk is full")
        self.rests += 1

    async def load(self, names: list[StreamName]) -> dict[StreamName, LoadedStream]:
        self.loads.append(list(names))
        return {
            name: LoadedStream(state=Session(session_id=name[1], version=3), last_offset=7)
            for name in names
            if name[0] == "session"
        }


class Memory:
    """The sessions of a partition, and a clock."""

    def __init__(self, idle_memory: IdleMemory | None = None) -> None:
        self.now = 0.0
        self.limits = SimpleNamespace(idle_timeout_s=IDLE_S, max_idle_sessions=3, max_idle_bytes=1_000_000)
        self.shelf = Shelf()
        parts: Any = SimpleNamespace(now=lambda: self.now, limits=self.limits, idle_memory=idle_memory or IdleMemory())
        self.resident = Resident(parts, self.shelf)  # type: ignore[arg-type]

    async def with_a_turn(self, name: str = "s") -> OneSession:
        """A session that has had a turn, and holds its runner."""
        session = OneSession(main=answers, limits=LIMITS)
        await session.say("Hello")
        session.live.state = Session(session_id=name)  # nothing is owed
        session.live.last_offset = 7
        session.live.last_used = self.now
        self.resident.sessions[name] = session.live
        return session


async def test_an_idle_runner_is_closed_and_its_session_found_again() -> None:
    memory = Memory()
    session = await memory.with_a_turn()
    memory.now = IDLE_S - 1
    await memory.resident.reap()
    assert session.runners[0].alive
    memory.now = IDLE_S + 1
    await memory.resident.reap()
    assert not session.runners[0].alive
    assert not memory.resident.sessions
    await memory.resident.use([("session", "s")])
    assert memory.resident.sessions["s"].state.version == 3


async def test_a_dead_runner_is_closed_before_its_session_is_idle() -> None:
    memory = Memory()
    session = await memory.with_a_turn()
    session.runners[0].alive = False
    session.runners[0].closed = 0
    await memory.resident.reap()
    assert session.runners[0].closed == 1
    assert "s" in memory.resident.sessions
    assert not session.actor.runner_is_dead


async def test_what_the_store_has_not_stays_but_its_runner_goes() -> None:
    memory = Memory()
    session = await memory.with_a_turn()
    session.live.last_offset = 100
    memory.now = IDLE_S + 1
    await memory.resident.reap()
    assert memory.resident.sessions["s"] is session.live
    assert not session.runners[0].alive
    memory.shelf.position = LogPosition(next_offset=101)
    await memory.resident.reap()
    assert not memory.resident.sessions


async def test_of_idle_sessions_only_so_many_stay_and_those_that_were_used_last() -> None:
    memory = Memory()
    sessions = {}
    for name in ("used first", "not stored", "at work", "b", "c", "used last"):
        memory.now += 0.5
        sessions[name] = await memory.with_a_turn(name)
    sessions["not stored"].live.last_offset = 100
    at_work = asyncio.create_task(asyncio.Event().wait())
    sessions["at work"].actor._tasks.add(at_work)  # type: ignore[arg-type]
    await memory.resident.reap()
    assert set(memory.resident.sessions) == {"not stored", "at work", "b", "c", "used last"}
    assert memory.shelf.forgotten == [("session", "used first")]
    assert not sessions["used first"].runners[0].alive
    assert all(session.runners[0].alive for name, session in sessions.items() if name != "used first")
    at_work.cancel()


async def test_of_what_idle_sessions_hold_only_so_much_stays_and_those_that_were_used_last() -> None:
    memory = Memory()
    sessions = {}
    for name in ("used first", "not stored", "used last"):
        memory.now += 0.5
        sessions[name] = await memory.with_a_turn(name)
    sessions["not stored"].live.last_offset = 100
    await memory.resident.reap()
    assert set(memory.resident.sessions) == set(sessions)
    text = text_content("x" * 600_000)
    sessions["used last"].live.history.append(
        HistoryMessage(message_seq=3, turn_id="t", role="user", content=text)  # as big as it may be with the others
    )
    await memory.resident.reap()
    assert set(memory.resident.sessions) == set(sessions)
    sessions["not stored"].live.history.append(HistoryMessage(message_seq=3, turn_id="t", role="user", content=text))
    await memory.resident.reap()
    assert set(memory.resident.sessions) == {"not stored"}
    assert memory.shelf.forgotten == [("session", "used first"), ("session", "used last")]


async def test_partitions_share_what_idle_sessions_may_hold() -> None:
    shared = IdleMemory()
    one, other = Memory(shared), Memory(shared)
    for memory in (one, other):
        for name in ("a", "b"):
            memory.now += 0.5
            await memory.with_a_turn(name)
    held = one.resident.sessions["a"].held_bytes
    for memory in (one, other):
        memory.limits.max_idle_bytes = 3 * held
    await other.resident.reap()
    await one.resident.reap()  # what is over is its own: both hold more than half
    assert (len(one.resident.sessions), len(other.resident.sessions)) == (1, 2)
    await other.resident.reap()
    assert len(other.resident.sessions) == 2  # it may have what the other one leaves
    one.resident.close()  # its partition is another worker's
    await other.with_a_turn("c")
    await other.resident.reap()
    assert len(other.resident.sessions) == 3


def test_what_a_session_holds_follows_its_history() -> None:
    def message(seq: int, text: str) -> HistoryMessage:
        call = ToolCall(call_id="c", name="look", arguments="y" * 10_000)
        calls = (call,) if seq == 2 else ()
        return HistoryMessage(message_seq=seq, turn_id="t", role="user", content=text_content(text), tool_calls=calls)

    session = SessionInMemory(Session(session_id="s"), [message(1, "x" * 50_000)])
    alone = session.held_bytes
    assert 50_000 < alone < 60_000
    session.history.append(message(2, "x" * 20_000))
    assert 80_000 < session.held_bytes - alone + 50_000 < 82_000
    del session.history[1:]
    assert session.held_bytes == alone
    session.history.append(message(3, "x" * 20_000))
    more = session.held_bytes
    del session.history[1:]  # a decision that failed, and the next one
    session.history.append(message(3, "x" * 40_000))
    assert session.held_bytes - more == 20_000


def test_what_a_session_holds_is_more_than_its_history() -> None:
    session = SessionInMemory(Session(session_id="s"))
    alone = session.held_bytes
    said = summary(2, "é" * 70_000)
    session.state = Session(
        session_id="s",
        title="t" * 100,
        instructions="i" * 30_000,
        metadata={"user": "u" * 5_000},
        history_compaction=HistoryCompactionState(summary=said),
    )
    assert 105_100 < session.held_bytes - alone < 105_500


async def turns_of_others(sessions: int, messages: int) -> int:
    """While one partition counts so many sessions with so many messages each."""
    memory = Memory()
    said = History().user("x").messages
    for number in range(sessions):
        name = f"s{number}"
        memory.resident.sessions[name] = SessionInMemory(Session(session_id=name), said * messages)
    memory.limits.max_idle_sessions, memory.limits.max_idle_bytes = sessions, 1_000_000_000
    reaping, turns = asyncio.create_task(memory.resident.reap()), 0
    while not reaping.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_others_have_their_turn_while_sessions_are_counted() -> None:
    alone = await turns_of_others(1, 1)
    assert await turns_of_others(5, 1_000) == alone + 2
    assert await turns_of_others(5, 100) == alone


async def test_what_is_at_work_again_when_all_are_counted_counts_no_longer() -> None:
    shared = IdleMemory()
    memory = Memory(shared)
    said = History().user("x" * 100).messages
    for name in ("first", "second"):
        memory.now += 0.5
        memory.resident.sessions[name] = SessionInMemory(Session(session_id=name), said * 2_000)
        memory.resident.sessions[name].last_offset, memory.resident.sessions[name].last_used = 7, memory.now
    memory.limits.max_idle_bytes = 3_000_000
    reaping = asyncio.create_task(memory.resident.reap())
    await asyncio.sleep(0)
    await memory.resident.use([("session", "first")])
    await reaping
    assert set(memory.resident.sessions) == {"first", "second"}, "the idle one has room"
    assert sum(shared._held.values()) == memory.resident.sessions["second"].held_bytes


def test_an_erased_session_holds_none_of_its_texts() -> None:
    session = SessionInMemory(Session(session_id="s"))
    (message,) = History().user("secret").messages
    nobody = sys.getrefcount(message)
    session.history.append(message)
    assert session.held_bytes
    assert session.history_fits(Policy())
    assert sys.getrefcount(message) > nobody
    session._replace_history([])
    assert sys.getrefcount(message) == nobody


async def test_who_is_gone_leaves_nothing_behind() -> None:
    memory = Memory()
    await memory.with_a_turn()
    memory.resident.saved({("session", "s"): Saved(0, 3, 2), ("channel", "gone"): Saved(1, 1, 0)})
    await memory.resident.reap()
    assert set(memory.resident._saved) == {("session", "s")}
    memory.now = IDLE_S + 1
    await memory.resident.reap()
    assert memory.resident._saved == {}


async def test_the_store_rests_once_nobody_is_left_and_again_after_somebody_came() -> None:
    memory = Memory()
    await memory.with_a_turn()
    await memory.resident.reap()
    assert memory.shelf.rests == 0
    memory.now = IDLE_S + 1
    memory.shelf.failing = True
    with pytest.raises(StoreError):
        await memory.resident.reap()
    memory.shelf.failing = False
    await memory.resident.reap()
    await memory.resident.use([])
    await memory.resident.reap()
    assert memory.shelf.rests == 1
    await memory.resident.use([("session", "s")])
    memory.resident.release()
    await memory.resident.reap()
    assert memory.shelf.rests == 1
    memory.now = 3 * IDLE_S
    await memory.resident.reap()
    assert memory.shelf.rests == 2


async def test_slow_runners_do_not_wait_for_each_other() -> None:
    memory = Memory()
    all_closing = asyncio.Barrier(3)
    closed = []

    class SlowToClose:
        alive = True

        async def aclose(self) -> None:
            await all_closing.wait()
            closed.append(self)

    for name in ("a", "b", "c"):
        session = await memory.with_a_turn(name)
        session.actor._runner = SlowToClose()  # type: ignore[assignment]
    memory.now = IDLE_S + 1
    await memory.resident.reap()
    assert len(closed) == 3
    assert not memory.resident.sessions
    for name in ("a", "b", "c"):
        session = await memory.with_a_turn(name)
        session.actor._runner = SlowToClose()  # type: ignore[assignment]
        session.actor._runner.alive = False  # type: ignore[misc]
    await memory.resident.reap()
    assert len(closed) == 6
    assert len(memory.resident.sessions) == 3


async def test_what_is_at_work_or_in_use_stays() -> None:
    memory = Memory()
    session = await memory.with_a_turn()
    await memory.resident.use([("session", "s")])
    memory.now = IDLE_S + 1
    await memory.resident.reap()
    assert session.runners[0].alive, "a step decides on it"
    memory.resident.release()
    release = asyncio.Event()
    session.live.state = Session(session_id="s", version=1, exists=True)

    async def hold() -> None:
        await release.wait()

    session.actor._task(hold(), "a turn", lambda why: ResumeTurn(turn_id="t", attempt=1))
    await memory.resident.reap()
    assert session.runners[0].alive, "its actor is busy"
    release.set()
    await eventually(lambda: not session.live.busy, "at rest")
    await memory.resident.reap()
    assert not session.runners[0].alive


async def test_cold_sessions_are_loaded_in_batches() -> None:
    memory = Memory()
    await memory.resident.use([("session", f"s{number}") for number in range(450)])
    assert [len(batch) for batch in memory.shelf.loads] == [200, 200, 50]
