"""Failure stays where it happens: one request, one turn or one stream, never the partition that it is in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

import turnlog_streams.folding.fold
import turnlog_workers.shard.run_ahead
import turnlog_workers.store.memory_store
from tests.one_partition import OnePartition
from tests.waiting import eventually
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.commands import CompactHistory, CreateSession, EraseSession, GetSession
from turnlog_schemas.parts import Usage, text_content
from turnlog_streams.folding.fold import FoldError, StreamName, evolve_stream, fold, folded
from turnlog_streams.policy import ErasurePolicy
from turnlog_streams.session.commands import CompleteTurn, RecordMessage
from turnlog_streams.session.decide import decide
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.base.shared_look import SharedLook
from turnlog_workers.intake import bounded_retry
from turnlog_workers.runners.base import AssistantMessage, RunnerOutput, TextDelta, TurnInput
from turnlog_workers.sessions.history_compactor import UnrecordableError
from turnlog_workers.sessions.session_actor import SessionActor
from turnlog_workers.sessions.turn_attempt import TurnAttempt
from turnlog_workers.shard import partition, saver
from turnlog_workers.shard.channel_in_memory import ChannelInMemory
from turnlog_workers.shard.residency import Resident
from turnlog_workers.shard.serving import Serving
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.store.memory_store import MemoryStore, MemoryStores
from turnlog_workers.store.port import DamagedStoreError, NoRoomError, StoreError, UnreadableStoreError

SECRET = "what the user wrote"


async def slow(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
    """Says something, and ends when it is stopped."""
    yield TextDelta(text="a")
    await asyncio.Event().wait()


def failing_for(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """As the original, but for one stream."""

    def fails(first: Any, *args: Any, **kwargs: Any) -> Any:
        names = (first, getattr(first, "stream_id", None), getattr(first, "session_id", None))
        if name in names:
            raise KeyError(SECRET)
        return original(first, *args, **kwargs)

    return fails


# ---- taking over


async def saved_after(world: OnePartition, kind: type[fr.Frame], *names: str) -> None:
    """A turn of each session came as far as this frame, and the store has all of it."""
    for name in names:
        world.chat(name, f"{name}-1")
        await world.answer(f"{name}-1", kind)
    assert world.shard.serving is not None
    await world.shard.serving.save()


async def in_the_middle_of_their_turns(world: OnePartition, *names: str) -> None:
    await saved_after(world, fr.TurnStarted, *names)


@pytest.mark.parametrize(
    "defect",
    [
        lambda: patch.object(turnlog_workers.store.memory_store, "folded", failing_for("bad", folded)),
        lambda: patch.object(turnlog_workers.shard.run_ahead, "decide", failing_for("bad", decide)),
        lambda: patch.object(Serving, "_actor", _no_actor_for_bad),
    ],
    ids=["it cannot be loaded", "its turn cannot be resumed", "its turn cannot be started"],
)
async def test_a_session_that_fails_at_a_takeover_is_set_aside_and_the_others_go_on(
    defect: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with OnePartition(play=slow) as world:
        await in_the_middle_of_their_turns(world, "good", "bad", "fine")
        with defect():
            await world.take_over()
            claims = world.claims
            await eventually(lambda: len(world.made) == 5, "the turns of the two others go on")
            world.chat("bad", "bad-2")
            refused = await world.answer("bad-2", fr.RequestRefused)
            assert refused.code == "set_aside"
            assert "session bad is set aside by its worker: " in refused.reason
            assert SECRET not in refused.reason
            world.chat("new", "new-1")
            await world.answer("new-1", fr.TurnStarted)
            assert world.claims == claims, "the partition is not released"
        assert sum("bad" in line and "set aside" in line for line in caplog.messages) == 1
        assert SECRET not in caplog.text, "an error's text may hold a message's"
        accepted = len(world.log.of(ev.TurnAccepted))
        await world.take_over()
        world.chat("bad", "bad-3")
        await world.answer("bad-3", fr.TurnAccepted)
        assert len(world.log.of(ev.TurnAccepted)) == accepted + 1
        assert world.fatal == []


@pytest.mark.parametrize("error", [NoRoomError, StoreError, UnreadableStoreError])
async def test_a_store_that_cannot_be_read_for_a_moment_at_a_takeover_costs_no_session_its_answers(
    error: type[StoreError],
) -> None:
    original, failures = Resident.find, 0

    async def fails_once(self: Resident, *args: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise error("simulated: it cannot be read")
        return await original(self, *args)

    async with OnePartition() as world:
        await saved_after(world, fr.TurnCompleted, "s")
        told = len(world.sender.to("s-1"))
        with (
            patch.object(Resident, "find", fails_once),
            patch.object(partition, "_AGAIN", Backoff(first_s=0.01, max_s=0.01)),
            patch.object(partition, "_NO_ROOM_AGAIN", Backoff(first_s=0.01, max_s=0.01)),
        ):
            await world.take_over()
            await eventually(lambda: len(world.sender.to("s-1")) > told, "what may not have been heard is said again")
        assert failures > 1
        world.chat("s", "s-2")
        await world.answer("s-2", fr.TurnCompleted)
        assert world.fatal == []


@pytest.mark.parametrize(
    ("order", "code"), [(("good", "bad"), "set_aside"), (("bad", "good"), "undecidable")], ids=["owed", "not owed"]
)
async def test_a_session_that_stays_unreadable_in_a_new_store_is_refused_and_the_others_go_on(
    order: tuple[str, str], code: str
) -> None:
    """Whether an answer of it is owed at the takeover or not."""
    original = Resident.find

    async def fails_for_bad(self: Resident, stream: Any, *args: Any) -> Any:
        if stream.stream_id == "bad":
            raise UnreadableStoreError("simulated: it cannot be read")
        return await original(self, stream, *args)

    async with OnePartition() as world:
        await saved_after(world, fr.TurnCompleted, *order)
        with patch.object(Resident, "find", fails_for_bad), patch.object(partition, "_AGAIN", Backoff(0.01, 0.01)):
            await world.take_over()
            world.chat("bad", "bad-2")
            assert (await world.answer("bad-2", fr.RequestRefused)).code == code
            world.chat("good", "good-2")
            await world.answer("good-2", fr.TurnCompleted)
        assert world.fatal == []


def _no_actor_for_bad(self: Serving, live: SessionInMemory, actor: Any = Serving._actor) -> SessionActor:
    if live.stream_id == "bad":
        raise KeyError(SECRET)
    return actor(self, live)  # type: ignore[no-any-return]


KEPT = ErasurePolicy(requests_kept_ms=1, replies_kept_ms=1, dead_letters_kept_ms=1, key_kept_ms=1)


@pytest.mark.parametrize(
    "defect",
    [
        lambda: patch.object(turnlog_workers.shard.run_ahead, "decide", failing_for("bad", decide)),
        lambda: patch.object(Serving, "_actor", _no_actor_for_bad),
    ],
    ids=["its turn cannot be resumed", "its turn cannot be started"],
)
async def test_a_session_that_is_set_aside_is_erased_all_the_same(defect: Callable[[], Any]) -> None:
    async with OnePartition(play=slow) as world:
        world.policy = replace(world.policy, erasure=KEPT)
        await in_the_middle_of_their_turns(world, "bad")
        with defect():
            await world.take_over()
            world.chat("bad", "bad-2")
            assert (await world.answer("bad-2", fr.RequestRefused)).code == "set_aside"
            world.ask(EraseSession(), "erase-it", session_id="bad")
            await world.answer("erase-it", fr.SessionErased)
            world.chat("bad", "bad-3")
            assert (await world.answer("bad-3", fr.RequestRefused)).code == "erased"
        assert len(world.log.of(ev.TurnCancelled)) == len(world.log.of(ev.TurnAccepted)) == 1, "its turn has ended"
        await world.take_over()
        world.ask(EraseSession(), "erase-it", session_id="bad")
        await eventually(lambda: len(world.sender.to("erase-it")) > 1, "the receipt is given again")
        assert len(world.log.of(ev.SessionErased)) == 1
        assert world.fatal == []


async def test_erasing_a_session_whose_state_cannot_be_read_says_how_it_can_be() -> None:
    async with OnePartition(play=slow) as world:
        world.policy = replace(world.policy, erasure=KEPT)
        await in_the_middle_of_their_turns(world, "bad")
        with patch.object(turnlog_workers.store.memory_store, "folded", failing_for("bad", folded)):
            await world.take_over()
            world.ask(EraseSession(), "erase-it", session_id="bad")
            refused = await world.answer("erase-it", fr.RequestRefused)
        assert refused.code == "set_aside"
        assert "delete that partition's file in the worker's data directory" in refused.reason
        assert world.log.of(ev.SessionErased) == []
        world.chat("good", "good-1")  # an event says that the refused request is done with
        await world.answer("good-1", fr.TurnStarted)
        world.stores = world.context.stores = MemoryStores()
        await world.take_over()
        world.ask(EraseSession(), "erase-it-2", session_id="bad")
        await world.answer("erase-it-2", fr.SessionErased)


async def test_an_answer_that_cannot_be_made_again_keeps_no_other_from_being_sent() -> None:
    async with OnePartition() as world:
        world.sender.state = None
        for name in ("bad", "good"):
            world.chat(name, f"{name}-1")
            await world.answer(f"{name}-1", fr.TurnCompleted)
        world.sender.replies.clear()
        with patch.object(SessionInMemory, "answer_of", failing_for("bad", SessionInMemory.answer_of)):
            await world.take_over()
            claims = world.claims
            await world.answer("good-1", fr.TurnCompleted)
            assert world.claims == claims


async def test_a_store_that_cannot_be_read_at_a_takeover_is_made_anew_from_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its file is damaged: what is in it is in the log."""
    monkeypatch.setattr(partition, "_AGAIN", Backoff(0.01, 0.01))
    async with OnePartition() as world:
        await saved_after(world, fr.TurnCompleted, "s")
        fresh: list[str] = []
        open_fresh, unfinished = MemoryStores.open_fresh, MemoryStore.unfinished

        async def made_anew(self: MemoryStores, partition: int, reason: str) -> MemoryStore:
            fresh.append(reason)
            return await open_fresh(self, partition, reason)

        async def unreadable(self: MemoryStore) -> list[StreamName]:
            if not fresh:
                raise UnreadableStoreError("block 7 is damaged")
            return await unfinished(self)

        monkeypatch.setattr(MemoryStores, "open_fresh", made_anew)
        monkeypatch.setattr(MemoryStore, "unfinished", unreadable)
        await world.take_over()
        await eventually(lambda: fresh, "it is made anew")
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnCompleted)
        assert len(world.log.of(ev.TurnAccepted)) == 1, "the same request is known"
        assert len(fresh) == 1


async def test_a_secret_s_file_that_is_not_there_for_a_moment_is_not_the_store_s_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each new client reads it. Three failures in a row would have the store made anew."""
    monkeypatch.setattr(partition, "_AGAIN", Backoff(0.01, 0.01))
    async with OnePartition() as world:
        await saved_after(world, fr.TurnCompleted, "s")
        append, failures = world.log.append, 0

        async def cannot(*what: Any) -> int:
            nonlocal failures
            failures += 1
            if failures <= 5:
                raise SettingsError("TURNLOG_SASL_PASSWORD_FILE: it cannot be read")
            return await append(*what)

        monkeypatch.setattr(world.log, "append", cannot)
        with patch.object(MemoryStores, "open_fresh") as made_anew:
            await world.take_over()
            world.chat("s", "s-2")
            await world.answer("s-2", fr.TurnCompleted)
        made_anew.assert_not_called()
        assert world.context.counts.releases["log"] == 5


@pytest.mark.parametrize("shows", ["write", "rest"])
async def test_a_store_that_turns_out_to_be_damaged_while_it_serves_is_made_anew_at_once(
    monkeypatch: pytest.MonkeyPatch, shows: str
) -> None:
    """As at a checkpoint: nothing that is asked of the partition needs the block."""
    monkeypatch.setattr(saver, "_UPKEEP_INTERVAL_S", 0.01)
    fresh: list[str] = []
    open_fresh, works = MemoryStores.open_fresh, getattr(MemoryStore, shows)

    async def made_anew(self: MemoryStores, partition: int, reason: str) -> MemoryStore:
        fresh.append(reason)
        return await open_fresh(self, partition, reason)

    async def damaged(self: MemoryStore, *args: Any) -> Any:
        if len(fresh) < 2:
            raise DamagedStoreError("block 7 is damaged")
        return await works(self, *args)

    async with OnePartition() as world:
        world.context.limits = replace(world.context.limits, idle_timeout_s=0.0, store_commit_interval_s=0.0)
        await world.take_over()
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnCompleted)
        monkeypatch.setattr(partition, "_AGAIN", Backoff(3600, 3600))  # or nobody would see that it is at once
        monkeypatch.setattr(MemoryStores, "open_fresh", made_anew)
        monkeypatch.setattr(MemoryStore, shows, damaged)
        world.chat("s", "s-2")
        await eventually(lambda: len(fresh) == 2, "it is made anew, and so is the one that is damaged then")
        await eventually(lambda: world.shard.serving is not None, "it is served")
        world.chat("s", "s-1")
        await world.answer("s-2", fr.TurnCompleted)
        assert len(world.log.of(ev.TurnAccepted)) == 2, "the same request is known"


async def test_a_store_that_is_damaged_again_and_again_is_made_anew_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saver, "_UPKEEP_INTERVAL_S", 0.01)
    monkeypatch.setattr(partition, "_AGAIN", Backoff(0.01, 0.01))
    made = 0
    open_fresh = MemoryStores.open_fresh

    async def made_anew(self: MemoryStores, partition: int, reason: str) -> MemoryStore:
        nonlocal made
        made += 1
        return await open_fresh(self, partition, reason)

    async def damaged(self: MemoryStore, *_: Any) -> Any:
        raise DamagedStoreError("block 7 is damaged")

    monkeypatch.setattr(MemoryStores, "open_fresh", made_anew)
    async with OnePartition() as world:
        monkeypatch.setattr(MemoryStore, "write", damaged)
        await world.shard.stop()
        world.shard = partition.Shard(world.context, 0)
        world.shard.start()
        await eventually(lambda: world.context.counts.releases["failure"] > 8, "it goes on trying")
    assert made == 3


async def test_an_event_that_cannot_be_folded_marks_its_stream_and_no_other() -> None:
    async with OnePartition() as world:
        for name in ("good", "bad"):
            world.chat(name, f"{name}-1")
            await world.answer(f"{name}-1", fr.TurnCompleted)
        world.stores._data.clear()
        claims = world.claims
        with patch.object(turnlog_streams.folding.fold, "evolve_stream", _not_for_bad):
            await world.take_over()
            world.chat("bad", "bad-2")
            assert (await world.answer("bad-2", fr.RequestRefused)).code == "newer_version"
            world.chat("good", "good-2")
            await world.answer("good-2", fr.TurnCompleted)
        assert world.claims == claims + 1


def _not_for_bad(state: Any, fact: Any) -> Any:
    if isinstance(fact.event, ev.TurnStarted) and getattr(state, "session_id", "") == "bad":
        raise ZeroDivisionError
    return evolve_stream(state, fact)


async def test_a_log_that_has_a_hole_in_one_stream_is_served_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """First it may be the store: it is made anew. If the log is so, the stream is marked."""
    monkeypatch.setattr(partition, "_AGAIN", Backoff(0.01, 0.01))
    async with OnePartition() as world:
        for name in ("good", "bad"):
            world.chat(name, f"{name}-1")
            await world.answer(f"{name}-1", fr.TurnCompleted)
        await world.shard.stop()
        log = world.log.records
        of_bad = [index for index, logged in enumerate(log) if logged.header.stream_id == "bad"]
        lost = next(index for index in of_bad if isinstance(log[index].payload, ev.SessionCreated))
        events = [logged for logged in log if logged.offset != lost]
        with pytest.raises(FoldError):
            fold(events, {})
        world.stores._data.clear()
        original = MemoryStore.write

        async def with_a_hole(self: MemoryStore, events: Any, position: Any) -> Any:
            return await original(self, [e for e in events if e.offset != lost], position)

        monkeypatch.setattr(MemoryStore, "write", with_a_hole)
        await world.take_over()
        world.chat("bad", "bad-2")
        assert (await world.answer("bad-2", fr.RequestRefused)).code == "newer_version"
        world.chat("good", "good-2")
        await world.answer("good-2", fr.TurnCompleted)


# ---- serving


async def test_a_request_that_cannot_be_decided_is_parked_and_its_sender_is_told() -> None:
    async with OnePartition() as world:
        with (
            patch.object(SessionInMemory, "decide", failing_for("bad", SessionInMemory.decide)),
            patch.object(ChannelInMemory, "decide", failing_for("bad", ChannelInMemory.decide)),
        ):
            world.chat("good", "good-1")
            world.chat("bad", "bad-1")
            world.ask(CreateSession(), "bad-2", channel="bad")
            world.chat("good", "good-2")
            for request_id in ("bad-1", "bad-2"):
                refused = await world.answer(request_id, fr.RequestRefused)
                assert (refused.code, refused.reason) == ("undecidable", "deciding it failed twice: KeyError")
            await world.answer("good-2", fr.TurnCompleted)
        assert [offset for offset, _, _ in world.sender.parked] == [1, 2]
        assert [letter.offset for letter in world.log.of(ev.RequestDeadLettered)] == [1, 2]
        told = {reply.request_id: (reply.session_id, reply.channel) for _, reply, _ in world.sender.replies}
        assert told["bad-2"] == ("", "bad")
        await eventually(lambda: world.acked == [0, 1, 2, 3], "all are acknowledged")
        assert world.claims == 1


async def test_an_answer_to_a_question_that_fails_is_a_refusal() -> None:
    async with OnePartition() as world:
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnCompleted)
        with patch.object(SessionInMemory, "_answer_query", failing_for("s", SessionInMemory._answer_query)):
            world.ask(GetSession(), "s-2", session_id="s")
            assert (await world.answer("s-2", fr.RequestRefused)).code == "undecidable"
        world.ask(GetSession(), "s-3", session_id="s")
        await world.answer("s-3", fr.SessionInfo)
        assert len(world.sender.parked) == 1


async def test_an_outcome_that_cannot_be_recorded_is_its_actor_s_problem_and_leaves_no_trace() -> None:
    def encoding(payload: Any) -> None:
        if isinstance(payload, ev.MessageStored) and payload.role == "assistant":
            raise TypeError("not a message")

    async with OnePartition(play=slow, max_batch_records=5) as world:
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnStarted)
        world.log.encoding = encoding
        (started,) = [logged for logged in world.log.records if isinstance(logged.payload, ev.TurnStarted)]
        turn_id = started.header.turn_id or ""
        serving = world.shard.serving
        assert serving is not None
        before = serving.resident.sessions["s"].state, len(serving.resident.sessions["s"].history)

        def message(seq: int) -> RecordMessage:
            return RecordMessage(
                turn_id=turn_id, attempt=1, message_seq=seq, role="assistant", content=text_content("x")
            )

        with pytest.raises(UnrecordableError, match="TypeError"):
            await serving.submit("s", [message(2)])
        world.log.encoding = lambda payload: None
        with pytest.raises(UnrecordableError, match="bytes"):
            await serving.submit("s", [message(seq) for seq in range(2, 9)])
        with (
            patch.object(turnlog_workers.shard.run_ahead, "decide", failing_for("s", decide)),
            pytest.raises(UnrecordableError),
        ):
            await serving.submit("s", [message(2)])
        live = serving.resident.sessions["s"]
        assert (live.state, len(live.history)) == before
        await serving.submit("s", [message(2), CompleteTurn(turn_id=turn_id, attempt=1, usage=Usage(), duration_ms=1)])
        await world.answer("s-1", fr.TurnCompleted)
        assert world.claims == 1


@pytest.mark.parametrize("recordable", [True, False], ids=["its end is recorded", "not even its end can be"])
async def test_a_turn_whose_task_dies_ends_and_its_session_goes_on_or_is_set_aside(recordable: bool) -> None:
    """Whatever in the actor raises: nobody waits for it, so nobody would hear of it."""

    async def dies(self: SessionActor, attempt: TurnAttempt, failures: int) -> None:
        raise ZeroDivisionError(SECRET)

    def encoding(payload: Any) -> None:
        if isinstance(payload, ev.TurnFailed):
            raise TypeError(SECRET)

    async with OnePartition() as world:
        if not recordable:
            world.log.encoding = encoding
        with patch.object(SessionActor, "_run", dies):
            world.chat("s", "s-1")
            await world.answer("s-1", fr.TurnStarted)
            if recordable:
                failed = await world.answer("s-1", fr.TurnFailed)
                assert failed.code == "internal_error"
                assert "ZeroDivisionError" in failed.reason
                assert SECRET not in failed.reason
            else:
                serving = world.shard.serving
                assert serving is not None
                await eventually(lambda: serving.resident.sessions["s"].set_aside, "it is set aside")
        world.log.encoding = lambda payload: None
        world.chat("neighbour", "n-1")
        await world.answer("n-1", fr.TurnCompleted)
        world.chat("s", "s-2")
        await world.answer("s-2", fr.TurnCompleted if recordable else fr.RequestRefused)
        assert world.claims == 1


async def test_a_history_compaction_that_dies_is_answered() -> None:
    async def dies(self: SessionActor, request: Any) -> None:
        raise ZeroDivisionError(SECRET)

    async with OnePartition() as world:
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnCompleted)
        with patch.object(SessionActor, "_compact", dies):
            world.ask(CompactHistory(), "s-2", session_id="s")
            assert (await world.answer("s-2", fr.HistoryCompactionFailed)).code == "internal_error"
        world.chat("s", "s-3")
        await world.answer("s-3", fr.TurnCompleted)


async def test_a_frame_that_cannot_be_made_does_not_stop_its_partition_and_its_reader_is_told() -> None:
    def making(frame: Any) -> None:
        if isinstance(frame, fr.TurnCompleted | fr.TurnStarted):
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed")

    async with OnePartition() as world:
        world.sender.making = making
        world.chat("s", "s-1")
        assert (await world.answer("s-1", fr.RequestRefused)).code == "unsendable"
        world.sender.making = lambda frame: None
        world.chat("s", "s-2")
        await world.answer("s-2", fr.TurnCompleted)
        assert world.claims == 1


async def test_the_partition_waits_for_a_store_that_is_far_behind_and_is_not_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = True
    original = MemoryStore.write

    async def write(self: MemoryStore, *what: Any) -> Any:
        if full:
            raise StoreError("the disk is full")
        return await original(self, *what)

    async with OnePartition() as world:
        monkeypatch.setattr(MemoryStore, "write", write)
        monkeypatch.setattr("turnlog_workers.shard.serving._MAX_UNSAVED_COMMITS", 0)
        monkeypatch.setattr("turnlog_workers.shard.serving._SAVE_AGAIN", Backoff(0.01, 0.01))
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnAccepted)
        full = False
        await world.answer("s-1", fr.TurnCompleted)
        assert world.claims == 1


async def test_a_cancellation_that_nobody_asked_for_does_not_end_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's future that was cancelled raises it in whoever waits."""
    monkeypatch.setattr(partition, "_AGAIN", Backoff(0.01, 0.01))
    async with OnePartition() as world:
        bounds = world.log.bounds

        async def cancelled_once(partition: int) -> tuple[int, int]:
            world.log.bounds = bounds  # type: ignore[method-assign]
            of_a_library: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
            of_a_library.cancel()
            return await of_a_library

        world.log.bounds = cancelled_once  # type: ignore[method-assign]
        await world.take_over()
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnCompleted)


async def test_what_runs_goes_on_while_a_dead_letter_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_retry, "_AGAIN", Backoff(0.01, 0.01))
    go_on = asyncio.Event()

    async def waits(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield TextDelta(text="a")
        await go_on.wait()
        yield AssistantMessage(content=text_content("b"))

    async with OnePartition(play=waits) as world:
        world.chat("s", "s-1")
        await world.answer("s-1", fr.TurnStarted)
        world.sender.broken = True
        world.deliver("s", b"garbage")
        world.chat("s", "s-2")
        await eventually(lambda: world.sender.tries > 6, "it is tried again and again")
        go_on.set()
        await world.answer("s-1", fr.TurnCompleted)
        assert not world.sender.to("s-2"), "requests are decided in their order"
        world.sender.broken = False
        await world.answer("s-2", fr.TurnCompleted)
        assert [offset for offset, _, _ in world.sender.parked] == [1]
        assert [letter.offset for letter in world.log.of(ev.RequestDeadLettered)] == [1]
        assert world.claims == 1, "the partition was not released"


async def test_what_runs_goes_on_while_somebody_looks_for_new_schemas() -> None:
    go_on, looked = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        looked.set()
        await go_on.wait()

    async with OnePartition() as world:
        world.context.schemas = SharedLook(look, known=lambda name: False, now=asyncio.get_running_loop().time)
        world.chat("s", "s-1")
        world.deliver("s", b"\xc3\x01" + b"12345678" + b"x" * 20)
        world.chat("s", "s-2")
        await looked.wait()
        serving = world.shard.serving
        assert serving is not None
        await serving.submit("s", [])  # decided and confirmed, whoever looks
        go_on.set()
        for request_id in ("s-1", "s-2"):
            await world.answer(request_id, fr.TurnCompleted)
        assert [code for _, code, _ in world.sender.parked] == ["unknown_fingerprint"]


# ---- bounds and forwards


async def test_requests_that_wait_for_turns_to_end_are_taken_then() -> None:
    go_on = asyncio.Event()

    async def waits(turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        yield TextDelta(text="a")
        await go_on.wait()
        yield AssistantMessage(content=text_content("b"))

    async with OnePartition(play=waits, max_queued_turns=1) as world:
        world.chat("s0", "r0")
        await world.answer("r0", fr.TurnStarted)
        for number in range(1, 4):
            world.chat(f"s{number}", f"r{number}")
        await eventually(lambda: world.context.waiting_for_turns, "the shard waits")
        go_on.set()
        for number in range(4):
            await world.answer(f"r{number}", fr.TurnCompleted)


async def test_whoever_waits_for_turns_of_other_partitions_is_woken() -> None:
    async with OnePartition(max_queued_turns=10) as world:
        parts, turns = world.context, 10
        woken: list[str] = []

        def wakes() -> None:
            woken.append("woken")

        parts.open_turns = lambda: turns
        assert not parts.may_take_requests(wakes)
        assert not parts.may_take_requests(wakes)
        parts.turns_may_have_ended()
        assert not woken
        turns = 9
        parts.turns_may_have_ended()
        parts.turns_may_have_ended()
        assert woken == ["woken"]
        assert parts.may_take_requests(wakes)


async def test_what_is_decided_but_not_confirmed_is_not_forwarded() -> None:
    async with OnePartition(max_batch_records=4) as world:
        world.log.hold_from = 3  # the claim, the first group, and no more
        for number in (1, 2):
            world.ask(CreateSession(), f"c-{number}", channel="mail", session_id=f"mail-{number}")
        await eventually(lambda: world.log.appends == 3, "the second group is on its way")
        assert {header.session_id for header, _ in world.sender.requests} == {"mail-1"}
        world.log.go_on.set()
        await eventually(lambda: len({h.session_id for h, _ in world.sender.requests}) == 2, "the second one, too")
