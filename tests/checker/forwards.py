"""Checks of what streams tell each other: each forward is heard once, in order, and its source gets to know."""

from collections import defaultdict
from collections.abc import Iterator

from tests.checker.history import Anomaly
from tests.checker.log_view import LogView
from turnlog_schemas import events as ev

Stream = tuple[str, str]  #: kind and id


def check_forwards(view: LogView) -> Iterator[Anomaly]:
    """Every anomaly between the outboxes and those who were meant."""
    told: dict[tuple[Stream, Stream], list[int]] = defaultdict(list)
    sent: dict[Stream, list[int]] = defaultdict(list)
    heard: dict[tuple[Stream, Stream], list[int]] = defaultdict(list)
    done: dict[Stream, list[int]] = defaultdict(list)
    for events in view.accepted.values():
        for event in events:
            here = event.header.stream_kind, event.header.stream_id
            match event.payload:
                case ev.CommandForwarded(seq=seq, target_kind=kind, target_id=name):
                    sent[here].append(seq)
                    told[here, (kind, name)].append(seq)
                case ev.ForwardReceived(seq=seq, source_kind=kind, source_id=name):
                    heard[(kind, name), here].append(seq)
                case ev.ForwardDelivered(seq=seq):
                    done[here].append(seq)
    for source, seqs in sent.items():
        if seqs != list(range(1, len(seqs) + 1)):
            yield Anomaly(kind="forward numbers", where=f"{source[0]} {source[1]}", text=f"{seqs}")
    for pair in told.keys() | heard.keys():
        yield from _heard(view, pair, told.get(pair, []), heard.get(pair, []))
    for source in sent.keys() | done.keys():
        yield from _done(view, source, sent.get(source, []), done.get(source, []))


def _heard(view: LogView, pair: tuple[Stream, Stream], told: list[int], heard: list[int]) -> Iterator[Anomaly]:
    """In order, without holes; a forward that is not there yet may only be missing before the end."""
    (source_kind, source), (target_kind, target) = pair
    where = f"{source_kind} {source} to {target_kind} {target}"
    if len(set(heard)) < len(heard):
        yield Anomaly(kind="forward heard twice", where=where, text=f"{heard}")
    elif heard != told[: len(heard)]:
        yield Anomaly(kind="forward lost or reordered", where=where, text=f"heard {heard}, told {told}")
    elif view.history.drained and len(heard) < len(told):
        yield Anomaly(kind="forward lost or reordered", where=where, text=f"{told[len(heard) :]} never arrived")


def _done(view: LogView, source: Stream, sent: list[int], done: list[int]) -> Iterator[Anomaly]:
    where = f"{source[0]} {source[1]}"
    if len(set(done)) < len(done) or not set(done) <= set(sent):
        yield Anomaly(kind="forward delivered twice", where=where, text=f"delivered {done} of {sent}")
    elif view.history.drained and set(done) != set(sent):
        text = f"{sorted(set(sent) - set(done))} are pending for ever"
        yield Anomaly(kind="forward lost or reordered", where=where, text=text)
