"""The logs that benchmarks begin with are such as an owner would have left; their bars are judged as they are told."""

import pytest

from benchmarks.builds import build_of
from benchmarks.plot import svg
from benchmarks.rebuild import many_sessions
from benchmarks.scale import BARS, NEEDS_BUILD, missed, table
from benchmarks.seeding import PartitionLog, channel_session, old_sessions
from turnlog_schemas.codec import Codec
from turnlog_schemas.events import CHANNEL, SESSION
from turnlog_schemas.registry import EVENTS
from turnlog_streams.channel.state import Channel
from turnlog_streams.folding.fold import Folded, FoldedStream, StreamName, fold, stored_message, waits, window
from turnlog_streams.reader_rule import LoggedEvent, LogPosition, read_on
from turnlog_streams.session.state import Session


def folded(records: list[tuple[bytes, bytes]]) -> tuple[dict[StreamName, FoldedStream], Folded]:
    """As an owner folds it that was never there; every record counts."""
    codec = Codec(EVENTS)
    decoded = [codec.decode(value) for _, value in records]
    log = [
        LoggedEvent(partition=0, offset=n, header=header, payload=payload)
        for n, (header, payload) in enumerate(decoded)
    ]
    accepted, _ = read_on(LogPosition(), log)
    assert len(accepted) == len(log)
    streams: dict[StreamName, FoldedStream] = {}
    return streams, fold(accepted, streams, replied=len(log))


def test_nobody_has_anything_to_go_on_with() -> None:
    log = PartitionLog("id")
    seeded = [log.claim(), *log.channel("web", 7, known=2), *log.session("alone", 3)]
    streams, _ = folded(seeded)
    assert not any(waits(stream.state) for stream in streams.values())
    channel = streams[CHANNEL, "web"].state
    assert isinstance(channel, Channel)
    assert (channel.session_count, channel.active) == (7, channel_session("web", 6))
    older = streams[SESSION, channel_session("web", 1)].state
    assert isinstance(older, Session)
    assert (older.channel, older.active, older.messages) == ("web", False, 2)
    assert (SESSION, channel_session("web", 2)) not in streams


@pytest.mark.parametrize("turns", [20, 50])
def test_a_model_sees_the_same_of_sessions_of_any_length(turns: int) -> None:
    log = PartitionLog("id")
    streams, made = folded([log.claim(), *log.session("s", turns, seen=40)])
    held = window(streams[SESSION, "s"].state)
    assert len(held.of([stored_message(row) for row in made.messages])) == 40


def test_old_sessions_are_as_many_events_as_are_wanted() -> None:
    streams, _ = folded(list(old_sessions(200, "id")))
    assert sum(stream.state.version for stream in streams.values()) == 204  # whole sessions of 51 events
    assert len(streams) == 4


def test_a_log_of_many_sessions_has_so_many_with_ten_messages_each() -> None:
    log = many_sessions(3)
    streams, made = folded(list(old_sessions(log.events, "id", turns=log.turns)))
    assert (len(streams), len(made.messages)) == (3, 30)


def test_a_bar_is_told_and_judged() -> None:
    measured = {"at": "2026-11-28", "commit": {"id": "abc", "changed": 0}, "sizes": {"events": 1_000_000}}
    result = {"decode_ratio": 1.51, "load_average": [0.5, 1.25]}
    known = {"takeover": {**measured, "result": result}}
    lines = table(known).splitlines()
    assert "1,000,000 events" in lines[2]
    assert "| ≤ 1.5 × | **1.51 ×** | **no** | 2026-11-28, abc, 0.5–1.2 |" in lines[2]
    assert NEEDS_BUILD in lines[3]
    assert list(missed(known, ["takeover", "idle"])) == ["takeover: decode_ratio is 1.51, and must be ≤ 1.5 ×"]
    assert not list(missed(known, ["idle"]))
    cases = {
        "analysts",
        "channel",
        "long-session",
        "takeover",
        "rebuild",
        "idle",
        "steady",
        "streams",
        "streams-3000",
        "streams-5000",
        "start",
        "restart",
        "open-turns",
        "neighbours",
        "host",
        "rolling",
    }
    assert {bar.case for bar in BARS} == cases


def test_a_chart_has_a_bar_for_each_figure() -> None:
    drawn = svg("Time & more", [("short", 1.0), ("long", 2.0)])
    assert drawn.count("<rect") == 2
    assert "Time &amp; more" in drawn


def test_a_build_that_is_not_there_is_named() -> None:
    with pytest.raises(RuntimeError, match="no-such-commit is neither a commit"):
        build_of("no-such-commit", print)
