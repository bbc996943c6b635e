"""Decisions of one epoch: requests and outcomes become groups of records, with the effects that wait for them.

Requests are decided strictly in offset order on the state that the groups before will lead to. All events of a
decision go into one group, and a group is one record batch; of a decision only the last event raises ``accepted``.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from schemas.events import (
    PARTITION,
    SESSION,
    EventHeader,
    MessageStored,
    RequestDeadLettered,
    RequestsLost,
    TurnStarted,
)
from streams.decisions import decide, known_answer
from streams.history import history_message
from streams.policy import Policy
from streams.replies import Reply, replies_to, reply_again
from streams.session import Fact, Session, evolve
from streams.session_commands import AcceptChat, Refuse, SessionCommand
from workers.cloudevents import trace_headers
from workers.event_log import BATCH_OVERHEAD_BYTES
from workers.live import LiveSession
from workers.ports import EventLog, NewRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What happens when the record at ``index`` of its group is confirmed (-1: nothing was recorded)."""

    index: int
    live: LiveSession
    reply: Reply | None = None
    start: str | None = None  #: turn id


@dataclass(slots=True, kw_only=True)
class Group:
    """One record batch and what waits for it."""

    records: list[NewRecord] = field(default_factory=list)
    touched: list[LiveSession | None] = field(default_factory=list)  #: by record
    effects: list[Effect] = field(default_factory=list)
    done: list[Callable[[], None]] = field(default_factory=list)
    covered: int = -1  #: requests up to here are decided once this group is confirmed
    size_bytes: int = BATCH_OVERHEAD_BYTES


class DecisionTooLargeError(Exception):
    """The events of one decision do not fit into one batch."""


class Decider:
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
        self._epoch = epoch
        self._next_n = 0
        self.decided = accepted  #: every request up to this offset is decided
        self._replied = replied
        self._policy = policy
        self._now_ms = now_ms
        self._max_batch_bytes = max_batch_bytes
        self.groups: list[Group] = []

    def take_groups(self) -> list[Group]:
        """The groups decided since the last call, to be appended in this order."""
        groups, self.groups = self.groups, []
        return groups

    def _group(self, size_bytes: int) -> Group:
        """The open group, or a new one where the decision would not fit."""
        if size_bytes + BATCH_OVERHEAD_BYTES > self._max_batch_bytes:
            raise DecisionTooLargeError(f"a decision of {size_bytes} bytes; at most {self._max_batch_bytes} fit")
        if not self.groups or self.groups[-1].size_bytes + size_bytes > self._max_batch_bytes:
            self.groups.append(Group(covered=self.groups[-1].covered if self.groups else -1))
        return self.groups[-1]

    # ---- requests

    def request(self, offset: int, live: LiveSession, command: AcceptChat | Refuse) -> None:
        """Decide the request at ``offset``; it is the next one."""
        facts = decide(live.session, command, self._policy())
        self._record(live, facts, decided=offset)
        if not facts:
            answer = known_answer(live.session, command.request_id, command.command_hash)
            if answer is not None:
                reply = reply_again(answer, command.request_id, command.reply, live.history)
                self.groups[-1].effects.append(Effect(index=-1, live=live, reply=reply))

    def refuse_unknown(self, offset: int, live: LiveSession, command: AcceptChat | Refuse) -> None:
        """The session holds events of a newer version: nothing is decided for it, the caller is told."""
        reason = f"session {live.session.session_id} holds events written by a newer Turnlog: upgrade this worker"
        refusal = Refuse(
            request_id=command.request_id,
            command_hash=command.command_hash,
            code="newer_version",
            reason=reason,
            reply=command.reply,
        )
        facts = decide(Session(session_id=live.session.session_id), refusal, self._policy())
        self._record(live, [], decided=offset)
        for reply in replies_to(live.session, facts[0], []):
            self.groups[-1].effects.append(Effect(index=-1, live=live, reply=reply))

    def nothing(self, offset: int) -> None:
        """The request at ``offset`` leads to no event (sent on, or not there)."""
        self._group(0).covered = offset
        self.decided = offset

    def dead_letter(self, offset: int, code: str, reason: str) -> None:
        """The request at ``offset`` is parked: its bytes are stored already."""
        self._partition_event(RequestDeadLettered(offset=offset, code=code, reason=reason[:1000]), decided=offset)

    def lost(self, first: int, last: int) -> None:
        """The broker deleted requests that were never accepted."""
        self._partition_event(RequestsLost(from_offset=first, to_offset=last), decided=last)

    def _partition_event(self, payload: RequestDeadLettered | RequestsLost, *, decided: int) -> None:
        header = EventHeader(
            stream_kind=PARTITION,
            stream_id=str(self._partition),
            stream_version=0,
            epoch=self._epoch,
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
        self, live: LiveSession, commands: Sequence[SessionCommand], done: Callable[[], None] | None = None
    ) -> None:
        """Decide what a runner produced (or what a new owner does), as one decision."""
        facts: list[Fact] = []
        session = live.session
        for command in commands:
            decided = decide(session, command, self._policy())
            facts.extend(decided)
            if command is not commands[-1]:  # what comes after the last one is folded when it is recorded
                for fact in decided:
                    session = evolve(session, fact)
        self._record(live, facts, decided=None)
        if done is not None:
            self._group(0).done.append(done)

    # ---- recording

    def _record(self, live: LiveSession, facts: Sequence[Fact], *, decided: int | None) -> None:
        """Put a decision into a group and let the run-ahead state follow.

        The state changes only after every record is encoded and fits: a failing decision leaves no trace.
        """
        session, messages = live.session, live.history
        kept = len(messages)
        records: list[NewRecord] = []
        effects: list[tuple[int, Reply]] = []
        started: str | None = None
        size = 0
        key = session.session_id.encode()
        replied, now_ms, last = self._replied(), self._now_ms(), len(facts) - 1
        try:
            for index, fact in enumerate(facts):
                event = fact.event
                header = EventHeader(
                    stream_kind=SESSION,
                    stream_id=session.session_id,
                    stream_version=session.version + 1,
                    epoch=self._epoch,
                    n=self._next_n + index,
                    accepted=decided if index == last and decided is not None else self.decided,
                    replied=replied,
                    turn_id=fact.turn_id,
                    attempt=fact.attempt,
                    recorded_at=now_ms,
                )
                record = self._log.encode(header, event, key, _trace(session, fact))
                records.append(record)
                size += record.size_bytes
                if isinstance(event, MessageStored):
                    messages.append(history_message(fact.turn_id or "", event))
                elif isinstance(event, TurnStarted):
                    started = fact.turn_id
                effects.extend([(index, reply) for reply in replies_to(session, fact, messages)])
                session = evolve(session, fact)
            group = self._group(size)
        except BaseException:
            del messages[kept:]
            raise
        self._next_n += len(records)
        live.session = session
        base = len(group.records)
        group.records += records
        group.touched += [live] * len(records)
        group.size_bytes += size
        group.effects += [Effect(index=base + index, live=live, reply=reply) for index, reply in effects]
        if started and session.running == started:
            group.effects.append(Effect(index=base + last, live=live, start=started))
        if decided is not None:
            group.covered = decided
            self.decided = decided


def _trace(session: Session, fact: Fact) -> Sequence[tuple[str, bytes]]:
    """The trace context of the request that caused this event."""
    turn = session.turns.get(fact.turn_id) if fact.turn_id else None
    cause = turn.reply if turn is not None else fact.event
    parent = getattr(cause, "traceparent", None)
    return trace_headers(parent, getattr(cause, "tracestate", None)) if parent else ()
