"""What every store must do: DuckDB files, and the one in memory that tests and the simulation use."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.event_logs import LogWriter, accepted_batches, random_log, write_on
from turnlog_schemas import events as ev
from turnlog_schemas.parts import Usage
from turnlog_streams.channel.decide import channel_answer_needs, known_channel_answer
from turnlog_streams.channel.frames import channel_replies_to, channel_reply_again
from turnlog_streams.channel.state import Channel, evolve_channel
from turnlog_streams.facts import Fact
from turnlog_streams.folding.fold import FoldError, StreamName, StreamState, evolve_stream, waits
from turnlog_streams.folding.rows import Unanswered
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_streams.session.needs import answer_needs, known_answer
from turnlog_streams.session.state import Session
from turnlog_workers.store.memory_store import MemoryStores
from turnlog_workers.store.partition_store import StoreDirectory
from turnlog_workers.store.port import FoundRows, PartitionStore, PartitionStores, StoreError, WantedRows


@pytest.fixture(params=["memory", "duckdb"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PartitionStores]:
    made: PartitionStores = (
        MemoryStores() if request.param == "memory" else StoreDirectory(tmp_path, deployment="cluster/chat")
    )
    yield made
    await made.close()


async def fill(store: PartitionStore, log: LogWriter, size: int) -> None:
    for events, position in accepted_batches(log.records, size, store.position):
        await store.write(events, position)


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_gives_back_what_the_fold_says(stores: PartitionStores, size: int) -> None:
    for seed in (1,) if size == 1 else (1, 2, 3, 4):
        log = random_log(seed, 150, partition=seed)
        store = await stores.open(seed)
        await fill(store, log, size)
        assert await store.load([*log.streams, (ev.SESSION, "never")]) == log.expected()
        for name in log.streams:
            assert await store.load([name]) == {name: log.expected()[name]}
        assert await store.load([]) == {}
        ((_, position),) = accepted_batches(log.records, 10_000)
        assert store.position == position


async def test_many_sessions_in_one_call(stores: PartitionStores) -> None:
    log = random_log(7, 600, sessions=80)
    store = await stores.open(0)
    await fill(store, log, 100)
    assert len(log.sessions) > 70
    assert await store.load(log.streams) == log.expected()


async def test_a_fresh_store_is_empty(stores: PartitionStores) -> None:
    store = await stores.open(4)
    assert store.position == LogPosition()
    assert await store.load([(ev.SESSION, "s")]) == {}
    assert await store.unfinished() == []
    assert await store.unanswered() == []


@pytest.mark.parametrize("size", [1, 50])
async def test_unfinished_streams_longest_wait_first(stores: PartitionStores, size: int) -> None:
    log = random_log(11, 300, sessions=12, zombies=False)
    store = await stores.open(0)
    await fill(store, log, size)
    states: dict[StreamName, StreamState] = {}
    waits_since: dict[StreamName, int] = {}
    for record in log.records:
        header = record.header
        name = header.stream_kind, header.stream_id
        if header.stream_kind == ev.PARTITION or type(record.payload) not in ev.EVENTS:
            continue
        new = Session(session_id=name[1]) if header.stream_kind == ev.SESSION else Channel(channel=name[1])
        fact = Fact(event=record.payload, turn_id=header.turn_id, attempt=header.attempt)
        states[name] = evolve_stream(states.get(name, new), fact)
        if waits(states[name]):
            waits_since.setdefault(name, record.offset)
        else:
            waits_since.pop(name, None)
    assert {kind for kind, _ in waits_since} == {ev.SESSION, ev.CHANNEL}
    assert await store.unfinished() == sorted(waits_since, key=lambda name: waits_since[name])


async def test_unanswered_requests_in_log_order(stores: PartitionStores) -> None:
    log = random_log(18, 400, zombies=False)
    store = await stores.open(0)
    await fill(store, log, 50)
    sent = store.position.replied
    assert sent > 0
    assert await store.unanswered() == [entry for entry in unanswered(log) if entry.log_offset > sent]


async def test_what_is_answered_last_is_forgotten_as_it_is_sent(stores: PartitionStores) -> None:
    log = random_log(18, 400, zombies=False)
    store = await stores.open(0)
    nothing_sent = [replace(record, header=replace(record.header, replied=-1)) for record in log.records]
    for events, position in accepted_batches(nothing_sent, 50):
        await store.write(events, position)
    expected = unanswered(log)
    assert await store.unanswered() == expected
    streams = await store.load(log.streams)
    for waiting in expected:
        request = (waiting.request_id, waiting.command_hash)
        state = streams[waiting.kind, waiting.stream_id].state
        if isinstance(state, Session):
            rows = log.rows_of_sessions[waiting.stream_id]
            assert known_answer(state, *request, rows.find(partial(answer_needs, state, *request))) is not None
        else:
            found = log.rows(waiting.stream_id).find(partial(channel_answer_needs, state, *request))
            answer = known_channel_answer(state, *request, found)
            assert answer is not None
            assert channel_reply_again(state, answer, waiting.request_id, answer.reply, found) is not None
    middle = expected[len(expected) // 2].log_offset
    end = replace(store.position, next_offset=store.position.next_offset + 1, replied=middle)
    await store.write([], end)
    assert await store.unanswered() == [entry for entry in expected if entry.log_offset > middle]


def unanswered(log: LogWriter) -> list[Unanswered]:
    """What every event of the log answers, as the frames that are sent for it tell."""
    found: list[Unanswered] = []

    def note(record: LoggedEvent, request_id: str, command_hash: str) -> None:
        place = sum(entry.log_offset == record.offset for entry in found)
        stream = record.header.stream_kind, record.header.stream_id
        found.append(Unanswered(record.offset, place, *stream, request_id, command_hash))

    turn_begins = ev.TurnAccepted | ev.ToolOutputsAccepted
    accepted: dict[str | None, ev.TurnAccepted | ev.ToolOutputsAccepted] = {}
    owed: dict[tuple[str, str | None], ev.HistoryCompactionRequested] = {}
    channels: dict[str, Channel] = {}
    hashes: dict[tuple[str, str], str] = {}
    archives: dict[tuple[str, str], tuple[ev.RequestDecided, set[int]]] = {}
    for record in log.records:
        header, payload = record.header, record.payload
        if header.stream_kind == ev.CHANNEL:
            fact = Fact(event=payload)
            channel = channels.get(header.stream_id, Channel(channel=header.stream_id))
            if isinstance(payload, ev.RequestDecided):
                hashes[header.stream_id, payload.request_id] = payload.command_hash
            for reply in channel_replies_to(channel, fact):
                refused = isinstance(payload, ev.RequestRefused)
                digest = payload.command_hash if refused else hashes[header.stream_id, reply.request_id]
                note(record, reply.request_id, digest)
            channels[header.stream_id] = evolve_channel(channel, fact)
            continue
        if isinstance(payload, turn_begins):
            accepted[header.turn_id] = payload
        answered = payload
        if isinstance(payload, ev.TurnCompleted | ev.TurnFailed | ev.TurnCancelled):
            answered = accepted[header.turn_id]
        answers = turn_begins | ev.RequestRefused | ev.TurnHidden
        if isinstance(answered, answers) and not isinstance(payload, turn_begins):
            note(record, answered.request_id, answered.command_hash)
        if isinstance(payload, ev.HistoryCompactionRequested):
            owed[header.stream_id, payload.request_id] = payload
        if isinstance(payload, ev.HistoryCompacted | ev.HistoryCompactionFailed | ev.HistoryCompactionSkipped):
            asked = owed.get((header.stream_id, payload.request_id))
            if asked is not None:
                note(record, asked.request_id, asked.command_hash)
        if isinstance(payload, ev.TurnCancelled) and payload.by is not None:
            note(record, payload.by.request_id, payload.by.command_hash)
        if isinstance(payload, ev.RequestDecided):
            archives[header.stream_id, payload.request_id] = payload, set(payload.waits_for)
        if isinstance(payload, ev.RequestDecided | ev.ForwardDelivered):
            for place, (decided, waits) in list(archives.items()):
                if isinstance(payload, ev.ForwardDelivered) and place[0] == header.stream_id:
                    waits.discard(payload.seq)
                if not waits:
                    note(record, decided.request_id, decided.command_hash)
                    del archives[place]
    kinds = {type(log.records[entry.log_offset].payload) for entry in found}
    assert kinds >= {ev.RequestDecided, ev.ForwardDelivered, ev.TurnCancelled, ev.RequestRefused}
    assert kinds >= {ev.HistoryCompacted, ev.HistoryCompactionFailed}
    return found


@pytest.mark.parametrize("size", [3, 1000])
async def test_what_left_the_state_is_looked_up(
    stores: PartitionStores, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("session", "channel"):
        monkeypatch.setattr(f"turnlog_streams.{module}.state.KEPT_ANSWERS", 2)
        monkeypatch.setattr(f"turnlog_streams.{module}.state.KEPT_MARKS", 1)
    log = random_log(13, 700)
    store = await stores.open(0)
    await fill(store, log, size)
    loaded = await store.load(log.streams)
    answers = marks = sessions = turns = 0
    for name, stream in loaded.items():
        rows = log.rows_of_sessions[name[1]] if name[0] == ev.SESSION else log.rows(name[1])
        gone = {key for key in rows.answers if key not in stream.state.answers.known}
        ended = {answer.turn_id for key, answer in rows.answers.items() if key in gone and answer.turn_id}
        silent = {source for source in rows.marks if source not in stream.state.marks.known}
        wanted = WantedRows(
            stream_offset=stream.stream_offset,
            answers=frozenset({*gone, "never"}),
            marks=frozenset({*silent, "session:never"}),
            sessions=frozenset({*rows.sessions, "never"}),
            latest=2,
            turns=frozenset({*ended, "t-never"}),
        )
        other = WantedRows(stream_offset=-7, answers=wanted.answers, marks=wanted.marks, sessions=wanted.sessions)
        found, nothing = await store.look_up([wanted, other])
        assert nothing == FoundRows()
        assert found.answers == {key: rows.answers[key] for key in gone}
        assert found.turns == {**dict.fromkeys(ended, True), "t-never": False}
        assert found.marks == {source: rows.marks[source] for source in silent}
        assert found.sessions == dict(rows.sessions)
        live = sorted((each for each in rows.sessions.values() if not each.archived), key=lambda each: -each.rank)
        assert found.latest == live[:2]
        assert len(gone) == stream.state.answers.older
        turns += len(ended)
        answers, marks, sessions = answers + len(gone), marks + len(silent), sessions + len(rows.sessions)
    assert answers > 20
    assert marks
    assert turns > 5
    assert sessions > 5
    assert await store.look_up([]) == []


async def test_comes_back_where_it_stood(stores: PartitionStores) -> None:
    log = random_log(21, 120)
    store = await stores.open(0)
    await fill(store, log, 9)
    position = store.position
    await store.rest()
    await store.close()
    await store.close()
    again = await stores.open(0)
    assert again.position == position
    assert await again.load(log.streams) == log.expected()
    write_on(log, 120)
    await fill(again, log, 9)
    assert await again.load(log.streams) == log.expected()


async def test_at_rest_it_is_read_and_written_as_before(stores: PartitionStores) -> None:
    log = random_log(22, 120)
    store = await stores.open(0)
    await store.rest()
    await fill(store, log, 9)
    await store.rest()
    await store.rest()
    assert await store.load(log.streams) == log.expected()
    write_on(log, 120)
    await fill(store, log, 9)
    await store.rest()
    assert await store.load(log.streams) == log.expected()


async def test_streams_that_are_forgotten_are_read_and_written_as_before(stores: PartitionStores) -> None:
    log = random_log(23, 120)
    store = await stores.open(0)
    await fill(store, log, 9)
    await store.forget([*log.streams, (ev.SESSION, "of no log")])
    assert await store.load(log.streams) == log.expected()
    write_on(log, 120)
    await fill(store, log, 9)
    assert await store.load(log.streams) == log.expected()


async def test_a_closed_store_says_so(stores: PartitionStores) -> None:
    store = await stores.open(0)
    await store.close()
    with pytest.raises(StoreError):
        await store.load([(ev.SESSION, "s")])
    with pytest.raises(StoreError):
        await store.write([], LogPosition(next_offset=1))
    with pytest.raises(StoreError):
        await store.rest()
    with pytest.raises(StoreError):
        await store.forget([])


async def test_a_partition_has_one_owner(stores: PartitionStores) -> None:
    store = await stores.open(0)
    with pytest.raises(ValueError, match="partition 0"):
        await stores.open(0)
    await store.close()
    await (await stores.open(0)).close()


async def test_writing_a_batch_again_changes_nothing(stores: PartitionStores) -> None:
    log = random_log(31, 150)
    store = await stores.open(0)
    batches = accepted_batches(log.records, 20)
    for number, batch in enumerate(batches):
        await store.write(*batch)
        await store.write(*batch)
        await store.write(*batches[number // 2])
    # A reader that came back to an older checkpoint has other batches.
    await store.write(*accepted_batches(log.records, 1000)[0])
    assert await store.load(log.streams) == log.expected()
    assert store.position.next_offset == len(log.records)


async def test_inert_records_move_the_checkpoint_only(stores: PartitionStores) -> None:
    log = random_log(32, 50)
    store = await stores.open(0)
    await fill(store, log, 50)
    further = replace(store.position, next_offset=store.position.next_offset + 3, last_event_id="zombie")
    await store.write([], further)
    assert store.position == further
    assert await store.load(log.streams) == log.expected()


async def test_a_batch_that_fails_leaves_nothing_behind(stores: PartitionStores) -> None:
    log = random_log(33, 100, zombies=False, newer=False)
    store = await stores.open(0)
    await fill(store, log, 50)
    position = store.position
    before = log.expected()
    write_on(log, 60, zombies=False, newer=False)
    ((events, after),) = accepted_batches(log.records, 1000, position)
    unseen = replace(events[-1], payload=ev.TurnCompleted(usage=Usage()))
    unseen = replace(unseen, header=replace(unseen.header, stream_kind="session", stream_id="s0-0", turn_id="never"))
    with pytest.raises(FoldError, match="s0-0"):
        await store.write([*events, unseen], after)
    assert store.position == position
    assert await store.load(before) == before
    await store.write(events, after)
    assert await store.load(log.streams) == log.expected()


async def test_open_fresh_begins_at_the_beginning(stores: PartitionStores) -> None:
    log = random_log(41, 60)
    store = await stores.open(0)
    await fill(store, log, 50)
    await store.close()
    fresh = await stores.open_fresh(0, "its log was re-created")
    assert fresh.position == LogPosition()
    assert await fresh.load(log.streams) == {}
    other = random_log(42, 60)
    await fill(fresh, other, 50)
    assert await fresh.load(other.streams) == other.expected()


async def test_partitions_and_overlapping_calls_do_not_mix(stores: PartitionStores) -> None:
    logs = [random_log(50 + partition, 80, partition=partition) for partition in range(4)]
    opened = [await stores.open(log.partition) for log in logs]
    await asyncio.gather(*(fill(store, log, 10) for store, log in zip(opened, logs, strict=True)))
    loaded = await asyncio.gather(*(store.load(log.streams) for store, log in zip(opened, logs, strict=True)))
    assert loaded == [log.expected() for log in logs]
