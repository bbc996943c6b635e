"""The log as its readers must see it, indexed for the checks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.checker.history import Anomaly, History, SeenFrame, SentRequest
from turnlog_schemas import events as ev
from turnlog_schemas.parts import ToolCall
from turnlog_streams.reader_rule import LoggedEvent

ACCEPTED = (ev.TurnAccepted, ev.ToolOutputsAccepted)
TERMINAL = (ev.TurnCompleted, ev.TurnFailed, ev.TurnCancelled)
_DECIDES = (*(*ACCEPTED, ev.RequestRefused, ev.RequestDecided, ev.HistoryCompactionRequested, ev.SessionErased),)
RUN_ENDS = (ev.HistoryCompacted, ev.HistoryCompactionFailed, ev.HistoryCompactionSkipped)


def accepted_events(log: Sequence[LoggedEvent]) -> list[LoggedEvent]:
    """What the reader's rule accepts of one partition.

    Said once more on purpose, in other words than ``reader_rule``: a fault there must not hide itself here.
    """
    accepted = []
    claim, expected = None, 0
    for event in log:
        if isinstance(event.payload, ev.PartitionClaimed):
            claim, expected = event.offset, 0
            accepted.append(event)
        elif claim is not None and (event.header.epoch, event.header.n) == (claim, expected):
            expected += 1
            accepted.append(event)
    return accepted


def early(frame: SeenFrame, offset: int) -> bool:
    """Was the frame there before the event?"""
    return frame.log_end is not None and offset >= frame.log_end


@dataclass(slots=True, kw_only=True)
class Decision:
    """An accepted event that decides a request."""

    partition: int
    offset: int
    command_hash: str
    event: (
        ev.TurnAccepted
        | ev.ToolOutputsAccepted
        | ev.RequestRefused
        | ev.TurnCancelled
        | ev.RequestDecided
        | ev.HistoryCompactionRequested
        | ev.SessionErased
    )


@dataclass(slots=True, kw_only=True)
class RunLog:
    """A history compaction that has a request: who asked for it, and how it ended."""

    partition: int
    session_id: str
    request_id: str
    requested: LoggedEvent | None = None
    ends: list[LoggedEvent] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"partition {self.partition}, session {self.session_id}, request {self.request_id}"


@dataclass(slots=True, kw_only=True)
class CallLog:
    """A stored tool call, and where its result is stored."""

    call: ToolCall
    offset: int
    result: LoggedEvent | None = None


@dataclass(slots=True, kw_only=True)
class TurnLog:
    """The accepted events of a turn."""

    turn_id: str
    session_id: str
    partition: int
    accepted: LoggedEvent | None = None
    starts: list[LoggedEvent] = field(default_factory=list)
    messages: list[LoggedEvent] = field(default_factory=list)
    ends: list[LoggedEvent] = field(default_factory=list)
    calls: list[CallLog] = field(default_factory=list)  #: in the order in which they were stored

    @property
    def where(self) -> str:
        return f"partition {self.partition}, session {self.session_id}, turn {self.turn_id}"

    def start_of(self, attempt: int, epoch: int) -> LoggedEvent | None:
        """The event by which an owner started an attempt."""
        for start in self.starts:
            if start.header.attempt == attempt and start.header.epoch == epoch:
                return start
        return None

    def store_message(self, event: LoggedEvent) -> None:
        """Take a message; pair results with calls: the first open one of that id, else the first open one."""
        self.messages.append(event)
        message: ev.MessageStored = event.payload
        if message.role == "assistant":
            self.calls += [CallLog(call=call, offset=event.offset) for call in message.tool_calls]
        elif message.role == "tool":
            waiting = [call for call in self.calls if call.result is None and call.offset == self._asked_at()]
            same = [call for call in waiting if call.call.call_id == message.tool_call_id]
            for call in (same or waiting)[:1]:
                call.result = event

    def _asked_at(self) -> int:
        """Where the newest assistant message is: older calls are given up."""
        return max((m.offset for m in self.messages if m.payload.role == "assistant"), default=-1)


class LogView:
    """All partitions of a history."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.accepted = {partition: accepted_events(log) for partition, log in history.log.items()}
        self.sessions: dict[tuple[int, str], list[LoggedEvent]] = defaultdict(list)
        self.turns: dict[str, TurnLog] = {}
        self.decisions: dict[tuple[str, str], list[Decision]] = defaultdict(list)  #: by stream and request
        self.runs: dict[tuple[str, str], RunLog] = {}  #: by session and request
        self.dead_letters: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.lost: dict[int, list[ev.RequestsLost]] = defaultdict(list)
        self.claims: dict[int, list[int]] = defaultdict(list)
        self.erased: dict[str, int] = {}  #: by session: where it was erased
        self.opened: dict[tuple[str, str], int] = {}  #: by channel and session: where the channel opened it
        self.queries = {
            (request.session_id, self.identity(request)) for request in history.requests if request.asks_only
        }
        self.anomalies: list[Anomaly] = []  #: found while reading
        for partition, events in self.accepted.items():
            for event in events:
                self._take(partition, event)

    def identity(self, request: SentRequest) -> str:
        """The request id that its events and frames carry."""
        return request.request_id or f"{self.history.requests_topic}-{request.partition}-{request.offset}"

    def _take(self, partition: int, event: LoggedEvent) -> None:
        header, payload = event.header, event.payload
        if isinstance(payload, ev.PartitionClaimed):
            self.claims[partition].append(event.offset)
        elif isinstance(payload, ev.RequestDeadLettered):
            self.dead_letters[partition, payload.offset].append(event.offset)
        elif isinstance(payload, ev.RequestsLost):
            self.lost[partition].append(payload)
        elif isinstance(payload, ev.ChannelSessionOpened):
            self.opened.setdefault((header.stream_id, payload.session_id), event.offset)
        if header.stream_kind == ev.CHANNEL and isinstance(payload, ev.RequestDecided | ev.RequestRefused):
            self._decide(partition, event, payload.request_id, payload.command_hash)
        if header.stream_kind != ev.SESSION:
            return
        self.sessions[partition, header.stream_id].append(event)
        if isinstance(payload, ev.SessionErased):
            if header.stream_id in self.erased:
                where = f"partition {partition}, session {header.stream_id}"
                self.anomalies.append(Anomaly(kind="session erased twice", where=where, text=f"@{event.offset}"))
            self.erased.setdefault(header.stream_id, event.offset)
        if isinstance(payload, _DECIDES):
            self._decide(partition, event, payload.request_id, payload.command_hash)
        if isinstance(payload, ev.TurnCancelled) and payload.by is not None:
            self._decide(partition, event, payload.by.request_id, payload.by.command_hash)
        if isinstance(payload, (ev.HistoryCompactionRequested, *RUN_ENDS)) and payload.request_id is not None:
            self._take_run(partition, event, payload.request_id)
        if header.turn_id is not None:
            self._take_turn(partition, event)

    def _take_run(self, partition: int, event: LoggedEvent, request_id: str) -> None:
        session_id = event.header.stream_id
        fresh = RunLog(partition=partition, session_id=session_id, request_id=request_id)
        run = self.runs.setdefault((session_id, request_id), fresh)
        if isinstance(event.payload, RUN_ENDS):
            run.ends.append(event)
        elif run.requested is None:
            run.requested = event

    def _decide(self, partition: int, event: LoggedEvent, request_id: str, command_hash: str) -> None:
        decision = Decision(partition=partition, offset=event.offset, command_hash=command_hash, event=event.payload)
        self.decisions[event.header.stream_id, request_id].append(decision)

    def _take_turn(self, partition: int, event: LoggedEvent) -> None:
        header, payload = event.header, event.payload
        turn_id = header.turn_id or ""
        turn = self.turns.get(turn_id)
        if turn is None:
            turn = self.turns[turn_id] = TurnLog(turn_id=turn_id, session_id=header.stream_id, partition=partition)
        if isinstance(payload, ACCEPTED):
            if turn.accepted is not None:
                self.anomalies.append(Anomaly(kind="turn accepted twice", where=turn.where, text=f"@{event.offset}"))
            turn.accepted = event
        elif isinstance(payload, ev.TurnStarted):
            turn.starts.append(event)
        elif isinstance(payload, ev.MessageStored):
            turn.store_message(event)
        elif isinstance(payload, TERMINAL):
            turn.ends.append(event)

    def owner_at(self, partition: int, log_end: int) -> int:
        """The epoch that readers know of who have read up to here."""
        return max((claim for claim in self.claims[partition] if claim < log_end), default=-1)
