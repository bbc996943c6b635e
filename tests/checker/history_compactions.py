"""Checks of history compactions: who asked for one hears of its end, once; and what a summary may stand for."""

from collections.abc import Iterator, Sequence

from tests.checker.history import Anomaly, SeenFrame
from tests.checker.log_view import LogView, early
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_streams.reader_rule import LoggedEvent


def check_history_compactions(view: LogView) -> Iterator[Anomaly]:
    """Every anomaly of history compactions that the log shows."""
    for run in view.runs.values():
        asked = run.requested.offset if run.requested is not None else None
        if len(run.ends) > 1:
            text = f"at {[event.offset for event in run.ends]}"
            yield Anomaly(kind="history compaction ended twice", where=run.where, text=text)
        if asked is None or any(event.offset < asked for event in run.ends):
            text = f"ended at {run.ends[0].offset}"
            yield Anomaly(kind="history compaction never requested", where=run.where, text=text)
        if view.history.drained and asked is not None and not run.ends:
            yield Anomaly(kind="no end of a history compaction", where=run.where, text=f"requested at {asked}")
    for (partition, session_id), events in view.sessions.items():
        yield from _summaries(f"partition {partition}, session {session_id}", events)


def _summaries(where: str, events: Sequence[LoggedEvent]) -> Iterator[Anomaly]:
    """Of one session: what each summary stands for, in view of the messages and the summary before it."""
    roles: list[str] = []  # of the messages so far
    newest: ev.HistoryCompacted | None = None
    for event in events:
        payload, here = event.payload, f"{where}, @{event.offset}"
        if isinstance(payload, ev.MessageStored):
            roles.append(payload.role)
        elif isinstance(payload, ev.HistoryCompactionFailed):
            yield from _of_somebody(here, payload)
            if payload.history_seq > len(roles):
                text = f"it read {payload.history_seq} messages, {len(roles)} are stored"
                yield Anomaly(kind="history compaction out of range", where=here, text=text)
        elif isinstance(payload, ev.HistoryCompacted):
            yield from _of_somebody(here, payload)
            yield from _range(here, payload, roles)
            if newest is not None:
                yield from _after(here, newest, payload)
            newest = payload


def _of_somebody(where: str, payload: ev.HistoryCompacted | ev.HistoryCompactionFailed) -> Iterator[Anomaly]:
    """A manual run has a request, an automatic one has none."""
    if (payload.trigger, payload.request_id is None) not in {("manual", False), ("automatic", True)}:
        text = f"a run that is {payload.trigger}, of request {payload.request_id}"
        yield Anomaly(kind="history compaction never requested", where=where, text=text)


def _range(where: str, made: ev.HistoryCompacted, roles: Sequence[str]) -> Iterator[Anomaly]:
    """From the first message on, and a tail stays: it begins with a message that needs none before it."""
    if not (made.from_seq == 1 <= made.to_seq < made.history_seq <= len(roles)):
        text = f"{made.from_seq} to {made.to_seq} of {made.history_seq} messages; {len(roles)} are stored"
        yield Anomaly(kind="history compaction out of range", where=where, text=text)
    elif roles[made.to_seq] == "tool":
        text = f"message {made.to_seq + 1} is a result, its call is covered"
        yield Anomaly(kind="cut between a call and its result", where=where, text=text)
    if not made.summary.strip():
        yield Anomaly(kind="history compaction without a summary", where=where, text=f"up to message {made.to_seq}")


def _after(where: str, newest: ev.HistoryCompacted, made: ev.HistoryCompacted) -> Iterator[Anomaly]:
    if made.history_compaction_id == newest.history_compaction_id:
        text = f"{made.history_compaction_id} is the summary that there is"
        yield Anomaly(kind="history compaction recorded twice", where=where, text=text)
    if made.to_seq < newest.to_seq or made.from_seq > newest.from_seq:
        text = f"{made.from_seq} to {made.to_seq}; {newest.from_seq} to {newest.to_seq} were covered"
        yield Anomaly(kind="history compaction covers less", where=where, text=text)


# ---- frames


def backed_run(view: LogView, seen: SeenFrame, where: str) -> Iterator[Anomaly]:
    """Does the end that a frame tells of say the same in the log?"""
    run = view.runs.get((seen.header.session_id, seen.header.request_id))
    what = type(seen.frame).__name__
    if run is None or run.requested is None or not run.ends or early(seen, run.ends[0].offset):
        yield Anomaly(kind="effect without its event", where=where, text=f"{what}, the run has no end")
        return
    told = _told(view, run.partition, run.session_id, run.ends[0])
    if seen.frame != told:
        text = f"{seen.frame}, the log says {told}"
        yield Anomaly(kind="terminal frame contradicts the log", where=where, text=text)


def _told(view: LogView, partition: int, session_id: str, end: LoggedEvent) -> fr.Frame:
    """What the end of a run tells whoever asked for it."""
    event = end.payload
    if isinstance(event, ev.HistoryCompactionFailed):
        return fr.HistoryCompactionFailed(code=event.code, reason=event.reason)
    if isinstance(event, ev.HistoryCompacted):
        return fr.HistoryCompacted(
            summary=event.summary,
            from_seq=event.from_seq,
            to_seq=event.to_seq,
            changed=True,
            tokens_before=event.tokens_before,
            tokens_after=event.tokens_after,
            usage=event.usage,
        )
    before = [e.payload for e in _summaries_of(view, partition, session_id) if e.offset < end.offset]
    if not before:
        return fr.HistoryCompacted(summary="")
    return fr.HistoryCompacted(summary=before[-1].summary, from_seq=before[-1].from_seq, to_seq=before[-1].to_seq)


def _summaries_of(view: LogView, partition: int, session_id: str) -> list[LoggedEvent]:
    events = view.sessions.get((partition, session_id), ())
    return [event for event in events if isinstance(event.payload, ev.HistoryCompacted)]


def unheard_runs(view: LogView) -> Iterator[Anomaly]:
    """Runs that ended and nobody was told of it."""
    heard = {
        (seen.header.session_id, seen.header.request_id)
        for seen in view.history.frames
        if isinstance(seen.frame, fr.HistoryCompacted | fr.HistoryCompactionFailed)
        or (isinstance(seen.frame, fr.RequestRefused) and seen.header.session_id in view.erased)
    }
    for key, run in view.runs.items():
        if run.ends and key not in heard:
            text = f"it ended at {run.ends[0].offset}, no frame said so"
            yield Anomaly(kind="terminal frame missing", where=run.where, text=text)


def backed_page(view: LogView, seen: SeenFrame, where: str) -> Iterator[Anomaly]:
    """What a page of the history says to be covered is what a summary in the log stands for."""
    page: fr.HistoryPage = seen.frame
    known = [
        event.payload
        for event in _summaries_of(view, seen.partition, seen.header.session_id)
        if not early(seen, event.offset)
    ]
    covered = {0} | {made.to_seq for made in known}
    texts = {None} | {made.summary for made in known if made.to_seq == page.covered_to}
    wrong = [entry.message_seq for entry in page.messages if entry.covered != (entry.message_seq <= page.covered_to)]
    if page.covered_to not in covered or page.summary not in texts or wrong:
        text = f"covered up to {page.covered_to} (and {wrong}); summaries in the log end at {sorted(covered)}"
        yield Anomaly(kind="effect without its event", where=where, text=text)
