"""Requests that were answered long ago: their answers have left the state, and a retry finds them all the same."""

from dataclasses import replace
from unittest.mock import patch

import pytest

from tests.one_partition import OnePartition
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.commands import CompactHistory, CreateSession, GetHistory, ResolveSession
from turnlog_streams.history.compaction import HistoryCompactionPolicy
from turnlog_workers.store.memory_store import MemoryStore


@pytest.fixture(autouse=True)
def few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("session", "channel"):
        monkeypatch.setattr(f"turnlog_streams.{module}.state.KEPT_ANSWERS", 2)


async def turns(world: OnePartition, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        world.chat("s", f"s-{number}", f"question {number}")
        await world.answer(f"s-{number}", fr.TurnCompleted)


async def asked_again(world: OnePartition, number: int) -> None:
    """The same request is the same turn, another one under its id is a conflict."""
    accepted = len(world.log.of(ev.TurnAccepted))
    world.sender.replies.clear()
    world.chat("s", f"s-{number}", f"question {number}")
    await world.answer(f"s-{number}", fr.TurnCompleted)
    world.sender.replies.clear()
    world.chat("s", f"s-{number}", "something else")
    assert (await world.answer(f"s-{number}", fr.RequestRefused)).code == "conflict"
    assert len(world.log.of(ev.TurnAccepted)) == accepted


async def test_unsaved_saved_and_after_a_takeover() -> None:
    async with OnePartition() as world:
        await turns(world, 6)
        assert world.shard.serving is not None
        assert len(world.shard.serving.resident.sessions["s"].state.answers.settled) <= 3
        await asked_again(world, 0)
        await world.shard.serving.save()
        await asked_again(world, 1)
        await turns(world, 3, first=6)
        await asked_again(world, 2)
        await world.take_over()
        await asked_again(world, 3)
        await asked_again(world, 7)


async def test_a_new_request_of_a_session_with_few_answers_asks_the_store_for_nothing() -> None:
    async with OnePartition() as world:
        with patch.object(MemoryStore, "look_up") as look_up:
            await turns(world, 2)
            assert world.shard.serving is not None
            await world.shard.serving.save()
            await turns(world, 1, first=2)
        assert look_up.call_count == 0


async def test_many_requests_are_looked_up_together() -> None:
    async with OnePartition() as world:
        await turns(world, 4)
        assert world.shard.serving is not None
        await world.shard.serving.save()
        await turns(world, 1, first=4)
        asked: list[int] = []
        original = MemoryStore.look_up

        async def look_up(self: MemoryStore, wanted: list[object]) -> object:
            asked.append(len(wanted))
            return await original(self, wanted)  # type: ignore[arg-type]

        with patch.object(MemoryStore, "look_up", look_up):
            for number in range(20):
                world.chat("s", f"more-{number}")
            await world.answer("more-19", fr.TurnCompleted)
        assert len(asked) < 5


async def test_the_sessions_of_a_channel() -> None:
    async with OnePartition() as world:
        for number in range(6):
            world.ask(CreateSession(), f"create-{number}", channel="web", session_id=f"web-{number}")
            await _decided(world, f"create-{number}")
            if number == 3:
                assert world.shard.serving is not None
                await world.shard.serving.save()
        opened = len(world.log.of(ev.ChannelSessionOpened))
        for number in (0, 2, 4):
            world.sender.replies.clear()
            world.ask(CreateSession(), f"again-{number}", channel="web", session_id=f"web-{number}")
            assert (await world.answer(f"again-{number}", fr.RequestRefused)).code == "exists"
        await world.take_over()
        world.ask(CreateSession(), "again-1", channel="web", session_id="web-1")
        assert (await world.answer("again-1", fr.RequestRefused)).code == "exists"
        world.ask(ResolveSession(), "resolve", channel="web")
        await _decided(world, "resolve")
        assert len(world.log.of(ev.ChannelSessionOpened)) == opened


async def _decided(world: OnePartition, request_id: str) -> None:
    from tests.waiting import eventually

    def decided() -> bool:
        return any(event.request_id == request_id for event in world.log.of(ev.RequestDecided))

    await eventually(decided, f"{request_id} is decided", 60)


# ---- messages that a summary covers


async def compacted(world: OnePartition) -> None:
    """Six turns, of which a summary covers all but the end; what is not shown to models is not held any more."""
    await turns(world, 6)
    world.ask(CompactHistory(), "compact", session_id="s")
    await world.answer("compact", fr.HistoryCompacted)
    serving = world.shard.serving
    assert serving is not None
    await serving.save()
    world.chat("s", "s-6")
    await world.answer("s-6", fr.TurnCompleted)
    held = serving.resident.sessions["s"].history
    assert len(held) < 14
    assert held[-1].message_seq == 14


async def whole_history(world: OnePartition, request_id: str, count: int) -> None:
    after, seqs, pages = 0, [], 0
    while True:
        pages += 1
        world.ask(GetHistory(after=after, limit=5), f"{request_id}-{pages}", session_id="s")
        page = await world.answer(f"{request_id}-{pages}", fr.HistoryPage)
        assert len(page.messages) <= 5
        seqs += [message.message_seq for message in page.messages]
        if page.next_after is None:
            break
        after = page.next_after
    assert seqs == list(range(1, count + 1))


async def test_old_texts_and_pages_come_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    async with OnePartition() as world:
        world.policy = replace(world.policy, history=HistoryCompactionPolicy(max_tokens=100_000, keep_tail=2))
        await compacted(world)
        await whole_history(world, "page", 14)
        world.sender.replies.clear()
        world.chat("s", "s-0", "question 0")
        again = await world.answer("s-0", fr.TurnCompleted)
        assert again.text.startswith("answer 1 ")
        world.chat("s", "s-7")
        await world.answer("s-7", fr.TurnCompleted)
        await world.take_over()
        await whole_history(world, "later", 16)
        world.sender.replies.clear()
        world.chat("s", "s-1", "question 1")
        assert (await world.answer("s-1", fr.TurnCompleted)).text.startswith("answer 2 ")
