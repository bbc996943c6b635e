"""Who read a session's texts before they were erased and who reads the log afterwards, blank, agree."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.erased_logs import blank
from tests.erasing_steps import erase_some
from tests.event_logs import LogWriter, accepted_batches, random_log
from tests.property.test_folding import rows, stored
from turnlog_schemas import events as ev
from turnlog_streams.projection.project import project
from turnlog_workers.store.memory_store import MemoryStore

LOGS = st.builds(random_log, st.integers(0, 2**32), st.integers(0, 120), sessions=st.integers(1, 3))


@given(LOGS, st.integers(0, 3), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
async def test_the_stores_rows_are_the_same(log: LogWriter, sessions: int, size: int) -> None:
    erase_some(log, sessions)
    before, after = await stored(log, size), await stored(blank(log), 1000)
    assert rows(before) == rows(after)
    assert texts_of(before, log) == []


def texts_of(store: MemoryStore, log: LogWriter) -> list[str]:
    """What rows of erased sessions still say."""
    erased = [name for name, session in log.sessions.items() if session.erasure is not None]
    row_of = {name: store._data.streams[ev.SESSION, name] for name in erased}
    kept = [store._data.messages.get(row.stream_offset) for row in row_of.values()]
    words = ("A title", "Be kind", "Another title", "plain", "rain")
    return [f"{name}: {word}" for name, row in row_of.items() for word in words if word in row.state] + [
        str(messages) for messages in kept if messages
    ]


@given(LOGS, st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_a_blank_log_projects_as_the_log_does(log: LogWriter, sessions: int) -> None:
    """The analysts' file is made of it again: as many rows, of the same places, and no error."""
    erase_some(log, sessions)
    ((told, _),), ((blanks, _),) = accepted_batches(log.records, 10**6), accepted_batches(blank(log).records, 10**6)
    one, other = project(told, {}), project(blanks, {})
    assert len(one.messages) == len(other.messages)
    assert one.new_turns.keys() == other.new_turns.keys()
    assert one.new_calls.keys() == other.new_calls.keys()
    assert [row.log_offset for row in one.unknown_events] == [row.log_offset for row in other.unknown_events]
    for key, row in one.new_sessions.items():
        if row.erased_at is not None:
            assert row == other.new_sessions[key]
            assert (row.title, row.instructions, row.metadata) == ("", None, "{}")


@given(LOGS)
@settings(max_examples=15, deadline=None)
def test_an_erased_session_takes_nothing_more(log: LogWriter) -> None:
    erase_some(log, 2)
    erased = {name: session for name, session in log.sessions.items() if session.erasure is not None}
    ends = {
        record.header.stream_id: record.offset for record in log.records if isinstance(record.payload, ev.SessionErased)
    }
    later = (ev.CommandForwarded, ev.ForwardReceived, ev.ForwardDelivered)
    for record in log.records:
        header = record.header
        if header.stream_kind == ev.SESSION and record.offset > ends.get(header.stream_id, record.offset):
            known = isinstance(record.payload, later) or record.offset in log.inert
            assert known or not isinstance(record.payload, ev.EVENTS), record
    for session in erased.values():
        assert not any((session.turns, session.queue, session.owed_runs, session.title, session.instructions))
