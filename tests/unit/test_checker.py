"""The checker finds nothing in a good history, and each anomaly that is planted in it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.checker import StoreContent, ToolRun, accepted_events, check, late_frames
from tests.checker.drafts import SESSION, USAGE, Draft, found, frame_of, good, offset_of
from tests.checker.stores import session_columns
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import HistoryEntry, NewSession, text_content

Plant = Callable[[Draft], object]
TWO = "chat.requests-0-2"


def test_nothing_is_found_in_a_good_history() -> None:
    assert check(good().history()) == []


def test_nothing_is_found_in_no_history() -> None:
    assert check(Draft().history()) == []


# ---- plants


def twice_accepted(d: Draft) -> None:
    d.accept("t9", "three", "r3", offset=5)
    d.answer("t9", 1, "r3", "again")


def decided_twice(d: Draft) -> None:
    d.event(ev.RequestRefused(request_id="r1", command_hash="h-another", code="conflict", reason="x"))


def second_conflict_unanswered(d: Draft) -> None:
    d.request("a third one", "r1")


def readable_and_dead(d: Draft) -> None:
    d.request("four", "r4")
    d.parked.append((0, 6))
    d.event(ev.RequestDeadLettered(offset=6, code="undecidable", reason="x"), accepted=6)


def invented(d: Draft) -> None:
    d.event(ev.RequestRefused(request_id="r9", command_hash="h", code="busy", reason="x"))
    d.frame(fr.RequestRefused(code="busy", reason="x"), None, 0, "r9")


def invented_by_a_channel(d: Draft) -> None:
    d.decide("l9", "c-1")
    d.info("l9", "c-1")


def asked_only(d: Draft) -> None:
    """A look at the active session is not what opens one."""
    d.request("active", "l1", "c", asks_only=True)
    d.decide("l1", "c-1", accepted=6)
    d.info("l1", "c-1")


def request_of_a_channel_undecided(d: Draft) -> None:
    d.request("rotate", "l1", "c")


def decided_twice_by_a_channel(d: Draft) -> None:
    channel_asked(d)
    d.decide("l1", "c-2")


def answered_before_its_decision(d: Draft) -> None:
    channel_asked(d)
    d.frames[-1] = replace(d.frames[-1], log_end=d.log[-1].offset)


def channel_without_answer(d: Draft) -> None:
    channel_asked(d)
    d.frames.pop()


def tells_of_messages_to_come(d: Draft) -> None:
    session_asked(d)
    d.frames[-2] = replace(d.frames[-2], log_end=offset_of(d, ev.MessageStored, -1))


def shows_messages_to_come(d: Draft) -> None:
    session_asked(d)
    d.frames[-1] = replace(d.frames[-1], log_end=offset_of(d, ev.MessageStored, -1))


def shows_another_history(d: Draft) -> None:
    d.request("history", "q2", asks_only=True)
    page = fr.HistoryPage(
        messages=(HistoryEntry(message_seq=1, turn_id="t1", role="user", content=text_content("no")),)
    )
    d.frame(page, None, 0, "q2")


def names_a_session_that_nobody_opened(d: Draft) -> None:
    d.request("active", "q1", "c", asks_only=True)
    d.info("q1", "c-9")


def accepted_for_a_later_request(d: Draft) -> None:
    d.edit(offset_of(d, ev.TurnStarted), header_accepted=4)


def committed_early(d: Draft) -> None:
    d.commits.insert(0, replace(d.commits[0], log_end=offset_of(d, ev.TurnAccepted, 1)))


def requests_swapped(d: Draft) -> None:
    one, three = d.requests[0], d.requests[5]
    d.requests[0], d.requests[5] = replace(three, offset=0), replace(one, offset=5)


def turn_left_open(d: Draft) -> None:
    d.request("four", "r4")
    d.accept("t4", "four", "r4", offset=6)


def ended_twice(d: Draft) -> None:
    d.event(ev.TurnCompleted(usage=USAGE), "t3", 1)


def spoke_after_its_end(d: Draft) -> None:
    d.message("t3", 1, "assistant", "and another thing")


def attempt_left_out(d: Draft) -> None:
    d.request("four", "r4")
    d.accept("t4", "four", "r4", offset=6)
    d.event(ev.TurnStarted(model="m", cause="takeover"), "t4", 3)
    d.event(ev.TurnCompleted(usage=USAGE), "t4", 3)
    d.frame(fr.TurnCompleted(text="", usage=USAGE), "t4", 3, "r4")


def older_attempt_spoke(d: Draft) -> None:
    d.edit(offset_of(d, ev.MessageStored, 4), header_attempt=1)


def answered_before_its_turn(d: Draft) -> None:
    first, second = offset_of(d, ev.MessageStored, 5), offset_of(d, ev.MessageStored, 6)
    d.edit(first, content=d.log[second].payload.content, role="user", header_turn_id="t3")
    d.edit(second, header_turn_id="t2", content=text_content("two"))


def owner_went_on_behind_a_hole(d: Draft) -> None:
    d.n += 1
    d.message("t3", 1, "assistant", "x")


def never_accepted(d: Draft) -> None:
    d.event(ev.TurnStarted(model="m", cause="first"), "t9", 1)


def call_forgotten(d: Draft) -> None:
    d.edit(offset_of(d, ev.MessageStored, 4), role="assistant")


def frame_of_an_inert_event(d: Draft) -> None:
    d.frame(fr.MessageStored(message_seq=9, role="tool"), "t1", 1, "r1", epoch=0)


def frame_too_early(d: Draft) -> None:
    index = frame_of(d, fr.TurnFailed)
    d.frames[index] = replace(d.frames[index], log_end=offset_of(d, ev.TurnFailed))


def refusal_too_early(d: Draft) -> None:
    index = frame_of(d, fr.RequestRefused)
    d.frames[index] = replace(d.frames[index], log_end=offset_of(d, ev.RequestRefused))


def lost_frame(kind: type) -> Plant:
    def plant(d: Draft) -> None:
        d.frames = [seen for seen in d.frames if not isinstance(seen.frame, kind)]
        d.frames_may_be_lost = True

    return plant


def delta_after_the_end(d: Draft) -> None:
    d.frame(fr.TextDelta(text="and"), "t3", 1, "r3")


def other_text(d: Draft) -> None:
    index = frame_of(d, fr.TurnCompleted)
    d.frames[index] = replace(d.frames[index], frame=fr.TurnCompleted(text="other", usage=USAGE))


def tool_again(d: Draft) -> None:
    d.event(ev.TurnStarted(model="m", cause="takeover"), "t3", 2)
    d.tool("k3", "t3", 2, idempotent=True)


def result_before_the_second_start(d: Draft) -> None:
    """By the same owner and in the same attempt order, seen by where the log ended."""
    d.tool_runs[1] = replace(d.tool_runs[1], idempotency_key="k1", idempotent=True)


def tool_of_a_later_attempt(d: Draft) -> None:
    """Without knowing where the log ended: the attempt that ran it began before another one stored the call."""
    d.tool_runs = [replace(run, log_end=None) for run in d.tool_runs]
    d.edit(offset_of(d, ev.MessageStored, 1), header_attempt=2)


PLANTS: list[tuple[str, Plant]] = [
    # requests
    ("request lost", lambda d: d.request("four", "r4")),
    ("request lost", lambda d: d.request(None, session_id=None)),
    ("request lost", lambda d: d.unreadable.append((0, 6))),
    ("request lost", second_conflict_unanswered),
    ("request decided twice", twice_accepted),
    ("request decided twice", decided_twice),
    ("request decided twice", lambda d: d.event(ev.RequestDeadLettered(offset=3, code="malformed", reason="x"))),
    ("request given up", lambda d: d.event(ev.RequestsLost(from_offset=6, to_offset=7), accepted=7)),
    ("request given up", readable_and_dead),
    ("dead letter lost", lambda d: d.parked.clear()),
    ("request invented", invented),
    ("request invented", invented_by_a_channel),
    ("request invented", asked_only),
    ("request lost", request_of_a_channel_undecided),
    ("request decided twice", decided_twice_by_a_channel),
    ("message altered", lambda d: d.edit(offset_of(d, ev.TurnAccepted), content=text_content("altered"))),
    ("accepted too early", accepted_for_a_later_request),
    ("commit past an open request", committed_early),
    ("messages reordered", requests_swapped),
    # turns
    ("no terminal event", turn_left_open),
    ("terminal event twice", ended_twice),
    ("event after the terminal one", spoke_after_its_end),
    ("attempts out of order", attempt_left_out),
    ("event of another attempt", older_attempt_spoke),
    ("turn never accepted", never_accepted),
    ("turn accepted twice", lambda d: d.event(d.log[offset_of(d, ev.TurnAccepted)].payload, "t1")),
    ("call without a result", call_forgotten),
    # messages and streams
    ("message lost", lambda d: d.edit(offset_of(d, ev.MessageStored, -1), message_seq=11)),
    ("message doubled", lambda d: d.message("t3", 1, "assistant", "bye", message_seq=10)),
    ("messages reordered", answered_before_its_turn),
    ("message altered", lambda d: d.edit(offset_of(d, ev.MessageStored), content=text_content("altered"))),
    ("version gap", lambda d: d.edit(len(d.log) - 1, header_stream_version=99)),
    ("session created twice", lambda d: d.event(ev.SessionCreated(new_session=NewSession(channel="web", title="x")))),
    ("session not created", lambda d: d.event(ev.TurnStarted(model="m", cause="first"), "t9", 1, stream="web-2")),
    # the log
    ("n gap", owner_went_on_behind_a_hole),
    ("epoch without a claim", lambda d: d.event(ev.TurnCompleted(usage=USAGE), "t3", 1, epoch=1000)),
    ("log hole", lambda d: d.log.__setitem__(-1, replace(d.log[-1], offset=len(d.log)))),
    ("log cannot be folded", never_accepted),
    # frames
    ("effect without its event", frame_of_an_inert_event),
    ("effect without its event", frame_too_early),
    ("effect without its event", refusal_too_early),
    ("effect without its event", lambda d: d.frame(fr.TextDelta(text="x"), "t3", 2, "r3")),
    ("effect without its event", lambda d: d.frame(fr.TurnStarted(model="m"), "t1", 2, "r1", epoch=0)),
    ("effect without its event", lambda d: d.frame(fr.TurnAccepted(), "t9", 0, "r9")),
    ("effect without its event", lambda d: d.frame(fr.RequestRefused(code="busy", reason="x"), None, 0, "r3")),
    ("effect without its event", answered_before_its_decision),
    ("effect without its event", tells_of_messages_to_come),
    ("effect without its event", shows_messages_to_come),
    ("effect without its event", shows_another_history),
    ("effect without its event", names_a_session_that_nobody_opened),
    ("terminal frame missing", channel_without_answer),
    ("terminal frame missing", lost_frame(fr.TurnCompleted)),
    ("terminal frame missing", lost_frame(fr.TurnFailed)),
    ("terminal frame missing", lost_frame(fr.RequestRefused)),
    ("terminal frame contradicts the log", other_text),
    (
        "terminal frame contradicts the log",
        lambda d: d.frame(fr.TurnFailed(code="x", reason="x", usage=USAGE), "t3", 1, "r3"),
    ),
    ("frame after the terminal one", delta_after_the_end),
    ("frame_seq gap", lambda d: d.frames.pop(frame_of(d, fr.TextDelta))),
    # tools
    ("tool before its call", lambda d: d.tool("unknown", "t3", 1)),
    ("tool before its call", lambda d: d.tool_runs.__setitem__(-1, replace(d.tool_runs[-1], log_end=20))),
    ("tool before its call", tool_of_a_later_attempt),
    ("tool run twice", lambda d: d.tool_runs.append(d.tool_runs[-1])),
    ("tool run twice", lambda d: d.tool_runs.__setitem__(1, replace(d.tool_runs[2], idempotent=False))),
    ("tool run after its result", tool_again),
    ("tool run twice", tool_again),
    ("tool run after its result", result_before_the_second_start),
    ("effect without its event", lambda d: d.tool("k2", "t1", 2, idempotent=True, fencing_token=0)),
]


@pytest.mark.parametrize(("kind", "plant"), PLANTS, ids=[f"{index}-{kind}" for index, (kind, _) in enumerate(PLANTS)])
def test_what_is_planted_is_found(kind: str, plant: Plant) -> None:
    draft = good()
    plant(draft)
    assert kind in found(draft)


# ---- stores


def store_with(change: Callable[[dict[str, list[dict[str, Any]]]], object]) -> Draft:
    draft = good()
    tables = draft.tables()
    change(tables)
    draft.stores = [StoreContent(name="s", tables=tables)]
    return draft


@pytest.mark.parametrize("table", [name for name, rows in good().tables().items() if rows and name != "partitions"])
def test_missing_doubled_and_changed_rows_are_found(table: str) -> None:
    assert found(store_with(lambda tables: tables[table].pop())) == {"store is not the fold"}
    assert found(store_with(lambda tables: tables[table].append(tables[table][-1]))) == {"store is not the fold"}
    for column in good().tables()[table][0]:
        if (table, column) != ("dead_letters", "bytes"):
            kinds = found(store_with(lambda tables, c=column: tables[table][0].update({c: "changed"})))  # type: ignore[misc]
            assert "store is not the fold" in kinds, column


def test_every_column_of_a_session_is_compared_with_the_fold_of_its_events() -> None:
    draft = good()
    events = [event for event in draft.log if event.header.stream_id == SESSION]
    compared = session_columns(SESSION, events)
    assert set(draft.tables()["sessions"][0]) - set(compared) == {"session_id", "partition"}
    for column in compared:
        kinds = found(store_with(lambda tables, c=column: tables["sessions"][0].update({c: "changed"})))  # type: ignore[misc]
        assert "session row" in kinds, column


@pytest.mark.parametrize("column", [column for column in good().tables()["partitions"][0] if column != "partition"])
def test_every_column_of_the_checkpoint_is_compared(column: str) -> None:
    changed = 3 if column == "next_offset" else "changed"
    assert "store is not the fold" in found(
        store_with(lambda tables: tables["partitions"][0].update({column: changed}))
    )


def test_a_store_ahead_of_the_log_and_a_message_of_a_fenced_owner_are_found() -> None:
    assert "store is ahead of the log" in found(store_with(lambda t: t["partitions"][0].update(next_offset=999)))
    draft = good()
    inert = offset_of(draft, ev.MessageStored, 3)
    message = {**draft.tables()["messages"][0], "log_offset": inert, "message_seq": 9}
    assert "message of a fenced epoch" in found(store_with(lambda tables: tables["messages"].append(message)))


def test_a_store_may_be_behind_and_may_give_times_as_datetimes() -> None:
    draft = good()
    early = replace(draft)
    early.log = draft.log[:12]
    tables = early.tables()
    for session in tables["sessions"]:
        session["created_at"] = datetime.fromtimestamp(session["created_at"] / 1000, UTC)
    draft.stores = [StoreContent(name="behind", tables=tables)]
    assert check(draft.history()) == []


# ---- what is no anomaly


def undrained(d: Draft) -> None:
    d.request("four", "r4")
    turn_left_open(d)
    d.drained = False


def deleted_before_anybody_came(d: Draft) -> None:
    d.request("four", "r4")
    d.deleted_below = 7
    d.event(ev.RequestsLost(from_offset=6, to_offset=6), accepted=6)


def unreadable_and_said_so(d: Draft) -> None:
    d.unreadable += [(0, 6), (0, 7)]
    d.event(ev.RequestsLost(from_offset=6, to_offset=7), accepted=7)


def woke_up_late(d: Draft) -> None:
    """A paused owner starts a tool that its successor has closed: said plainly in promise 3."""
    d.tool_runs[2] = replace(d.tool_runs[2], attempt=1, fencing_token=0)
    d.tool_runs.pop(1)


def broker_lost_frames(d: Draft) -> None:
    d.frames.pop(frame_of(d, fr.TextDelta))
    d.frames_may_be_lost = True


def frames_came_late(d: Draft) -> None:
    """What was not acknowledged is there all the same, behind what was sent again."""
    d.frames.append(d.frames[frame_of(d, fr.TextDelta)])
    d.frames_may_be_lost = True


def channel_asked(d: Draft) -> None:
    """A lifecycle request, and a look at what came of it."""
    d.request("rotate", "l1", "c")
    d.decide("l1", "c-1", accepted=6)
    d.request("active", "q1", "c", asks_only=True)
    d.info("q1", "c-1")
    d.info("l1", "c-1")


def session_asked(d: Draft) -> None:
    """Queries leave nothing in the log: what they are told must be there."""
    d.request("get", "q1", asks_only=True)
    d.request("history", "q2", asks_only=True)
    d.request("get", "q3", "web-2", asks_only=True)
    messages = [event.payload for event in accepted_events(d.log) if isinstance(event.payload, ev.MessageStored)]
    entries = tuple(
        HistoryEntry(message_seq=message.message_seq, turn_id="t", role=message.role, content=message.content)
        for message in messages
    )
    d.frame(fr.RequestRefused(code="not_found", reason="x"), None, 0, "q3", session_id="web-2")
    d.info("q1", SESSION, "web", messages=len(entries))
    d.frame(fr.HistoryPage(messages=entries), None, 0, "q2", channel="web")


@pytest.mark.parametrize(
    "change",
    [
        undrained,
        deleted_before_anybody_came,
        unreadable_and_said_so,
        woke_up_late,
        broker_lost_frames,
        frames_came_late,
        channel_asked,
        session_asked,
    ],
)
def test_what_may_be_is_not_found(change: Plant) -> None:
    draft = good()
    change(draft)
    assert check(draft.history()) == []


def test_late_frames_are_told_by_whether_they_were_in_time_too() -> None:
    draft = good()
    assert late_frames(draft.frames) == []
    end = draft.frames[frame_of(draft, fr.TurnCompleted)]
    delta = replace(end, offset=99, header=replace(end.header, frame_seq=7), frame=fr.TextDelta(text="late"))
    draft.frames.insert(0, delta)
    draft.frames.append(delta)
    assert [late.again for late in late_frames(draft.frames)] == [True]
    draft.frames.remove(delta)
    assert [late.again for late in late_frames(draft.frames)] == [False]
    assert f"]@{delta.offset}, turn t1" in late_frames(draft.frames)[0].where


def test_a_journal_line_becomes_a_tool_run() -> None:
    line = {
        "what": "start",
        "idempotency_key": "k",
        "call_id": "c",
        "name": "n",
        "idempotent": True,
        "session_id": SESSION,
        "turn_id": "t",
        "attempt": 2,
        "fencing_token": 7,
        "pid": 1,
        "time": 1.0,
    }
    run = ToolRun.from_journal(line)
    assert (run.what, run.attempt, run.fencing_token, run.idempotent, run.log_end) == ("start", 2, 7, True, None)
