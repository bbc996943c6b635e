"""The projection is a function of the log's prefix, and its rows are enough to decide: properties over random logs."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.event_logs import LogWriter, accepted_batches, random_log
from turnlog_schemas import events as ev
from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.parts import NewSession, ToolCall, Usage, text_content
from turnlog_streams.projection.project import project
from turnlog_streams.projection.rows import TABLES, ChannelRow
from turnlog_streams.projection.state import Changes, ProjectionError, SessionState
from turnlog_streams.projection.values import content_columns, raw_rows
from turnlog_streams.reader_rule import LoggedEvent, LogPosition
from turnlog_streams.table_types import Millis

LOGS = st.builds(random_log, st.integers(0, 2**32), st.integers(0, 120), sessions=st.integers(1, 3))
Rows = dict[str, dict[Any, Any]]


class Tables:
    """Every table as a dictionary by key. Sessions' states are kept, as a store that caches all of them does."""

    def __init__(self) -> None:
        self.rows: Rows = {table.name: {} for table in TABLES}
        self.states: dict[Any, SessionState] = {}

    def apply(self, events: Sequence[LoggedEvent]) -> Changes:
        changes = project(events, self.states)
        self._insert("sessions", changes.new_sessions.values())
        self._replace("sessions", changes.changed_sessions.values())
        self._replace("sessions", changes.changed_profiles.values())
        self._insert("turns", changes.new_turns.values())
        self._replace("turns", changes.changed_turns.values())
        self._replace("turns", changes.cancelled_turns.values())
        for hidden in changes.hidden_turns:
            for turn in self.rows["turns"].values():
                if (turn.partition, turn.session_offset, turn.turn_id) == hidden[:3]:
                    turn.hidden = hidden.hidden
        self._insert("forwards", changes.new_forwards.values())
        for delivery in changes.deliveries:
            forward = self.rows["forwards"][delivery[:4]]
            assert forward.delivered_offset is None
            forward.delivered_offset = delivery.delivered_offset
        self._insert("channels", changes.new_channels.values())
        self._replace("channels", changes.changed_channels.values())
        self._insert("tool_calls", changes.new_calls.values())
        for result in changes.call_results:
            call = self.rows["tool_calls"][result.partition, result.log_offset, result.position]
            assert call.result_message_seq is None
            call.result_message_seq, call.outcome = result.result_message_seq, result.outcome
            call.result_at = result.result_at
        written_once = "messages", "attempts", "usage", "refusals", "unknown_events", "dead_letters"
        for name in (*written_once, "channel_events"):
            self._insert(name, getattr(changes, name))
        self._insert("events", raw_rows(events))
        self._insert("compaction_requests", changes.history_compaction_requests)
        self._insert("compactions", changes.history_compactions)
        return changes

    def _keyed(self, name: str, rows: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
        (table,) = (table for table in TABLES if table.name == name)
        return ((tuple(getattr(row, column) for column in table.key), row) for row in rows)

    def _insert(self, name: str, rows: Iterable[Any]) -> None:
        for key, row in self._keyed(name, rows):
            assert key not in self.rows[name], f"{name} {key} twice"
            self.rows[name][key] = row

    def _replace(self, name: str, rows: Iterable[Any]) -> None:
        for key, row in self._keyed(name, rows):
            assert key in self.rows[name], f"{name} {key} changed before it was there"
            self.rows[name][key] = row

    def plain(self) -> Rows:
        """Values only, to compare."""
        return {
            name: {key: astuple(row) if is_dataclass(row) else tuple(row) for key, row in rows.items()}
            for name, rows in self.rows.items()
        }


def tables(records: list[LoggedEvent], size: int) -> Rows:
    made = Tables()
    for events, _ in accepted_batches(records, size):
        made.apply(events)
    return made.plain()


@given(LOGS, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_batch_sizes_do_not_matter(log: LogWriter, size: int) -> None:
    assert tables(log.records, size) == tables(log.records, 1000)


@given(st.integers(0, 2**32), st.integers(0, 120))
@settings(max_examples=60, deadline=None)
def test_late_events_of_zombies_change_nothing(seed: int, steps: int) -> None:
    log = random_log(seed, steps)
    written_by_owners = [record for record in log.records if record.offset not in log.inert]
    ((accepted, _),) = accepted_batches(log.records, 10_000)
    assert accepted == written_by_owners
    assert tables(log.records, 7) == tables(written_by_owners, 7)


def test_plain_text_needs_no_parts() -> None:
    assert content_columns(text_content("")) == ("", None)
    assert content_columns(text_content("a")) == ("a", None)


def logged(payload: object, *, version: int = 1, offset: int = 5, turn_id: str | None = "t-1") -> LoggedEvent:
    header = ev.EventHeader(
        stream_kind=ev.SESSION,
        stream_id="web-1",
        stream_version=version,
        epoch=0,
        n=offset,
        accepted=0,
        replied=0,
        turn_id=turn_id,
        attempt=1,
    )
    return LoggedEvent(partition=3, offset=offset, header=header, payload=payload)


@pytest.mark.parametrize(
    "payload",
    [
        ev.TurnStarted(model="echo:", cause="first"),
        ev.TurnCompleted(usage=Usage()),
        ev.MessageStored(message_seq=1, role="user"),
        ev.TurnAccepted(request_id="r", command_hash="h", content=text_content("Hi")),
    ],
)
def test_an_event_of_something_unseen_is_an_error_with_coordinates(payload: object) -> None:
    with pytest.raises(ProjectionError, match=r"session web-1, event \w+ at events\[3\]@5"):
        project([logged(payload)], {})


def test_in_a_session_of_a_newer_version_it_is_kept_raw() -> None:
    newer = UnknownPayload(name="SessionForked", fields={"stream_id": "web-1", "source": "web-0"})
    started = ev.TurnStarted(model="echo:", cause="first")
    changes = project([logged(newer), logged(started, version=2, offset=6)], {})
    assert [(row.type, row.body) for row in changes.unknown_events] == [
        ("SessionForked", '{"source":"web-0"}'),
        ("TurnStarted", '{"model":"echo:","cause":"first","error":null,"usage":null,"params":null}'),
    ]


def test_an_unknown_stream_kind_is_kept_raw() -> None:
    event = logged(UnknownPayload(name="TeamFounded", fields={}))
    event = replace(event, header=replace(event.header, stream_kind="team", stream_id="web"))
    changes = project([event], {})
    assert [(row.stream_kind, row.stream_id, row.type) for row in changes.unknown_events] == [
        ("team", "web", "TeamFounded")
    ]


def of_channel(*payloads: object) -> list[LoggedEvent]:
    """Events of channel web, their clock 1000 times their version."""
    events = [logged(payload, version=n, offset=n, turn_id=None) for n, payload in enumerate(payloads, 1)]
    return [
        replace(event, header=replace(event.header, stream_kind="channel", stream_id="web", recorded_at=1000 * n))
        for n, event in enumerate(events, 1)
    ]


def opened(session_id: str) -> ev.ChannelSessionOpened:
    return ev.ChannelSessionOpened(session_id=session_id, by="chat", new_session=NewSession())


def test_an_event_of_a_session_that_the_channel_does_not_have_is_an_error_with_coordinates() -> None:
    with pytest.raises(ProjectionError, match=r"channel web, event ChannelSessionArchived at events\[3\]@1"):
        project(of_channel(ev.ChannelSessionArchived(session_id="web-9")), {})


def test_an_event_of_a_channel_that_misses_the_one_before_it_is_an_error_with_coordinates() -> None:
    first, _, third = of_channel(opened("web-1"), opened("web-2"), opened("web-3"))
    with pytest.raises(ProjectionError, match=r"channel web, event ChannelSessionOpened at events\[3\]@3.*event 2"):
        project([first, third], {})


def test_in_a_channel_of_a_newer_version_it_is_kept_raw() -> None:
    newer = UnknownPayload(name="ChannelMerged", fields={"stream_id": "web", "source": "app"})
    archived = ev.ChannelSessionArchived(session_id="app-1")
    changes = project(of_channel(newer, archived, opened("web-1")), {})
    assert [row.type for row in changes.unknown_events] == ["ChannelMerged", "ChannelSessionArchived"]
    (row,) = changes.new_channels.values()
    assert (row.active_session_id, row.sessions, row.unknown_events, row.stream_version) == ("web-1", 1, 2, 3)


def test_what_analysts_see_of_a_channel() -> None:
    told = ev.CommandForwarded(seq=1, target_kind="session", target_id="web-2", what="archived")
    changes = project(
        of_channel(
            ev.RequestRefused(request_id="r", command_hash="h", code="not_found", reason="no"),
            opened("web-1"),
            opened("web-2"),
            ev.ChannelSessionArchived(session_id="web-2", active="web-1"),
            told,
            ev.ForwardDelivered(seq=1),
        ),
        {},
    )
    (channel,) = changes.new_channels.values()
    assert channel == ChannelRow(
        channel="web",
        partition=3,
        active_session_id="web-1",
        sessions=2,
        archived_sessions=1,
        opened_at=Millis(2000),
        last_active_at=Millis(4000),
        stream_version=6,
        last_offset=6,
    )
    (forward,) = changes.new_forwards.values()
    assert (forward.what, forward.log_offset, forward.delivered_offset) == ("archived", 5, 6)
    assert not changes.refusals  # those of channels are in channel_events


def test_what_analysts_see_of_an_archived_session() -> None:
    heard = ev.ForwardReceived(source_kind="channel", source_id="web", seq=7)
    said = [
        ev.SessionCreated(new_session=NewSession(channel="web", title="")),
        ev.SessionTitled(title="Hi"),
        heard,
        ev.SessionArchived(),
    ]
    events = [logged(event, version=n, offset=n) for n, event in enumerate(said, 1)]
    events[-1] = replace(events[-1], header=replace(events[-1].header, recorded_at=9000))
    for size in (1, 4):
        made = Tables()
        for first in range(0, len(events), size):
            made.apply(events[first : first + size])
        (row,) = made.rows["sessions"].values()
        assert (row.title, row.archived, row.archived_at, row.active) == ("Hi", True, 9000, True)
        assert (row.marks, row.last_active_at, row.last_offset) == ('{"channel:web":7}', 0, 4)


def test_results_are_paired_by_position() -> None:
    """Ids repeat in real conversations: each result answers the first open call of its id, else the first of all."""
    calls = tuple(ToolCall(call_id=call_id, name="look_up", arguments="{}") for call_id in ("a", "b", "a"))
    said = [
        ev.SessionCreated(new_session=NewSession(channel="web", title="Hi")),
        ev.TurnAccepted(request_id="r", command_hash="h", content=text_content("Hi")),
        ev.TurnStarted(model="echo:", cause="first"),
        ev.MessageStored(message_seq=1, role="assistant", tool_calls=calls),
        ev.MessageStored(message_seq=2, role="tool", tool_call_id="b"),
        ev.MessageStored(message_seq=3, role="tool", tool_call_id="a"),
        ev.MessageStored(message_seq=4, role="tool", tool_call_id="never called"),
        ev.MessageStored(message_seq=5, role="tool", tool_call_id="a"),
    ]
    for size in (1, 100):
        made = Tables()
        events = [logged(event, version=n + 1, offset=n) for n, event in enumerate(said)]
        for first in range(0, len(events), size):
            made.apply(events[first : first + size])
        results = [row.result_message_seq for row in made.rows["tool_calls"].values()]
        assert results == [3, 2, 4]


def test_positions_are_part_of_the_rows() -> None:
    log = random_log(5, 50)
    ((_, position),) = accepted_batches(log.records, 1000)
    assert position != LogPosition()
    assert (position.epoch, position.next_n) == (log.epoch, log.n)
