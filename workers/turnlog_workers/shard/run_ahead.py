"""Decisions of one epoch: requests and outcomes become groups of records, with the effects that wait for them.

Requests are decided strictly in offset order on the state that the groups before will lead to. All events of a
decision go into one group, and a group is one record batch; of a decision only the last event raises ``accepted``.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.events import (
    PARTITION,
    EventHeader,
    HistoryCompacted,
    HistoryCompactionRequested,
    RequestDeadLettered,
    RequestsLost,
    SessionErased,
    TurnCancelled,
    TurnStarted,
)
from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.facts import Fact
from turnlog_streams.folding.fold import StreamState
from turnlog_streams.forwarding import Forward
from turnlog_streams.history.view import GIVEN
from turnlog_streams.lookups import NOTHING, Found, Written
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import Refuse
from turnlog_streams.reply import Reply, unrecorded_refusal
from turnlog_streams.session.commands import SessionCommand
from turnlog_streams.session.decide import decide
from turnlog_streams.session.state import OwedRun, evolve
from turnlog_workers.base.ports import EventLog, NewRecord, RecordsRefusedError
from turnlog_workers.base.trace_context import trace_headers
from turnlog_workers.intake.request_reader import StreamCommand
from turnlog_workers.kafka.event_log import BATCH_OVERHEAD_BYTES
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.shard.stream import AnyStream

StreamName = tuple[str, str]  #: kind and id


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What happens when the record at ``index`` of its group is confirmed (-1: nothing was recorded)."""

    index: int
    stream: AnyStream
    reply: Reply | None = None
    start: str | None = None  #: turn id
    cancel: str | None = None  #: turn id
    compact: OwedRun | None = None
    reset: bool = False  #: a runner that knows the history as it was is of no use any more


@dataclass(frozen=True, slots=True)
class Decision:
    """How a decision is made again, and what is decided instead of one that the broker does not take."""

    again: Callable[[], Awaitable[None]]
    refused: Callable[[RecordsRefusedError], Awaitable[None]]


class Touched(NamedTuple):
    """What a record does to its stream."""

    stream: AnyStream
    after: StreamState
    written: Written


@dataclass(slots=True, kw_only=True)
class Group:
    """One record batch and what waits for it."""

    before: tuple[int, int, int]  #: next n, decided and open turns
    ways_back: list[Callable[[], None]] = field(default_factory=list)  #: of each decision's stream
    decisions: list[Decision] = field(default_factory=list)

    records: list[NewRecord] = field(default_factory=list)
    touched: list[Touched | None] = field(default_factory=list)  #: by record
    effects: list[Effect] = field(default_factory=list)
    outboxes: dict[StreamName, tuple[Forward, ...]] = field(default_factory=dict)  #: as they are after this group
    done: list[Callable[[], None]] = field(default_factory=list)
    covered: int = -1  #: requests up to here are decided once this group is confirmed
    size_bytes: int = BATCH_OVERHEAD_BYTES


class DecisionTooLargeError(Exception):
    """The events of one decision do not fit into one batch."""


class RunAhead:
    """Run-ahead state of one epoch."""

    def __init__(
        self,
        log: EventLog,
        partition: int,
        *,
        epoch: int,
        accepted: int,
        replied: Callable[[], int],
        policy: Callable[[], Policy],
        now_ms: Callable[[], int],
        max_batch_bytes: int,
    ) -> None:
        self._log = log
        self._partition = partition
        self.epoch = epoch
        self._next_n = 0
        self.decided = accepted  #: every request up to this offset is decided
        self._replied = replied
        self._policy = policy
        self._now_ms = now_ms
        self._max_batch_bytes = max_batch_bytes
        self.group_bytes: int | None = None  #: of groups with several decisions, where the log takes no larger ones
        self.groups: list[Group] = []
        self.open_turns = 0  #: of this partition's sessions

    def take_groups(self) -> list[Group]:
        """The groups decided since the last call, to be appended in this order."""
        groups, self.groups = self.groups, []
        return groups

    def _group(self, size_bytes: int) -> Group:
        """The open group, or a new one where the decision would not fit."""
        if size_bytes + BATCH_OVERHEAD_BYTES > self._max_batch_bytes:
            raise DecisionTooLargeError(f"a decision of {size_bytes} bytes; at most {self._max_batch_bytes} fit")
        limit = self._max_batch_bytes if self.group_bytes is None else min(self.group_bytes, self._max_batch_bytes)
        if not self.groups or self.groups[-1].size_bytes + size_bytes > limit:
            covered = self.groups[-1].covered if self.groups else -1
            self.groups.append(Group(before=(self._next_n, self.decided, self.open_turns), covered=covered))
        return self.groups[-1]

    def note(self, decision: Decision) -> None:
        """How the newest decision is made again, if it must be."""
        self.groups[-1].decisions.append(decision)

    def take_back(self, groups: Sequence[Group]) -> None:
        """These were the last ones, and nothing of them is in the log: as if they had not been decided."""
        for group in reversed(groups):
            for way_back in reversed(group.ways_back):
                way_back()
        self._next_n, self.decided, self.open_turns = groups[0].before

    # ---- requests

    def request(self, offset: int, stream: AnyStream, command: StreamCommand, found: Found = NOTHING) -> None:
        """Decide the request at ``offset``; it is the next one. ``found``: all that the stream needs for it."""
        policy = self._policy()
        facts = stream.decide(command, policy, found)
        # Where nothing changes, the answer comes first: one that fails then leaves no trace.
        replies = stream.answers(command, facts, policy, found) if not facts else []
        self._record(stream, facts, decided=offset, found=found)
        self._answer(stream, replies if not facts else stream.answers(command, facts, policy, found))

    def _answer(self, stream: AnyStream, replies: Sequence[Reply]) -> None:
        self.groups[-1].effects.extend(Effect(index=-1, stream=stream, reply=reply) for reply in replies)

    def refuse(self, offset: int, stream: AnyStream, command: StreamCommand, code: str, reason: str) -> None:
        """Nothing is decided for the stream: no event, and the caller is told."""
        self.nothing(offset)
        self.tell(stream, command, code, reason)

    def tell(self, stream: AnyStream, command: StreamCommand, code: str, reason: str) -> None:
        """A refusal that no event tells of, to the sender of the request that was decided last, if there is one."""
        request_id = getattr(command, "request_id", None)
        if request_id is None:
            return
        address, digest = getattr(command, "reply", ReplyAddress()), getattr(command, "command_hash", "")
        refused = Refuse(request_id=request_id, command_hash=digest, code=code, reason=reason, reply=address)
        self._answer(stream, [unrecorded_refusal(stream.kind, stream.stream_id, refused)])

    def nothing(self, offset: int) -> None:
        """The request at ``offset`` leads to no event (sent on, or not there)."""
        self._group(0).covered = offset
        self.decided = offset

    def dead_letter(self, offset: int, code: str, reason: str) -> None:
        """The request at ``offset`` is parked: its bytes are stored already."""
        self._partition_event(RequestDeadLettered(offset=offset, code=code, reason=reason[:1000]), decided=offset)

    def lost(self, first: int, last: int, reason: str) -> None:
        """Requests that were never accepted are gone, or nobody can tell them apart."""
        event = RequestsLost(from_offset=first, to_offset=last, reason=reason[:1000])
        self._partition_event(event, decided=last)

    def _partition_event(self, payload: RequestDeadLettered | RequestsLost, *, decided: int) -> None:
        header = EventHeader(
            stream_kind=PARTITION,
            stream_id=str(self._partition),
            stream_version=0,
            epoch=self.epoch,
            n=self._next_n,
            accepted=decided,
            replied=self._replied(),
            recorded_at=self._now_ms(),
        )
        record = self._log.encode(header, payload, str(self._partition).encode())
        group = self._group(record.size_bytes)
        self._next_n += 1
        self.decided = decided
        group.records.append(record)
        group.touched.append(None)
        group.size_bytes += record.size_bytes
        group.covered = decided

    # ---- outcomes

    def outcome(
        self, stream: SessionInMemory, commands: Sequence[SessionCommand], done: Callable[[], None] | None = None
    ) -> None:
        """Decide what a runner produced (or what a new owner does), as one decision."""
        facts: list[Fact] = []
        session = stream.state
        for command in commands:
            decided = decide(session, command, self._policy())
            facts.extend(decided)
            if command is not commands[-1]:  # what comes after the last one is folded when it is recorded
                for fact in decided:
                    session = evolve(session, fact)
        self._record(stream, facts, decided=None)
        if done is not None:
            self._group(0).done.append(done)

    # ---- recording

    def _record(self, stream: AnyStream, facts: Sequence[Fact], *, decided: int | None, found: Found = NOTHING) -> None:
        """Put a decision into a group and let the run-ahead state follow.

        Everything is as it was until every record is encoded and fits: a failing decision leaves no trace.
        """
        way_back, outbox, open_turns = stream.way_back(), stream.outbox, stream.open_turns
        records: list[NewRecord] = []
        touched: list[Touched] = []
        replies: list[tuple[int, Reply]] = []
        size = 0
        kind, stream_id, key = stream.kind, stream.stream_id, stream.stream_id.encode()
        replied, now_ms, last = self._replied(), self._now_ms(), len(facts) - 1
        try:
            for index, fact in enumerate(facts):
                header = EventHeader(
                    stream_kind=kind,
                    stream_id=stream_id,
                    stream_version=stream.version + 1,
                    epoch=self.epoch,
                    n=self._next_n + index,
                    accepted=decided if index == last and decided is not None else self.decided,
                    replied=replied,
                    turn_id=fact.turn_id,
                    attempt=fact.attempt,
                    recorded_at=now_ms,
                )
                record = self._log.encode(header, fact.event, key, _trace(stream, fact))
                records.append(record)
                size += record.size_bytes
                replies += [(index, reply) for reply in stream.take(fact, found)]
                touched.append(Touched(stream, stream.state, stream.written))
            group = self._group(size)
            base = len(group.records)
            effects = [Effect(index=base + index, stream=stream, reply=reply) for index, reply in replies]
            if isinstance(stream, SessionInMemory):
                effects = [*_cancels(stream, facts, base), *effects, *_work(stream, facts, base)]
        except BaseException:
            way_back()
            raise
        self._next_n += len(records)
        self.open_turns += stream.open_turns - open_turns
        if stream.outbox is not outbox:
            group.outboxes[kind, stream_id] = stream.outbox
        group.ways_back.append(way_back)
        group.records += records
        group.touched += touched
        group.size_bytes += size
        group.effects += effects
        if decided is not None:
            group.covered = decided
            self.decided = decided


def _cancels(stream: SessionInMemory, facts: Sequence[Fact], base: int) -> list[Effect]:
    """Runners that have to stop. ``base``: where the facts begin in their group."""
    return [
        Effect(index=base + index, stream=stream, cancel=fact.turn_id)
        for index, fact in enumerate(facts)
        if fact.turn_id and isinstance(fact.event, TurnCancelled)
    ]


def _work(stream: SessionInMemory, facts: Sequence[Fact], base: int) -> list[Effect]:
    """What the session's actor has to do after a decision."""
    effects: list[Effect] = []
    session, last = stream.state, base + len(facts) - 1
    started = [fact.turn_id for fact in facts if isinstance(fact.event, TurnStarted)]
    if started and session.running == started[-1]:
        effects.append(Effect(index=last, stream=stream, start=session.running))
    if any(isinstance(fact.event, SessionErased) for fact in facts):
        return [*effects, Effect(index=last, stream=stream, reset=True)]
    match facts[-1].event if facts else None:
        case HistoryCompactionRequested():
            effects.append(Effect(index=last, stream=stream, compact=session.owed_runs[-1]))
        case HistoryCompacted(method=method) if method == GIVEN:  # together with its request, which it ends
            effects.append(Effect(index=last, stream=stream, reset=True))
    return effects


def _trace(stream: AnyStream, fact: Fact) -> Sequence[tuple[str, bytes]]:
    """The trace context of the request that caused this event."""
    cause = stream.asked_by(fact)
    if cause is None or not cause.traceparent:
        return ()
    return trace_headers(cause.traceparent, cause.tracestate)
