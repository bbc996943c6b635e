"""Groups that the broker refuses: taken back, decided again in smaller ones, until the guilty decision is alone."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from turnlog_schemas.commands import Chat
from turnlog_schemas.events import EventHeader, RequestRefused, TurnAccepted
from turnlog_schemas.parts import ReplyAddress, text_content
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import Refuse
from turnlog_streams.session.commands import AcceptChat
from turnlog_streams.session.state import Session
from turnlog_workers.base.ports import LogError, NewRecord, RecordsRefusedError
from turnlog_workers.shard.group_commit import GroupCommit
from turnlog_workers.shard.run_ahead import Decision, Group, RunAhead
from turnlog_workers.shard.session_in_memory import SessionInMemory

RECORD_BYTES = 100


class Encoder:
    """An event log that only encodes; a text makes a record as long."""

    def encode(self, header: EventHeader, payload: Any, key: bytes, trace: Any = ()) -> NewRecord:
        size = RECORD_BYTES + (len(payload.content[0].text or "") if isinstance(payload, TurnAccepted) else 0)
        return NewRecord(header=header, payload=payload, key=key, value=None, size_bytes=size)


class World:
    """Run-ahead decisions, and a log that takes batches up to a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 0.0
        self.log: list[NewRecord] = []
        self.tried: list[int] = []
        self.done: list[str] = []
        self.refused: list[str] = []
        self.sessions = {name: SessionInMemory(Session(session_id=name)) for name in ("a", "b", "c")}
        self.run_ahead = RunAhead(
            Encoder(),  # type: ignore[arg-type]
            0,
            epoch=7,
            accepted=-1,
            replied=lambda: -1,
            policy=Policy,
            now_ms=lambda: 0,
            max_batch_bytes=1_000_000,
        )
        self.commit = GroupCommit(self.run_ahead, self._commit, now=lambda: self.now, partition=0)

    async def _commit(self, group: Group) -> None:
        size = sum(record.size_bytes for record in group.records)
        self.tried.append(size)
        if size > self.limit:
            raise RecordsRefusedError("too long")
        self.log += group.records
        for done in group.done:
            done()

    def chat(self, offset: int, name: str, text: str = "x") -> None:
        live = self.sessions[name]
        command = AcceptChat(
            request_id=f"r{offset}",
            command_hash="h",
            turn_id=f"t{offset}",
            chat=Chat(content=text_content(text)),
            reply=ReplyAddress(),
        )
        self.run_ahead.request(offset, live, command)
        self.run_ahead.groups[-1].done.append(partial(self.done.append, f"r{offset}"))
        self.run_ahead.note(Decision(partial(self._again, offset, name, text), partial(self._refuse, offset, name)))

    async def _again(self, offset: int, name: str, text: str) -> None:
        self.chat(offset, name, text)

    async def _refuse(self, offset: int, name: str, error: RecordsRefusedError) -> None:
        self.refused.append(f"r{offset}")
        refusal = Refuse(
            request_id=f"r{offset}", command_hash="h", code="too_long", reason=str(error), reply=ReplyAddress()
        )
        self.run_ahead.request(offset, self.sessions[name], refusal)

        async def give_up(error: RecordsRefusedError) -> None:
            raise error

        self.run_ahead.note(Decision(partial(self._refuse, offset, name, error), give_up))

    def numbers(self) -> list[int]:
        return [record.header.n for record in self.log]


def run(world: World, *steps: Callable[[World], None]) -> None:
    async def all_of_it() -> None:
        for step in steps:
            step(world)
        await world.commit.everything()

    asyncio.run(all_of_it())


def chats(*of: tuple[int, str, str]) -> Callable[[World], None]:
    def step(world: World) -> None:
        for offset, name, text in of:
            world.chat(offset, name, text)

    return step


MANY = [(n, "abc"[n % 3], "x") for n in range(30)]


def test_many_short_decisions_get_through_a_log_that_takes_little() -> None:
    world, easy = World(limit=800), World(limit=1_000_000)
    run(world, chats(*MANY))
    run(easy, chats(*MANY))
    assert world.done == easy.done == [f"r{n}" for n in range(30)]
    assert not world.refused
    assert world.numbers() == list(range(len(easy.log)))
    told = [(record.header.stream_id, record.header.stream_version, record.payload) for record in world.log]
    assert told == [(record.header.stream_id, record.header.stream_version, record.payload) for record in easy.log]
    assert max(record.header.accepted for record in world.log) == 29
    assert {name: live.state for name, live in world.sessions.items()} == {
        name: live.state for name, live in easy.sessions.items()
    }
    assert {name: live.history for name, live in world.sessions.items()} == {
        name: live.history for name, live in easy.sessions.items()
    }
    assert world.run_ahead.open_turns == easy.run_ahead.open_turns == 30


def test_the_guilty_one_is_found_and_what_comes_after_it_does_not_know_it() -> None:
    guilty = [(n, name, "x" * 5000 if n == 10 else text) for n, name, text in MANY]
    world = World(limit=1000)
    run(world, chats(*guilty))
    assert world.refused == ["r10"]
    assert world.done == [f"r{n}" for n in range(30) if n != 10]
    refusals = [record.payload for record in world.log if isinstance(record.payload, RequestRefused)]
    assert [refused.request_id for refused in refusals] == ["r10"]
    assert world.numbers() == list(range(len(world.log)))
    assert [record.header.accepted for record in world.log] == sorted(record.header.accepted for record in world.log)
    versions = [record.header.stream_version for record in world.log if record.header.stream_id == "b"]
    assert versions == list(range(1, len(versions) + 1))
    assert "t10" not in world.sessions["b"].state.turns
    assert world.run_ahead.open_turns == 29


def test_groups_stay_small_for_a_while_only() -> None:
    world = World(limit=800)
    run(world, chats(*MANY))
    world.tried.clear()
    run(world, chats(*[(n + 30, name, text) for n, name, text in MANY]))
    assert max(world.tried) <= 800
    world.now, world.limit = 100.0, 1_000_000
    run(world, chats((60, "a", "x")))
    world.tried.clear()
    run(world, chats(*[(n + 61, name, text) for n, name, text in MANY]))
    assert len(world.tried) == 1


def test_a_log_that_takes_not_even_a_refusal_ends_the_epoch() -> None:
    world = World(limit=50)
    with pytest.raises(LogError, match="too long"):
        run(world, chats((0, "a", "x")))
    assert not world.log
