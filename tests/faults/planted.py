"""Faults planted into the record of a real run: each must be found, or the run's silence means nothing."""

from collections.abc import Callable
from dataclasses import replace

from tests.checker import GroupCommit, History, SentRequest, StoreContent, check
from turnlog_schemas.events import (
    HistoryCompacted,
    HistoryCompactionRequested,
    MessageStored,
    RequestDecided,
    TurnAccepted,
)
from turnlog_schemas.frames import TERMINAL_FRAMES


def _a_request_that_nobody_decided(history: History) -> History:
    last = max((r for r in history.requests if r.partition == 0), key=lambda request: request.offset)
    lost = SentRequest(partition=0, offset=last.offset + 1, session_id=None)
    return replace(history, requests=[*history.requests, lost])


def _a_chat_that_nobody_sent(history: History) -> History:
    return _never_sent(history, TurnAccepted)


def _a_lifecycle_request_that_nobody_sent(history: History) -> History:
    return _never_sent(history, RequestDecided)


def _a_history_compaction_that_nobody_wanted(history: History) -> History:
    return _never_sent(history, HistoryCompactionRequested)


def _a_summary_of_messages_to_come(history: History) -> History:
    partition, log = next(
        (partition, list(log))
        for partition, log in history.log.items()
        if any(isinstance(event.payload, HistoryCompacted) for event in log)
    )
    at = next(index for index, event in enumerate(log) if isinstance(event.payload, HistoryCompacted))
    log[at] = replace(log[at], payload=replace(log[at].payload, to_seq=log[at].payload.history_seq + 1))
    return replace(history, log={**history.log, partition: log})


def _never_sent(history: History, kind: type[TurnAccepted | RequestDecided | HistoryCompactionRequested]) -> History:
    """The first request that was decided so, out of what was sent; the log stays as it is."""
    decided = next(event for log in history.log.values() for event in log if isinstance(event.payload, kind))
    name, request_id = decided.header.stream_id, decided.payload.request_id
    kept = [request for request in history.requests if (request.session_id, request.request_id) != (name, request_id)]
    return replace(history, requests=kept)


def _a_turn_whose_end_nobody_heard(history: History) -> History:
    turn_id = next(
        seen.header.turn_id
        for seen in history.frames
        if seen.header.turn_id is not None and isinstance(seen.frame, TERMINAL_FRAMES)
    )
    kept = [
        seen for seen in history.frames if seen.header.turn_id != turn_id or not isinstance(seen.frame, TERMINAL_FRAMES)
    ]
    return replace(history, frames=kept)


def _a_tool_that_ran_twice(history: History) -> History:
    run = next(run for run in history.tool_runs if run.what == "start" and not run.idempotent)
    return replace(history, tool_runs=[*history.tool_runs, run])


def _a_message_that_a_fenced_owner_stored(history: History) -> History:
    """As if its epoch were one that had been closed before."""
    log = list(history.log[0])
    at = next(
        index for index, event in enumerate(log) if isinstance(event.payload, MessageStored) and event.header.epoch > 0
    )
    log[at] = replace(log[at], header=replace(log[at].header, epoch=0))
    return replace(history, log={**history.log, 0: log})


def _a_row_that_is_not_in_the_log(history: History) -> History:
    store = next(store for store in history.stores if store.name == "analytics.duckdb")
    rows = list(store.tables["messages"])
    rows[0] = {**rows[0], "content": "something else"}
    changed = StoreContent(name=store.name, tables={**store.tables, "messages": rows})
    return replace(history, stores=[changed if other is store else other for other in history.stores])


def _a_commit_ahead_of_the_log(history: History) -> History:
    ahead = max(r.offset for r in history.requests if r.partition == 0) + 1
    return replace(history, commits=[GroupCommit(partition=0, offset=ahead, log_end=2), *history.commits])


PLANTED: tuple[tuple[str, Callable[[History], History]], ...] = (
    ("request lost", _a_request_that_nobody_decided),
    ("request invented", _a_chat_that_nobody_sent),
    ("request invented", _a_lifecycle_request_that_nobody_sent),
    ("request invented", _a_history_compaction_that_nobody_wanted),
    ("history compaction out of range", _a_summary_of_messages_to_come),
    ("terminal frame missing", _a_turn_whose_end_nobody_heard),
    ("tool run twice", _a_tool_that_ran_twice),
    ("version gap", _a_message_that_a_fenced_owner_stored),
    ("store is not the fold", _a_row_that_is_not_in_the_log),
    ("commit past an open request", _a_commit_ahead_of_the_log),
)


def not_found(history: History) -> list[str]:
    """Which of the planted faults the checker does not see."""
    return [
        f"{kind}: {plant.__name__}"
        for kind, plant in PLANTED
        if kind not in {anomaly.kind for anomaly in check(plant(history))}
    ]
