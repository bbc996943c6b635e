"""The rows of a worker's store are a function of the log's prefix, and hold all that decisions need."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from tests.event_logs import CONTENTS, LogWriter, accepted_batches, random_log
from tests.strategies import records
from turnlog_schemas import events as ev
from turnlog_schemas.parts import ContentPart
from turnlog_streams.channel.state import Channel
from turnlog_streams.facts import Fact
from turnlog_streams.folding.canonical import decode, encode, shape_of
from turnlog_streams.folding.fold import (
    FoldedEvent,
    FoldedStream,
    StreamName,
    StreamState,
    evolve_stream,
    fold,
    stored_message,
)
from turnlog_streams.folding.leaving import leaving
from turnlog_streams.forwarding import Marks
from turnlog_streams.reader_rule import LoggedEvent
from turnlog_streams.session.state import Session
from turnlog_workers.store.memory_store import MemoryStore, MemoryStores

LOGS = st.builds(random_log, st.integers(0, 2**32), st.integers(0, 120), sessions=st.integers(1, 3))


def rows(store: MemoryStore) -> Any:
    data = store._data
    left = data.answers, data.marks, data.channel_sessions
    return data.streams, data.messages, data.unanswered, data.position, left


async def stored(log: LogWriter, size: int) -> MemoryStore:
    store = await MemoryStores().open(0)
    for events, position in accepted_batches(log.records, size):
        await store.write(events, position)
    return store


@given(LOGS, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
async def test_batch_sizes_do_not_matter(log: LogWriter, size: int) -> None:
    assert rows(await stored(log, size)) == rows(await stored(log, 1000))


@given(LOGS, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
async def test_what_its_owner_has_folded_leads_to_the_same_rows(log: LogWriter, size: int) -> None:
    store = await MemoryStores().open(0)
    states: dict[StreamName, StreamState] = {}
    for events, position in accepted_batches(log.records, size):
        await store.write([by_owner(logged, states) for logged in events], position)
    assert rows(store) == rows(await stored(log, 1000))


def by_owner(logged: LoggedEvent, states: dict[StreamName, StreamState]) -> LoggedEvent:
    header, name = logged.header, (logged.header.stream_kind, logged.header.stream_id)
    if header.stream_kind == ev.PARTITION:
        return logged
    new = Session(session_id=name[1]) if header.stream_kind == ev.SESSION else Channel(channel=name[1])
    before = states.get(name, new)
    fact = Fact(event=logged.payload, turn_id=header.turn_id, attempt=header.attempt)
    states[name] = evolve_stream(before, fact)
    return FoldedEvent.of(logged, states[name], leaving(before, states[name], fact))


@given(LOGS)
@settings(max_examples=60, deadline=None)
async def test_what_is_stored_equals_the_fold(log: LogWriter) -> None:
    store = await stored(log, 5)
    assert await store.load([*log.streams, (ev.CHANNEL, "never")]) == log.expected()


@given(LOGS, st.data())
@settings(max_examples=60, deadline=None)
async def test_writing_again_from_anywhere_changes_nothing(log: LogWriter, data: st.DataObject) -> None:
    """A reader that comes back to an older position hands over events that are stored already."""
    store = await MemoryStores().open(0)
    batches = accepted_batches(log.records, 4)
    for number, (events, position) in enumerate(batches):
        await store.write(events, position)
        again = data.draw(st.integers(0, number))
        for old_events, old_position in batches[again : number + 1]:
            await store.write(old_events, old_position)
    assert await store.load([*log.streams, (ev.CHANNEL, "never")]) == log.expected()
    assert store.position.next_offset == len(log.records)


@given(LOGS)
@settings(max_examples=40, deadline=None)
def test_equal_states_have_one_text(log: LogWriter) -> None:
    """Whatever the order in which their maps were built."""
    for state in [*log.sessions.values(), *log.channels.values()]:
        text = encode(state)
        assert decode(type(state), text) == state
        assert encode(decode(type(state), text)) == text


def test_maps_are_written_in_the_order_of_their_keys() -> None:
    maps = [Map({"b": 1, "a": 2}), Map({"a": 2, "b": 1})]
    texts = {encode(Session(session_id="s", marks=Marks(known=marks))) for marks in maps}
    assert texts == {'{"marks":{"known":{"a":2,"b":1}},"session_id":"s"}'}


def test_another_shape_has_another_name() -> None:
    assert shape_of(Session) == shape_of(Session)
    assert shape_of(Session) != shape_of(FoldedStream)


@given(
    st.lists(records(ContentPart), max_size=3).map(tuple) | st.sampled_from(CONTENTS),
    st.sampled_from(["user", "assistant", "tool"]),
    st.booleans(),
)
def test_a_message_comes_back_exactly(content: tuple[ContentPart, ...] | None, role: str, interrupted: bool) -> None:
    message = ev.MessageStored(message_seq=1, role=role, content=content, interrupted=interrupted)
    header = ev.EventHeader(
        stream_kind=ev.SESSION, stream_id="s", stream_version=1, epoch=0, n=0, accepted=0, replied=0, turn_id="t"
    )
    made = fold([LoggedEvent(partition=0, offset=5, header=header, payload=message)], {})
    (row,) = made.messages
    found = stored_message(row)
    assert (found.content, found.role, found.interrupted, found.turn_id) == (content, role, interrupted, "t")
    assert (row.more is None) == (not interrupted and row.text is not None)
