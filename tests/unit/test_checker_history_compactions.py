"""The checker finds nothing in good history compactions, and each anomaly that is planted in them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.checker import StoreContent, accepted_events, check
from tests.checker.drafts import SESSION, USAGE, Draft, found, frame_of, offset_of, with_runs
from tests.checker.stores import session_columns
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import HistoryEntry

Plant = Callable[[Draft], object]
TABLES = ("compaction_requests", "compactions")


def test_nothing_is_found_in_good_history_compactions() -> None:
    assert check(with_runs().history()) == []


# ---- plants


def asked_and_forgotten(d: Draft) -> None:
    d.request("compact", "h4")
    d.compact_request("h4", offset=11)


def never_decided(d: Draft) -> None:
    d.request("compact", "h4")


def conflict_unanswered(d: Draft) -> None:
    d.request("compact with care", "h1")


def accepted_twice(d: Draft) -> None:
    d.compact_request("h1", offset=10)


def skipped_after_its_end(d: Draft) -> None:
    d.event(ev.HistoryCompactionSkipped(request_id="h1"))


def failed_after_its_end(d: Draft) -> None:
    d.not_compacted("h1")


def end_before_its_request(d: Draft) -> None:
    d.request("compact", "h4")
    d.event(ev.HistoryCompactionSkipped(request_id="h4"))
    d.compact_request("h4", offset=11)
    d.frame(fr.HistoryCompacted(summary="of 9 messages", from_seq=1, to_seq=9), None, 0, "h4", frame_seq=0)


def same_summary_again(d: Draft) -> None:
    d.compacted(9, history_compaction_id="hc-cut")


def edited_end(**changes: Any) -> Plant:
    """The last summary, with changes."""

    def plant(d: Draft) -> None:
        d.edit(offset_of(d, ev.HistoryCompacted, -1), **changes)

    return plant


def frame_too_early(kind: type, event: type, number: int = 0) -> Plant:
    def plant(d: Draft) -> None:
        index = frame_of(d, kind, number)
        d.frames[index] = replace(d.frames[index], log_end=offset_of(d, event))

    return plant


def other_frame(frame: Any, number: int) -> Plant:
    """The n-th frame of that type says something else."""

    def plant(d: Draft) -> None:
        index = frame_of(d, type(frame), number)
        d.frames[index] = replace(d.frames[index], frame=frame)

    return plant


def told_another_way(frame: Any, request_id: str) -> Plant:
    return lambda d: d.frame(frame, None, 0, request_id, frame_seq=0)


def lost_frames(request_id: str) -> Plant:
    def plant(d: Draft) -> None:
        d.frames = [seen for seen in d.frames if seen.header.request_id != request_id]
        d.frames_may_be_lost = True

    return plant


def accepted_for_one_to_come(d: Draft) -> None:
    d.edit(offset_of(d, ev.HistoryCompactionRequested), header_accepted=7)


def page(d: Draft, covered_to: int, summary: str | None = None, *, covered: bool = False) -> None:
    """Somebody reads the last message."""
    d.request("history", "q2", asks_only=True)
    last = [event.payload for event in accepted_events(d.log) if isinstance(event.payload, ev.MessageStored)][-1]
    entry = HistoryEntry(
        message_seq=last.message_seq, turn_id="t3", role=last.role, content=last.content, covered=covered
    )
    d.frame(fr.HistoryPage(messages=(entry,), covered_to=covered_to, summary=summary), None, 0, "q2", channel="web")


def page_of_a_summary_to_come(d: Draft) -> None:
    page(d, 9)
    d.frames[-1] = replace(d.frames[-1], log_end=offset_of(d, ev.HistoryCompacted, -1))


PLANTS: list[tuple[str, Plant]] = [
    ("no end of a history compaction", asked_and_forgotten),
    ("request lost", never_decided),
    ("request lost", conflict_unanswered),
    ("request decided twice", accepted_twice),
    ("accepted too early", accepted_for_one_to_come),
    ("history compaction ended twice", skipped_after_its_end),
    ("history compaction ended twice", failed_after_its_end),
    ("history compaction ended twice", lambda d: d.compacted(9, "h1")),
    ("history compaction never requested", lambda d: d.compacted(9, "h9")),
    ("history compaction never requested", lambda d: d.not_compacted("h9")),
    ("history compaction never requested", lambda d: d.event(ev.HistoryCompactionSkipped(request_id="h9"))),
    ("history compaction never requested", end_before_its_request),
    ("history compaction never requested", edited_end(trigger="manual")),
    ("history compaction never requested", lambda d: d.not_compacted("h1", trigger="automatic")),
    ("request invented", lambda d: d.compact_request("h9", offset=10)),
    # what a summary stands for
    ("history compaction out of range", edited_end(from_seq=2)),
    ("history compaction out of range", edited_end(from_seq=0)),
    ("history compaction out of range", edited_end(to_seq=10)),
    ("history compaction out of range", edited_end(to_seq=10, history_seq=11)),
    ("history compaction out of range", edited_end(history_seq=11)),
    ("history compaction out of range", lambda d: d.not_compacted(history_seq=11)),
    ("history compaction covers less", edited_end(to_seq=5)),
    ("history compaction covers less", edited_end(from_seq=2)),
    ("history compaction recorded twice", same_summary_again),
    ("history compaction recorded twice", edited_end(history_compaction_id="hc-6")),
    ("cut between a call and its result", edited_end(to_seq=8)),
    ("history compaction without a summary", edited_end(summary=" ")),
    # what is told
    ("terminal frame missing", lost_frames("h0")),
    ("terminal frame missing", lost_frames("h1")),
    ("terminal frame missing", lost_frames("h2")),
    ("terminal frame missing", lost_frames("h3")),
    ("effect without its event", frame_too_early(fr.HistoryCompacted, ev.HistoryCompactionSkipped)),
    ("effect without its event", frame_too_early(fr.HistoryCompacted, ev.HistoryCompacted, 1)),
    ("effect without its event", frame_too_early(fr.HistoryCompactionFailed, ev.HistoryCompactionFailed)),
    ("effect without its event", told_another_way(fr.HistoryCompacted(summary=""), "h9")),
    ("effect without its event", told_another_way(fr.HistoryCompactionFailed(code="x", reason="x"), "r1")),
    ("terminal frame contradicts the log", told_another_way(fr.HistoryCompactionFailed(code="x", reason="x"), "h1")),
    ("terminal frame contradicts the log", other_frame(fr.HistoryCompactionFailed(code="x", reason="x"), 0)),
    ("terminal frame contradicts the log", other_frame(fr.HistoryCompacted(summary="of 4 messages", to_seq=4), 0)),
    ("terminal frame contradicts the log", other_frame(fr.HistoryCompacted(summary="other"), 1)),
    (  # as if it had been there
        "terminal frame contradicts the log",
        other_frame(fr.HistoryCompacted(summary="of 4 messages", from_seq=1, to_seq=4), 2),
    ),
    (  # as if it had been made for the second request
        "terminal frame contradicts the log",
        other_frame(
            fr.HistoryCompacted(
                summary="of 4 messages",
                from_seq=1,
                to_seq=4,
                changed=True,
                tokens_before=30,
                tokens_after=20,
                usage=USAGE,
            ),
            3,
        ),
    ),
    (  # the one that came later
        "terminal frame contradicts the log",
        other_frame(fr.HistoryCompacted(summary="of 6 messages", from_seq=1, to_seq=6), 3),
    ),
    ("effect without its event", lambda d: page(d, 5)),
    ("effect without its event", lambda d: page(d, 9, "of 6 messages")),
    ("effect without its event", lambda d: page(d, 9, covered=True)),
    ("effect without its event", page_of_a_summary_to_come),
]


@pytest.mark.parametrize(("kind", "plant"), PLANTS, ids=[f"{index}-{kind}" for index, (kind, _) in enumerate(PLANTS)])
def test_what_is_planted_is_found(kind: str, plant: Plant) -> None:
    draft = with_runs()
    plant(draft)
    assert kind in found(draft)


# ---- what is no anomaly


def still_owed(d: Draft) -> None:
    asked_and_forgotten(d)
    d.drained = False


@pytest.mark.parametrize("change", [still_owed, lambda d: page(d, 9, "of 9 messages"), lambda d: page(d, 6)])
def test_what_may_be_is_not_found(change: Plant) -> None:
    draft = with_runs()
    change(draft)
    assert check(draft.history()) == []


# ---- stores


def store_with(change: Callable[[dict[str, list[dict[str, Any]]]], object]) -> Draft:
    draft = with_runs()
    tables = draft.tables()
    change(tables)
    draft.stores = [StoreContent(name="s", tables=tables)]
    return draft


@pytest.mark.parametrize("table", TABLES)
def test_missing_doubled_and_changed_rows_are_found(table: str) -> None:
    assert found(store_with(lambda tables: tables[table].pop())) == {"store is not the fold"}
    assert found(store_with(lambda tables: tables[table].append(tables[table][-1]))) == {"store is not the fold"}
    for row in range(len(with_runs().tables()[table])):
        for column in with_runs().tables()[table][row]:
            kinds = found(store_with(lambda t, r=row, c=column: t[table][r].update({c: "changed"})))  # type: ignore[misc]
            assert "store is not the fold" in kinds, (row, column)


def test_what_is_covered_is_compared_with_the_fold_of_the_events() -> None:
    draft = with_runs()
    events = [event for event in accepted_events(draft.log) if event.header.stream_id == SESSION]
    assert session_columns(SESSION, events)["covered_to"] == draft.tables()["sessions"][0]["covered_to"] == 9
    assert "session row" in found(store_with(lambda tables: tables["sessions"][0].update(covered_to=6)))
