"""Checks between sessions and their channels, of a log that has drained."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tests.checker.history import Anomaly
from tests.checker.log_view import accepted_events
from turnlog_schemas import events as ev
from turnlog_streams.reader_rule import LoggedEvent


def check_lifecycle(log: Mapping[int, Sequence[LoggedEvent]]) -> Iterator[Anomaly]:
    """Every session that belongs to a channel is in it, once, any other in none; those of channels were created."""
    opened: dict[str, list[str]] = defaultdict(list)
    created: dict[str, str | None] = {}
    for events in log.values():
        for event in accepted_events(events):
            if isinstance(event.payload, ev.ChannelSessionOpened):
                opened[event.payload.session_id].append(event.header.stream_id)
            elif isinstance(event.payload, ev.SessionCreated):
                created[event.header.stream_id] = event.payload.new_session.channel
    for session_id, channel in created.items():
        if opened[session_id] != ([channel] if channel is not None else []):
            text = f"its channel is {channel}, opened in {opened[session_id]}"
            yield Anomaly(kind="session not in its channel", where=f"session {session_id}", text=text)
    for session_id in opened.keys() - created.keys():
        yield Anomaly(kind="session not created", where=f"session {session_id}", text=f"opened in {opened[session_id]}")
