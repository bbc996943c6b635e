"""Checks of what the world saw: reply frames and tools. An effect must follow an event that readers accept."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.checker.history import Anomaly, SeenFrame, ToolRun
from tests.checker.history_compactions import backed_page, backed_run, unheard_runs
from tests.checker.log_view import CallLog, Decision, LogView, TurnLog
from tests.checker.log_view import early as _early
from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.parts import content_text

_TERMINAL_EVENT = {fr.TurnCompleted: ev.TurnCompleted, fr.TurnFailed: ev.TurnFailed, fr.TurnCancelled: ev.TurnCancelled}
#: What answers a request that became no turn of its own.
_ANSWERS = {
    ev.RequestRefused: fr.RequestRefused,
    ev.TurnCancelled: fr.TurnCancelled,
    ev.RequestDecided: fr.SessionInfo,
    ev.SessionErased: fr.SessionErased,
}


# ---- frames


def check_frames(view: LogView) -> Iterator[Anomaly]:
    """Every anomaly of the reply frames."""
    yield from _attempts(view)
    heard: set[str] = set()
    answered: set[tuple[str, str, type]] = set()
    for seen in view.history.frames:
        yield from _backed(view, seen)
        answered |= {(name, seen.header.request_id, type(seen.frame)) for name in streams_of(seen)}
        if type(seen.frame) in _TERMINAL_EVENT and seen.header.turn_id:
            heard.add(seen.header.turn_id)
    if not view.history.drained:
        return
    erased = {(name, request) for name, request, kind in answered if kind is fr.RequestRefused and name in view.erased}
    for turn in view.turns.values():
        told = turn.accepted is not None and (turn.session_id, turn.accepted.payload.request_id) in erased
        if turn.ends and turn.turn_id not in heard and not told:
            text = f"it ended at {turn.ends[0].offset}, no frame said so"
            yield Anomaly(kind="terminal frame missing", where=turn.where, text=text)
    for (stream_id, request_id), decisions in view.decisions.items():
        for event in {type(decision.event) for decision in decisions} & _ANSWERS.keys():
            if (stream_id, request_id, _ANSWERS[event]) not in answered and (stream_id, request_id) not in erased:
                where = f"session or channel {stream_id}, request {request_id}"
                text = f"{event.__name__} is in the log, no frame said so"
                yield Anomaly(kind="terminal frame missing", where=where, text=text)
    yield from unheard_runs(view)


def streams_of(seen: SeenFrame) -> set[str]:
    """The session or channel that answers; what tells of a session names its channel, too."""
    return {name for name in (seen.header.channel, seen.header.session_id) if name}


def _decisions(view: LogView, seen: SeenFrame) -> list[Decision]:
    """How the request that a frame answers was decided."""
    return [each for name in streams_of(seen) for each in view.decisions.get((name, seen.header.request_id), ())]


def _attempts(view: LogView) -> Iterator[Anomaly]:
    """Frames of one attempt of one owner: numbered without gaps, nothing new after the terminal one.

    Where the broker or the way there failed, what was not acknowledged may come late, and a second time.
    """
    next_seq: dict[tuple[str, int, int], int] = defaultdict(int)
    ended: set[tuple[str, int, int]] = set()
    for seen in view.history.frames:
        header = seen.header
        if header.turn_id is None:
            continue
        key = header.turn_id, header.epoch, header.attempt
        where = f"{seen.topic}[{seen.partition}]@{seen.offset}, turn {header.turn_id}, attempt {header.attempt}"
        terminal = isinstance(seen.frame, fr.TERMINAL_FRAMES)
        late = view.history.frames_may_be_lost and header.frame_seq < next_seq[key]
        if not terminal and key in ended and not late:
            text = f"{type(seen.frame).__name__} {header.frame_seq}"
            yield Anomaly(kind="frame after the terminal one", where=where, text=text)
        if header.frame_seq > next_seq[key] and not view.history.frames_may_be_lost:
            text = f"frame_seq {header.frame_seq}, not {next_seq[key]}"
            yield Anomaly(kind="frame_seq gap", where=where, text=text)
        next_seq[key] = max(next_seq[key], header.frame_seq + 1)
        if terminal:
            ended.add(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class LateFrame:
    """A frame that ends nothing, behind the end of its own attempt."""

    where: str
    again: bool  #: it was there in time, and this is a second one


def late_frames(frames: Sequence[SeenFrame]) -> list[LateFrame]:
    """No anomalies where a broker fails: a produce that it did not answer in time is sent again, and both may arrive.

    A frame that may be dropped is not sent again, so that it may arrive behind the end for the first time.
    """
    seen_before: set[tuple[str, int, int, int]] = set()
    ended: set[tuple[str, int, int]] = set()
    late: list[LateFrame] = []
    for seen in frames:
        header = seen.header
        if header.turn_id is None:
            continue
        key = header.turn_id, header.epoch, header.attempt
        number = (*key, header.frame_seq)
        if key in ended and not isinstance(seen.frame, fr.TERMINAL_FRAMES):
            where = f"{seen.topic}[{seen.partition}]@{seen.offset}, turn {header.turn_id}, attempt {header.attempt}"
            what = f"{where}: {type(seen.frame).__name__} {header.frame_seq}"
            late.append(LateFrame(where=what, again=number in seen_before))
        seen_before.add(number)
        if isinstance(seen.frame, fr.TERMINAL_FRAMES):
            ended.add(key)
    return late


def _backed(view: LogView, seen: SeenFrame) -> Iterator[Anomaly]:
    """Is there the event that the frame reports?"""
    header, frame = seen.header, seen.frame
    where = f"{seen.topic}[{seen.partition}]@{seen.offset}, request {header.request_id}, epoch {header.epoch}"
    asked = {(name, header.request_id) for name in streams_of(seen)}
    if not view.queries.isdisjoint(asked):
        yield from _true(view, seen, where)
        return
    erased = isinstance(frame, fr.SessionErased) or (isinstance(frame, fr.RequestRefused) and frame.code == "erased")
    if erased:  # nothing more is written of what is asked of such a session
        offset = view.erased.get(header.session_id)
        if offset is None or _early(seen, offset):
            yield Anomaly(kind="effect without its event", where=where, text="of a session that is not erased")
        return
    if isinstance(frame, fr.RequestRefused):
        decisions = _decisions(view, seen)
        offsets = [d.offset for d in decisions if isinstance(d.event, ev.RequestRefused) and d.event.code == frame.code]
        if frame.code != "newer_version" and (not offsets or _early(seen, min(offsets))):
            yield Anomaly(kind="effect without its event", where=where, text=f"refused as {frame.code}")
        return
    if isinstance(frame, fr.SessionInfo):
        decided = [
            decision.offset for decision in _decisions(view, seen) if isinstance(decision.event, ev.RequestDecided)
        ]
        if not decided or _early(seen, min(decided)):
            yield Anomaly(kind="effect without its event", where=where, text="an answer that is not in the log")
        return
    if isinstance(frame, fr.HistoryCompacted | fr.HistoryCompactionFailed):
        yield from backed_run(view, seen, where)
        return
    turn = view.turns.get(header.turn_id or "")
    if turn is None or turn.accepted is None or _early(seen, turn.accepted.offset):
        yield Anomaly(kind="effect without its event", where=where, text=f"{type(frame).__name__} of no accepted turn")
        return
    if type(frame) in _TERMINAL_EVENT:
        yield from _backed_end(turn, seen, where)
        return
    if isinstance(frame, fr.TurnAccepted):
        return
    if isinstance(frame, fr.MessageStored | fr.ToolCallStarted):
        stored = [
            message.offset
            for message in turn.messages
            if message.payload.message_seq == frame.message_seq
            and (message.header.epoch, message.header.attempt) == (header.epoch, header.attempt)
        ]
        if not stored or _early(seen, stored[0]):
            text = f"{type(frame).__name__}: message {frame.message_seq} is not in the log"
            yield Anomaly(kind="effect without its event", where=where, text=text)
        return
    start = turn.start_of(header.attempt, header.epoch)
    if start is None or _early(seen, start.offset):
        text = f"{type(frame).__name__} of attempt {header.attempt} that this owner did not start"
        yield Anomaly(kind="effect without its event", where=where, text=text)


def _true(view: LogView, seen: SeenFrame, where: str) -> Iterator[Anomaly]:
    """Does the answer to a query say nothing but what is in the log?"""
    header, frame = seen.header, seen.frame
    if isinstance(frame, fr.RequestRefused):
        return
    if (header.channel or "", header.request_id) in view.queries:
        opened = view.opened.get((header.channel or "", header.session_id))
        if opened is None or _early(seen, opened):
            text = f"the active session is {header.session_id}, which the channel did not open"
            yield Anomaly(kind="effect without its event", where=where, text=text)
        return
    stored = {
        event.payload.message_seq: event.payload
        for event in view.sessions.get((seen.partition, header.session_id), ())
        if isinstance(event.payload, ev.MessageStored) and not _early(seen, event.offset)
    }
    if isinstance(frame, fr.SessionInfo) and (frame.messages or 0) > len(stored):
        text = f"{frame.messages} messages, {len(stored)} are in the log"
        yield Anomaly(kind="effect without its event", where=where, text=text)
    for entry in frame.messages if isinstance(frame, fr.HistoryPage) else ():
        message = stored.get(entry.message_seq)
        if message is None or (entry.role, entry.content) != (message.role, message.content):
            text = f"message {entry.message_seq} of the history is not in the log"
            yield Anomaly(kind="effect without its event", where=where, text=text)
    if isinstance(frame, fr.HistoryPage):
        yield from backed_page(view, seen, where)


def _backed_end(turn: TurnLog, seen: SeenFrame, where: str) -> Iterator[Anomaly]:
    frame = seen.frame
    if not turn.ends or _early(seen, turn.ends[0].offset):
        yield Anomaly(kind="effect without its event", where=where, text=f"{type(frame).__name__}, the turn is open")
        return
    end = turn.ends[0].payload
    if not isinstance(end, _TERMINAL_EVENT[type(frame)]):
        text = f"{type(frame).__name__}, the log says {type(end).__name__}"
        yield Anomaly(kind="terminal frame contradicts the log", where=where, text=text)
    elif isinstance(frame, fr.TurnCompleted):
        texts = [content_text(m.payload.content) or "" for m in turn.messages if m.payload.role == "assistant"]
        if frame.text != (texts[-1] if texts else ""):
            text = f"text {frame.text[:50]!r}, the log says {(texts[-1] if texts else '')[:50]!r}"
            yield Anomaly(kind="terminal frame contradicts the log", where=where, text=text)
        handed_over = [call.call for call in turn.calls if call.result is None and call.call.client]
        if list(frame.pending_calls) != (handed_over if end.requires_action else []):
            text = f"pending calls {frame.pending_calls}, the log says {handed_over}"
            yield Anomaly(kind="terminal frame contradicts the log", where=where, text=text)


# ---- tools


def check_tools(view: LogView) -> Iterator[Anomaly]:
    """Every anomaly of the tools that were started."""
    calls = {call.call.idempotency_key: (turn, call) for turn in view.turns.values() for call in turn.calls}
    runs: dict[str, list[ToolRun]] = defaultdict(list)
    for run in view.history.tool_runs:
        if run.what != "start":
            continue
        where = f"tool {run.idempotency_key}, attempt {run.attempt}, epoch {run.fencing_token}"
        found = calls.get(run.idempotency_key)
        if found is None:
            yield Anomaly(kind="tool before its call", where=where, text="the call is not in the log")
        else:
            yield from _tool(view, run, *found, where)
        before = runs[run.idempotency_key]
        repeatable = run.idempotent and (found is None or found[1].call.idempotent)
        if any((o.attempt, o.fencing_token) == (run.attempt, run.fencing_token) for o in before):
            yield Anomaly(kind="tool run twice", where=where, text="by one owner in one attempt")
        elif before and not repeatable:
            yield Anomaly(kind="tool run twice", where=where, text="it is not idempotent")
        before.append(run)


def _tool(view: LogView, run: ToolRun, turn: TurnLog, call: CallLog, where: str) -> Iterator[Anomaly]:
    start = turn.start_of(run.attempt, run.fencing_token)
    if start is None:
        yield Anomaly(kind="effect without its event", where=where, text="by an owner that did not start the attempt")
        return
    if run.log_end is not None and call.offset >= run.log_end:
        yield Anomaly(kind="tool before its call", where=where, text=f"the call is stored at {call.offset}")
    if start.offset < call.offset and run.attempt < turn_attempt_of(turn, call):
        yield Anomaly(kind="tool before its call", where=where, text="a later attempt stored the call")
    if call.result is None:
        return
    # A paused owner may start a tool whose call another one has closed meanwhile: its attempt began before that.
    owner = run.log_end is not None and view.owner_at(turn.partition, run.log_end) == run.fencing_token
    if call.result.offset < start.offset or (owner and call.result.offset < (run.log_end or 0)):
        text = f"its result is stored at {call.result.offset}"
        yield Anomaly(kind="tool run after its result", where=where, text=text)


def turn_attempt_of(turn: TurnLog, call: CallLog) -> int:
    """The attempt that stored a call."""
    return next(message.header.attempt for message in turn.messages if message.offset == call.offset)
