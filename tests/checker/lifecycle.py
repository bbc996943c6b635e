"""Checks between sessions and their channels, of a log that has drained."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tests.checker.history import Anomaly
from tests.checker.log_view import accepted_events
from turnlog_schemas import events as ev
from turnlog_streams.reader_rule import LoggedEvent


def check_lifecycle(log: Mapping[int, Sequence[LoggedEvent]]) -> Iterator[Anomaly]:
    """Every session that belongs to a channel is in it, once, any other in none; those of channels were created.

    What is erased is erased in its channel, too.
    """
    opened: dict[str, list[str]] = defaultdict(list)
    created: dict[str, str | None] = {}
    erased: set[str] = set()
    erased_in: dict[str, list[str]] = defaultdict(list)
    for events in log.values():
        for event in accepted_events(events):
            if isinstance(event.payload, ev.ChannelSessionOpened):
                opened[event.payload.session_id].append(event.header.stream_id)
            elif isinstance(event.payload, ev.SessionCreated):
                created[event.header.stream_id] = event.payload.new_session.channel
            elif isinstance(event.payload, ev.SessionErased):
                erased.add(event.header.stream_id)
            elif isinstance(event.payload, ev.ChannelSessionErased):
                erased_in[event.payload.session_id].append(event.header.stream_id)
    for session_id, channel in created.items():
        if opened[session_id] != ([channel] if channel is not None else []):
            text = f"its channel is {channel}, opened in {opened[session_id]}"
            yield Anomaly(kind="session not in its channel", where=f"session {session_id}", text=text)
    for session_id in erased | erased_in.keys():
        wanted = [created[session_id]] if session_id in erased and created.get(session_id) is not None else []
        if erased_in[session_id] != wanted:
            text = f"erased: {session_id in erased}, in channels {erased_in[session_id]}, not {wanted}"
            yield Anomaly(kind="session not erased in its channel", where=f"session {session_id}", text=text)
    for session_id in opened.keys() - created.keys():
        yield Anomaly(kind="session not created", where=f"session {session_id}", text=f"opened in {opened[session_id]}")
