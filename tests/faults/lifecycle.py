"""Checks of what crosses from one stream to another: told once, heard once, in order, and acknowledged."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from schemas import events as ev
from streams.reader_rule import LoggedEvent
from tests.checker import Anomaly, accepted_events

Stream = tuple[str, str]  #: kind and id


def check_lifecycle(log: Mapping[int, Sequence[LoggedEvent]]) -> Iterator[Anomaly]:
    """Every anomaly of forwards and of channels in a log that has drained."""
    told: dict[Stream, list[ev.CommandForwarded]] = defaultdict(list)
    delivered: dict[Stream, list[int]] = defaultdict(list)
    heard: dict[Stream, dict[Stream, list[int]]] = defaultdict(lambda: defaultdict(list))
    opened: dict[str, list[str]] = defaultdict(list)
    created: dict[str, str] = {}
    for events in log.values():
        for event in accepted_events(events):
            stream, payload = (event.header.stream_kind, event.header.stream_id), event.payload
            if isinstance(payload, ev.CommandForwarded):
                told[stream].append(payload)
            elif isinstance(payload, ev.ForwardDelivered):
                delivered[stream].append(payload.seq)
            elif isinstance(payload, ev.ForwardReceived):
                heard[stream][payload.source_kind, payload.source_id].append(payload.seq)
            elif isinstance(payload, ev.ChannelSessionOpened):
                opened[payload.session_id].append(event.header.stream_id)
            elif isinstance(payload, ev.SessionCreated):
                created[event.header.stream_id] = payload.channel
    for source, forwards in told.items():
        yield from _forwards(source, forwards, delivered[source], heard)
    for session_id, channel in created.items():
        if opened[session_id] != [channel]:
            text = f"its channel is {channel}, opened in {opened[session_id]}"
            yield Anomaly(kind="session not in its channel", where=f"session {session_id}", text=text)
    for session_id in opened.keys() - created.keys():
        yield Anomaly(kind="session not created", where=f"session {session_id}", text=f"opened in {opened[session_id]}")


def _forwards(
    source: Stream,
    forwards: Sequence[ev.CommandForwarded],
    delivered: Sequence[int],
    heard: Mapping[Stream, Mapping[Stream, Sequence[int]]],
) -> Iterator[Anomaly]:
    where = f"{source[0]} {source[1]}"
    seqs = [forward.seq for forward in forwards]
    if seqs != list(range(1, len(seqs) + 1)):
        yield Anomaly(kind="forward gap", where=where, text=f"{seqs}")
    if sorted(delivered) != seqs:
        yield Anomaly(kind="forward not delivered once", where=where, text=f"told {seqs}, delivered {delivered}")
    by_target: dict[Stream, list[int]] = defaultdict(list)
    for forward in forwards:
        by_target[forward.target_kind, forward.target_id].append(forward.seq)
    for target, wanted in by_target.items():
        got = list(heard.get(target, {}).get(source, ()))
        if got != wanted:
            text = f"{target[0]} {target[1]} was told {wanted} and heard {got}"
            yield Anomaly(kind="forward not heard once in order", where=where, text=text)
