"""Checks of the stores: their rows are the fold of the log up to their checkpoint, table by table, column by column."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.checker.history import Anomaly, StoreContent
from tests.checker.log_view import TERMINAL, LogView, accepted_events
from turnlog_schemas import events as ev
from turnlog_streams.facts import Fact
from turnlog_streams.folding.fold import FoldedStream, FoldError, StreamName, fold
from turnlog_streams.folding.rows import STORE_TABLES
from turnlog_streams.projection.project import project
from turnlog_streams.projection.rows import TABLES
from turnlog_streams.projection.state import ProjectionError, State, StreamKey
from turnlog_streams.projection.values import raw_rows
from turnlog_streams.reader_rule import LoggedEvent, record_id
from turnlog_streams.session.state import Session, evolve

Row = Mapping[str, Any]
Tables = dict[str, list[Row]]
_NOT_COMPARED = {"dead_letters": {"bytes"}}  #: their topic keeps 30 days
_KEYS = {table.name: table.key for table in TABLES}
_STORE_KEYS = {table.name: table.key for table in STORE_TABLES}


def _is_activity(event: LoggedEvent) -> bool:
    """Does it say that the session was just used? What somebody wants hidden is no use of it."""
    if isinstance(event.payload, ev.TurnHidden):
        return False
    return bool(event.header.turn_id) or isinstance(event.payload, ev.SessionCreated | ev.MessageStored)


def check_stores(view: LogView) -> Iterator[Anomaly]:
    """Every difference between a store and the log."""
    known: dict[tuple[int, int, bool], Tables] = {}
    for store in view.history.stores:
        of_worker = "streams" in store.tables
        ends = {row["partition"]: row["next_offset"] for row in store.tables.get("partitions", ())}
        expected: Tables = {name: [] for name in (_STORE_KEYS if of_worker else _KEYS)}
        for partition, end in ends.items():
            log = view.history.log.get(partition, ())
            if end > len(log):
                text = f"it has read up to {end}, the log ends at {len(log)}"
                yield Anomaly(kind="store is ahead of the log", where=f"store {store.name}", text=text)
            key = partition, end, of_worker
            if key not in known:
                try:
                    known[key] = (expected_rows if of_worker else expected_tables)(partition, log[:end])
                except (ProjectionError, FoldError) as error:
                    yield Anomaly(kind="log cannot be folded", where=f"events[{partition}]", text=str(error))
                    return
            for name, rows in known[key].items():
                expected[name] += rows
        yield from compare(store, expected)
        yield from _fenced_rows(view, store)
        yield from _session_rows(view, store, ends)


def plain_row(row: Any) -> Row:
    """A row of ``projection.rows`` by column name."""
    if hasattr(row, "_asdict"):
        return dict(row._asdict())
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def expected_rows(partition: int, log: Sequence[LoggedEvent]) -> Tables:
    """The rows of a worker's store that a log prefix leads to, made in one go."""
    events = accepted_events(log)
    position = _partition_row(partition, log, events)
    streams: dict[StreamName, FoldedStream] = {}
    made = fold(events, streams, replied=position["replied"])
    return {
        "streams": [plain_row(stream.row()) for stream in streams.values()],
        "messages": [plain_row(message) for message in made.messages],
        "answers": [plain_row(row) for row in made.answers],
        "marks": [plain_row(row) for row in made.marks.values()],
        "channel_sessions": [plain_row(row) for row in made.channel_sessions.values()],
        "unanswered": [plain_row(row) for row in made.unanswered],
        "partitions": [position],
    }


def expected_tables(partition: int, log: Sequence[LoggedEvent]) -> Tables:
    """The rows of the analysts' file that a log prefix leads to, made in one go."""
    events = accepted_events(log)
    states: dict[StreamKey, State] = {}
    changes = project(events, states)
    rows: dict[str, Any] = {
        "sessions": changes.new_sessions.values(),
        "turns": changes.new_turns.values(),
        "messages": changes.messages,
        "tool_calls": changes.new_calls.values(),
        "usage": changes.usage,
        "refusals": changes.refusals,
        "unknown_events": changes.unknown_events,
        "dead_letters": changes.dead_letters,
        "events": raw_rows(events),
        "attempts": changes.attempts,
        "forwards": changes.new_forwards.values(),
        "channel_events": changes.channel_events,
        "channels": changes.new_channels.values(),
        "compaction_requests": changes.history_compaction_requests,
        "compactions": changes.history_compactions,
    }
    tables: Tables = {name: [plain_row(row) for row in found] for name, found in rows.items()}
    for turn in tables["turns"]:  # hiding comes after the turn, whatever else became of it
        if any((turn["partition"], turn["session_offset"], turn["turn_id"]) == row[:3] for row in changes.hidden_turns):
            turn["hidden"] = True  # type: ignore[index]
    tables["partitions"] = [_partition_row(partition, log, events)]
    return tables


def _partition_row(partition: int, log: Sequence[LoggedEvent], events: Sequence[LoggedEvent]) -> Row:
    claims = [event for event in events if isinstance(event.payload, ev.PartitionClaimed)]
    last = claims[-1] if claims else None
    return {
        "partition": partition,
        "next_offset": len(log),
        "epoch": last.offset if last else -1,
        "next_n": len(events) - events.index(last) - 1 if last else 0,
        "accepted": max((event.header.accepted for event in events), default=-1),
        "replied": max((event.header.replied for event in events), default=-1),
        "newest_generation": max((claim.payload.generation for claim in claims), default=-1),
        "partition_count": last.payload.partition_count if last else 0,
        "requests_topic_id": last.payload.requests_topic_id if last else "",
        "last_event_id": record_id(log[-1].header, log[-1].payload) if log else "",
    }


def _value(value: Any) -> Any:
    """DuckDB gives times as ``datetime`` with a zone."""
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return value


def compare(store: StoreContent, expected: Tables) -> Iterator[Anomaly]:
    """Every row that differs from what is expected."""
    keys_of = _STORE_KEYS if "streams" in store.tables else _KEYS
    for name, rows in store.tables.items():
        keys = keys_of.get(name)
        if keys is None:
            continue
        where = f"store {store.name}, table {name}"
        found = {tuple(row[key] for key in keys): row for row in rows}
        wanted = {tuple(row[key] for key in keys): row for row in expected[name]}
        if len(found) < len(rows):
            yield Anomaly(kind="store is not the fold", where=where, text=f"{len(rows) - len(found)} rows are doubled")
        for key in wanted.keys() - found.keys():
            yield Anomaly(kind="store is not the fold", where=where, text=f"row {key} is missing")
        for key in found.keys() - wanted.keys():
            yield Anomaly(kind="store is not the fold", where=where, text=f"row {key} should not be")
        skipped = _NOT_COMPARED.get(name, set())
        for key in wanted.keys() & found.keys():
            for column, value in wanted[key].items():
                if column not in skipped and column in found[key] and _value(found[key][column]) != value:
                    text = f"row {key}, column {column}: {found[key][column]!r}, the log says {value!r}"
                    yield Anomaly(kind="store is not the fold", where=where, text=text)


def _fenced_rows(view: LogView, store: StoreContent) -> Iterator[Anomaly]:
    counted = {(partition, event.offset) for partition, events in view.accepted.items() for event in events}
    (partition,) = {row["partition"] for row in store.tables["partitions"]} if "streams" in store.tables else (None,)
    for row in store.tables.get("messages", ()):
        place = row.get("partition", partition), row["log_offset"]
        if place not in counted:
            whose = row["session_id"] if partition is None else f"begun at {row['stream_offset']}"
            text = f"message {row['message_seq']} of the session {whose} is at {place}, which is inert"
            yield Anomaly(kind="message of a fenced epoch", where=f"store {store.name}", text=text)


# ---- session rows, from another fold than the projection's


def _session_rows(view: LogView, store: StoreContent, ends: Mapping[int, int]) -> Iterator[Anomaly]:
    for row in store.tables.get("sessions", ()):
        end = ends.get(row["partition"], 0)
        events = [e for e in view.sessions.get((row["partition"], row["session_id"]), ()) if e.offset < end]
        if not events or any(isinstance(event.payload, ev.SessionErased) for event in events):
            continue  # the comparison with the projection tells
        try:
            columns = session_columns(row["session_id"], events)
        except KeyError as error:
            text = f"session {row['session_id']}: turn {error} is not there"
            yield Anomaly(kind="log cannot be folded", where=f"events[{row['partition']}]", text=text)
            continue
        for column, value in columns.items():
            if column in row and _value(row[column]) != value:
                where = f"store {store.name}, session {row['session_id']}, column {column}"
                yield Anomaly(kind="session row", where=where, text=f"{row[column]!r}, the events say {value!r}")


def session_columns(session_id: str, events: Sequence[LoggedEvent]) -> dict[str, Any]:
    """What each column of a session's row must say, from the state that decisions use and from plain counting."""
    session = Session(session_id=session_id)
    for event in events:
        session = evolve(session, Fact(event=event.payload, turn_id=event.header.turn_id, attempt=event.header.attempt))

    def count(*kinds: type) -> int:
        return sum(isinstance(event.payload, kinds) for event in events)

    ends = [event.payload for event in events if isinstance(event.payload, TERMINAL)]
    created = [event for event in events if isinstance(event.payload, ev.SessionCreated)]
    archived = [event for event in events if isinstance(event.payload, ev.SessionArchived)]
    erased = [event for event in events if isinstance(event.payload, ev.SessionErased)]
    active = [event for event in events if _is_activity(event)]
    asked = [event.payload.message_seq for event in events if getattr(event.payload, "tool_calls", ())]
    return {
        "session_offset": created[0].offset if created else None,
        "channel": session.channel,
        "title": session.title,
        "instructions": session.instructions,
        "model": session.model,
        "metadata": json.dumps(dict(session.metadata), ensure_ascii=False, separators=(",", ":")),
        "archived": session.archived,
        "archived_at": archived[-1].header.recorded_at if archived else None,
        "erased_at": erased[0].header.recorded_at if erased else None,
        "marks": json.dumps(dict(session.marks.known), ensure_ascii=False, separators=(",", ":")),
        "active": session.active if session.channel is not None else None,
        "forward_seq": session.forward_seq,
        "created_at": created[0].header.recorded_at if created else None,
        "last_active_at": active[-1].header.recorded_at if active else None,
        "turns": count(ev.TurnAccepted) + count(ev.ToolOutputsAccepted),
        "started_turns": session.turn_count,
        "completed_turns": count(ev.TurnCompleted),
        "failed_turns": count(ev.TurnFailed),
        "cancelled_turns": count(ev.TurnCancelled),
        "running_turn_id": session.running,
        "messages": count(ev.MessageStored),
        "input_tokens": sum(end.usage.input_tokens for end in ends),
        "output_tokens": sum(end.usage.output_tokens for end in ends),
        "history_max_tokens": session.history_max_tokens,
        "history_keep_tail": session.history_keep_tail,
        "covered_to": session.history_compaction.covered_to,
        "awaited_seq": asked[-1] if session.awaited else 0,
        "measured_tokens": session.measure.input_tokens if session.measure else None,
        "measured_through_seq": session.measure.through_seq if session.measure else None,
        "unknown_events": 0,
        "stream_version": len(events),
        "last_offset": events[-1].offset,
    }
