"""Checks of the log alone: streams, turns and messages."""

from collections.abc import Iterator, Sequence

from tests.checker.history import Anomaly
from tests.checker.log_view import ACCEPTED, TERMINAL, LogView, TurnLog
from turnlog_schemas import events as ev
from turnlog_schemas.parts import content_text
from turnlog_streams.reader_rule import LoggedEvent


def check_log(view: LogView) -> Iterator[Anomaly]:
    """Every anomaly that the log shows by itself."""
    yield from view.anomalies
    for partition, log in view.history.log.items():
        yield from _positions(partition, log)
    for (partition, session_id), events in view.sessions.items():
        where = f"partition {partition}, session {session_id}"
        yield from _versions(where, events)
        yield from _messages(where, view, events)
    for turn in view.turns.values():
        yield from _turn(view, turn)


def _positions(partition: int, log: Sequence[LoggedEvent]) -> Iterator[Anomaly]:
    """Offsets without holes; and no owner went on behind a hole in its own epoch."""
    claim, expected = None, 0
    for index, event in enumerate(log):
        where = f"events[{partition}]@{event.offset}"
        if event.offset != index:
            yield Anomaly(kind="log hole", where=where, text=f"the record with number {index} of the partition")
        if isinstance(event.payload, ev.PartitionClaimed):
            claim, expected = event.offset, 0
        elif event.header.epoch == claim:
            if event.header.n == expected:
                expected += 1
            elif event.header.n > expected:
                yield Anomaly(kind="n gap", where=where, text=f"n {event.header.n} of epoch {claim}, not {expected}")
        elif claim is None or event.header.epoch > claim:
            yield Anomaly(kind="epoch without a claim", where=where, text=f"epoch {event.header.epoch}")


def _versions(where: str, events: Sequence[LoggedEvent]) -> Iterator[Anomaly]:
    for expected, event in enumerate(events, start=1):
        if event.header.stream_version != expected:
            text = f"@{event.offset} has stream_version {event.header.stream_version}, not {expected}"
            yield Anomaly(kind="version gap", where=where, text=text)
            return
    created = [event.offset for event in events if isinstance(event.payload, ev.SessionCreated)]
    if len(created) > 1:
        yield Anomaly(kind="session created twice", where=where, text=f"at {created}")
    if not created and any(not isinstance(event.payload, ev.RequestRefused) for event in events):
        yield Anomaly(kind="session not created", where=where, text=f"but it has {len(events)} events")


def _messages(where: str, view: LogView, events: Sequence[LoggedEvent]) -> Iterator[Anomaly]:
    """Numbered without gaps; users' messages as accepted, in the order in which they were accepted."""
    messages = [event for event in events if isinstance(event.payload, ev.MessageStored)]
    for expected, event in enumerate(messages, start=1):
        seq = event.payload.message_seq
        if seq != expected:
            kind = "message doubled" if seq < expected else "message lost"
            yield Anomaly(kind=kind, where=where, text=f"@{event.offset} has message_seq {seq}, not {expected}")
            break
    asked = list(dict.fromkeys(event.header.turn_id for event in messages if not event.payload.imported))
    accepted = [event.header.turn_id for event in events if isinstance(event.payload, ACCEPTED)]
    started = [turn_id for turn_id in accepted if turn_id in set(asked)]
    if asked != started:
        text = f"messages are of turns {asked}, accepted in the order {started}"
        yield Anomaly(kind="messages reordered", where=where, text=text)
    users = [event.header.turn_id for event in messages if event.payload.role == "user" and not event.payload.imported]
    if len(users) != len(set(users)):
        yield Anomaly(kind="messages reordered", where=where, text=f"users' messages are of turns {users}")
    yield from _client_calls(where, view, messages)
    for event in messages:
        if event.payload.imported:
            continue
        accepted_by = view.turns[event.header.turn_id or ""].accepted
        if event.payload.role != "user" or accepted_by is None:
            continue
        if event.payload.content != accepted_by.payload.content:
            yield Anomaly(kind="message altered", where=where, text=f"@{event.offset} is not what was accepted")


def _turn(view: LogView, turn: TurnLog) -> Iterator[Anomaly]:
    if turn.accepted is None:
        yield Anomaly(kind="turn never accepted", where=turn.where, text="but it has events")
        return
    if len(turn.ends) > 1:
        text = f"at {[event.offset for event in turn.ends]}"
        yield Anomaly(kind="terminal event twice", where=turn.where, text=text)
    if not turn.ends and view.history.drained:
        text = f"accepted at {turn.accepted.offset}, {len(turn.starts)} attempts"
        yield Anomaly(kind="no terminal event", where=turn.where, text=text)
    attempts = [start.header.attempt for start in turn.starts]
    if attempts != list(range(1, len(attempts) + 1)):
        yield Anomaly(kind="attempts out of order", where=turn.where, text=f"{attempts}")
    yield from _order(turn)
    if turn.ends and isinstance(turn.ends[0].payload, ev.TurnCompleted):
        open_calls = [call.call.call_id for call in turn.calls if call.result is None and not call.call.client]
        handed_over = any(call.result is None and call.call.client for call in turn.calls)
        if handed_over != turn.ends[0].payload.requires_action:
            yield Anomaly(kind="turn ended otherwise", where=turn.where, text=f"{turn.ends[0].payload}")
        if open_calls:
            yield Anomaly(kind="call without a result", where=turn.where, text=f"completed, and {open_calls} are open")


def _order(turn: TurnLog) -> Iterator[Anomaly]:
    """Accepted, then started, then messages and the end of the newest attempt, then nothing."""
    assert turn.accepted is not None
    events = sorted([*turn.starts, *turn.messages, *turn.ends], key=lambda event: event.offset)
    attempt, ended = 0, False
    for event in events:
        if ended and not isinstance(event.payload, TERMINAL):
            yield Anomaly(kind="event after the terminal one", where=turn.where, text=f"@{event.offset}")
        if isinstance(event.payload, ev.TurnStarted):
            attempt = event.header.attempt
        elif event.header.attempt != attempt:
            text = f"@{event.offset} is of attempt {event.header.attempt}, {attempt} is running"
            yield Anomaly(kind="event of another attempt", where=turn.where, text=text)
        ended = ended or isinstance(event.payload, TERMINAL)
    if events and events[0].offset < turn.accepted.offset:
        yield Anomaly(kind="turn never accepted", where=turn.where, text=f"@{events[0].offset} comes before")


def _client_calls(where: str, view: LogView, messages: Sequence[LoggedEvent]) -> Iterator[Anomaly]:
    """Every call that a client runs has one result, right behind it: its output as accepted, or that none came."""
    owed: list[str] = []
    for event in messages:
        message, accepted = (
            event.payload,
            view.turns[event.header.turn_id or ""].accepted if event.header.turn_id else None,
        )
        if message.role == "tool" and message.tool_call_id in owed:
            owed.remove(message.tool_call_id)
            outputs = getattr(accepted.payload if accepted is not None else None, "outputs", ())
            said = [output.output for output in outputs if output.call_id == message.tool_call_id]
            if not (message.interrupted or message.imported) and content_text(message.content) not in said:
                yield Anomaly(kind="message altered", where=where, text=f"@{event.offset} is no output of its request")
        elif message.role != "tool" and owed:
            yield Anomaly(kind="call without a result", where=where, text=f"{owed} are open at @{event.offset}")
            return
        owed += [call.call_id for call in message.tool_calls if call.client]
