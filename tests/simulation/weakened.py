"""The worker with one defence taken out, for tests of the harness: each of these must be caught.

Nothing of the shipped code knows of it: the parts are exchanged from here while a seed runs.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import turnlog_streams.history.compaction_plan
import turnlog_streams.reader_rule
import turnlog_streams.session.decide
import turnlog_workers.shard.epoch
import turnlog_workers.shard.serving
from tests.simulation import faults
from tests.simulation.faults import Fault
from tests.simulation.ports import SimStore
from tests.simulation.run import Plan
from tests.simulation.world import Topic
from turnlog_schemas.events import EventHeader, PartitionClaimed
from turnlog_schemas.frames import HistoryCompacted, HistoryCompactionFailed
from turnlog_streams.folding.fold import StreamName
from turnlog_streams.history.compaction import HistoryCompactionState
from turnlog_streams.lookups import NOTHING
from turnlog_streams.reader_rule import LoggedEvent, LogPosition, advance
from turnlog_streams.session.state import OwedRun, Session
from turnlog_workers.base.ports import NewRecord, RequestLog, RequestRecord
from turnlog_workers.intake.inbox import Inbox
from turnlog_workers.runners.base import AssistantMessage
from turnlog_workers.sessions.session_actor import SessionActor
from turnlog_workers.sessions.turn_attempt import TurnAttempt
from turnlog_workers.shard.epoch import CaughtUp, Claim, Epoch, FencedError
from turnlog_workers.shard.partition import Shard
from turnlog_workers.shard.run_ahead import Effect, Group, RunAhead
from turnlog_workers.shard.serving import Serving
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.store.port import LoadedStream, Saved

Patches = Iterator[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakness:
    """A defence less."""

    name: str
    patches: Callable[[], list[Any]]
    faults: tuple[Fault, ...]  #: that make it matter
    max_requests: int = 14
    long_histories: bool | None = None

    @property
    def plan(self) -> Plan:
        """A mix that provokes it."""
        return Plan(
            faults=self.faults,
            min_faults=2,
            max_faults=4,
            max_requests=self.max_requests,
            long_histories=self.long_histories,
        )


WEAKNESSES: dict[str, Weakness] = {}


def _weakness(
    name: str, *provoked_by: Fault, max_requests: int = 14, long_histories: bool | None = None
) -> Callable[[Callable[[], list[Any]]], Callable[[], list[Any]]]:
    def register(patches: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
        WEAKNESSES[name] = Weakness(
            name=name, patches=patches, faults=provoked_by, max_requests=max_requests, long_histories=long_histories
        )
        return patches

    return register


@contextlib.contextmanager
def weakened(name: str) -> Iterator[None]:
    """While this lasts, the worker lacks a defence."""
    with contextlib.ExitStack() as stack:
        for change in WEAKNESSES[name].patches():
            stack.enter_context(change)
        yield


# ---- who may write


def _rule(rule: Callable[[LogPosition, EventHeader, object], bool]) -> list[Any]:
    def read_on(position: LogPosition, batch: Sequence[LoggedEvent]) -> tuple[list[LoggedEvent], LogPosition]:
        accepted = []
        for event in batch:
            if rule(position, event.header, event.payload):
                accepted.append(event)
            position = advance(position, event.offset, event.header, event.payload)
        return accepted, position

    modules = (turnlog_streams.reader_rule, turnlog_workers.shard.epoch)
    return [
        *(patch.object(module, "is_accepted", rule) for module in modules),
        patch.object(turnlog_workers.shard.epoch, "read_on", read_on),
    ]


@_weakness("no reader's rule", faults.rebalance, faults.pause, faults.batches_are_late)
def _no_rule() -> list[Any]:
    return _rule(lambda position, header, payload: True)


@_weakness("any epoch that is not older", faults.batches_land_twice)
def _not_older() -> list[Any]:
    def rule(position: LogPosition, header: EventHeader, payload: object) -> bool:
        return isinstance(payload, PartitionClaimed) or header.epoch >= position.epoch >= 0

    return _rule(rule)


@_weakness("acknowledged is confirmed", faults.rebalance, faults.pause)
def _no_confirmation() -> list[Any]:
    async def confirm(self: Epoch, base: int) -> None:
        """The broker has it: that must be enough."""

    return [patch.object(Epoch, "_confirm", confirm)]


@_weakness("serve before catch-up", faults.rebalance, faults.pause)
def _no_catch_up() -> list[Any]:
    """What was written since the store's checkpoint is ignored."""
    read_ahead, open_epoch = Epoch.read_ahead, Epoch.open

    def nothing_of(caught_up: CaughtUp) -> CaughtUp:
        async def nothing(events: Sequence[LoggedEvent], position: LogPosition) -> None:
            await caught_up([], position)

        return nothing

    async def ahead(self: Epoch, end: int, caught_up: CaughtUp) -> None:
        await read_ahead(self, end, nothing_of(caught_up))

    async def claimed(self: Epoch, claim: Claim, now_ms: int, caught_up: CaughtUp) -> None:
        await open_epoch(self, claim, now_ms, nothing_of(caught_up))

    return [patch.object(Epoch, "read_ahead", ahead), patch.object(Epoch, "open", claimed)]


def no_generation_hint() -> list[Any]:
    def init(self: FencedError, partition: int, *_: int, by_namesake: bool = False) -> None:
        Exception.__init__(self, f"partition {partition}: fenced")
        self.newest_generation, self.by_namesake = -1, by_namesake

    return [patch.object(FencedError, "__init__", init)]


@_weakness("claim again at once, whatever the generation", faults.news_is_slow, max_requests=50)
def _claim_at_once() -> list[Any]:
    """The pace alone would hide it: it keeps two owners from fencing each other ten times a second."""
    return [*no_generation_hint(), patch.object(Shard, "_failed_again", lambda *failures: 1)]


@_weakness("a namesake claims again at once", faults.namesake, faults.news_is_slow, max_requests=50)
def _namesake_at_once() -> list[Any]:
    async def at_once(self: Shard) -> None:
        pass

    return [
        patch.object(Shard, "_until_name_is_ours", at_once),
        patch.object(Shard, "_failed_again", lambda *failures: 1),
    ]


# ---- effects and acknowledgements


@_weakness("effects before confirmation", faults.rebalance, faults.pause, faults.batches_are_rejected)
def _effects_first() -> list[Any]:
    async def commit(self: Serving, group: Group) -> None:
        for effect in group.effects:
            if effect.reply is not None:
                self._frames.send(effect.stream, effect.reply)
            if effect.start is not None and isinstance(effect.stream, SessionInMemory):
                self._start(effect.stream, effect.start)
        if group.records:
            base = await self._epoch.append(group.records)
            self._confirmed(group, base)
        if group.covered >= 0:
            self._inbox.cover(group.covered)
        for done in group.done:
            done()

    return [patch.object(Serving, "_commit", commit)]


@_weakness("acknowledged before the append", faults.crash, faults.pause)
def _ack_first() -> list[Any]:
    original = Inbox.deliver

    def deliver(self: Inbox, record: RequestRecord) -> None:
        original(self, record)
        self._ack(record.offset)

    return [patch.object(Inbox, "deliver", deliver)]


@_weakness(
    "a duplicate is acknowledged at once", faults.rebalance, faults.answers_are_lost, faults.deliveries_come_twice
)
def _duplicates_at_once() -> list[Any]:
    original = Inbox.deliver

    def deliver(self: Inbox, record: RequestRecord) -> None:
        if self.has(record.offset):
            self._ack(record.offset)
        original(self, record)

    return [patch.object(Inbox, "deliver", deliver)]


@_weakness("tools start before their call is stored", faults.crash, faults.everything_is_slow)
def _tools_first() -> list[Any]:
    original = TurnAttempt._assistant

    async def assistant(self: TurnAttempt, output: AssistantMessage) -> None:
        await original(self, replace(output, tool_calls=()))
        if self._held is not None:
            self._held = replace(self._held, tool_calls=output.tool_calls)

    return [patch.object(TurnAttempt, "_assistant", assistant)]


@_weakness("calls with an unknown outcome are repeated", faults.crash, faults.rebalance)
def _all_repeated() -> list[Any]:
    """Whatever the tool declares: nothing is closed at a takeover, and the runner is told that it may."""
    original = SessionInMemory.turn_input

    def turn_input(self: SessionInMemory, turn_id: str, epoch: int) -> Any:
        turn = original(self, turn_id, epoch)
        messages = [
            replace(message, tool_calls=tuple(replace(call, idempotent=True) for call in message.tool_calls))
            for message in turn.turn_messages
        ]
        return replace(turn, turn_messages=messages)

    return [
        patch.object(turnlog_streams.session.decide, "closed_calls", lambda *what: []),
        patch.object(SessionInMemory, "turn_input", turn_input),
    ]


@_weakness("an attempt begins from nothing", faults.crash, faults.rebalance)
def _from_nothing() -> list[Any]:
    original = SessionInMemory.turn_input

    def turn_input(self: SessionInMemory, turn_id: str, epoch: int) -> Any:
        return replace(original(self, turn_id, epoch), turn_messages=())

    return [patch.object(SessionInMemory, "turn_input", turn_input)]


@_weakness("frames are sent once", faults.crash, faults.frames_are_lost)
def _no_second_sending() -> list[Any]:
    def nothing(self: Serving, *waiting: object) -> None:
        """Whoever did not hear it the first time has bad luck."""

    return [patch.object(Serving, "_answer_again", nothing)]


# ---- the list of work


@_weakness("no skip of what is accepted", faults.rebalance, faults.crash)
def _no_skip() -> list[Any]:
    original = Serving.__init__

    def init(self: Serving, *args: Any, first: int, **kwargs: Any) -> None:
        original(self, *args, first=0, **kwargs)

    return [patch.object(Serving, "__init__", init)]


@_weakness("the group's position is the list of work", faults.batches_are_rejected, faults.wrong_start)
def _group_position() -> list[Any]:
    original = Serving.__init__

    def init(self: Serving, *args: Any, inbox: Inbox, first: int, **kwargs: Any) -> None:
        original(self, *args, inbox=inbox, first=max(first, inbox.known_end), **kwargs)

    return [patch.object(Serving, "__init__", init)]


@_weakness("gaps are not read", faults.deliveries_are_skipped, faults.wrong_start)
def _no_gap_reading() -> list[Any]:
    async def fill(self: Inbox, requests: RequestLog, partition: int, start: int, end: int, **_: object) -> int:
        for offset in range(start, end):
            self.put(offset, None)
        return start

    return [patch.object(Inbox, "fill", fill)]


@_weakness("requests are read before their transaction is committed", faults.transactions_are_aborted)
def _uncommitted() -> list[Any]:
    return [patch.object(Topic, "stable_end", property(lambda topic: len(topic.records)))]


@_weakness("what cannot be taken apart is ignored", faults.requests_are_damaged)
def _no_word() -> list[Any]:
    return [patch.object(RunAhead, "lost", lambda self, first, last, reason: self.nothing(last))]


@_weakness("decisions in pieces", faults.crash, faults.batches_are_rejected)
def _pieces() -> list[Any]:
    """Every record says that its request is done, and goes into a batch of its own."""
    original = Epoch.append

    async def append(self: Epoch, records: Sequence[NewRecord]) -> int:
        bases = [await original(self, [record]) for record in records]
        return bases[0]

    record = RunAhead._record

    def decided_at_once(self: RunAhead, stream: Any, facts: Any, *, decided: int | None, found: Any = NOTHING) -> None:
        if decided is not None:
            self.decided = decided
        record(self, stream, facts, decided=decided, found=found)

    return [patch.object(Epoch, "append", append), patch.object(RunAhead, "_record", decided_at_once)]


@_weakness("no look-up of request ids", faults.rebalance)
def _no_look_up() -> list[Any]:
    return [patch.object(turnlog_streams.session.decide, "known_answer", lambda *key: None)]


# ---- stores


@_weakness("rows and checkpoint apart", faults.crash, faults.disks_are_full)
def _rows_first() -> list[Any]:
    original = SimStore.write

    async def write(self: SimStore, events: Sequence[LoggedEvent], position: LogPosition) -> Mapping[StreamName, Saved]:
        before = self._inner.position
        if position.next_offset <= before.next_offset:
            return {}
        saved = await original(self, events, position)
        self._inner._data.position = before

        async def checkpoint() -> None:
            self._inner._data.position = position

        await self._run(checkpoint)
        return saved

    return [patch.object(SimStore, "write", write)]


@_weakness("checkpoint without its epoch", faults.crash, faults.rebalance)
def _no_epoch() -> list[Any]:
    original = SimStore.write

    async def write(self: SimStore, events: Sequence[LoggedEvent], position: LogPosition) -> Mapping[StreamName, Saved]:
        return await original(self, events, replace(position, epoch=-1, next_n=0))

    return [patch.object(SimStore, "write", write)]


# ---- history compaction


@_weakness("owed history compactions are forgotten at a takeover", faults.crash, faults.rebalance, long_histories=True)
def _nothing_owed() -> list[Any]:
    resume, compact = Serving.resume, SessionActor.compact
    resuming: list[Serving] = []

    async def take_over(self: Serving) -> None:
        resuming.append(self)
        try:
            await resume(self)
        finally:
            resuming.remove(self)

    def unless_taken_over(self: SessionActor, request: OwedRun) -> None:
        if self._host not in resuming:
            compact(self, request)

    return [patch.object(Serving, "resume", take_over), patch.object(SessionActor, "compact", unless_taken_over)]


@_weakness("a turn's input is made when it is accepted", faults.rebalance, long_histories=True)
def _early_input() -> list[Any]:
    """It shows the history of before a summary that was recorded while the turn waited."""
    start, turn_input = Serving._start, Serving.turn_input
    made: dict[tuple[int, str], Any] = {}

    def made_at_start(self: Serving, stream: SessionInMemory, turn_id: str) -> None:
        made[id(self), turn_id] = turn_input(self, stream.state.session_id, turn_id)
        start(self, stream, turn_id)

    def as_made(self: Serving, session_id: str, turn_id: str) -> Any:
        now = turn_input(self, session_id, turn_id)
        return (made.pop((id(self), turn_id), None) or now) if now is not None else None

    return [patch.object(Serving, "_start", made_at_start), patch.object(Serving, "turn_input", as_made)]


@_weakness(
    "the end of a history compaction is told before it is confirmed",
    faults.crash,
    faults.batches_are_rejected,
    long_histories=True,
)
def _told_first() -> list[Any]:
    commit = Serving._commit

    def is_end(effect: Effect) -> bool:
        reply = effect.reply
        return reply is not None and isinstance(reply.frame, HistoryCompacted | HistoryCompactionFailed)

    async def told_first(self: Serving, group: Group) -> None:
        for effect in filter(is_end, group.effects):
            self._frames.send(effect.stream, effect.reply)  # type: ignore[arg-type]
        group.effects = [effect for effect in group.effects if not is_end(effect)]
        await commit(self, group)

    return [patch.object(Serving, "_commit", told_first)]


@_weakness("a cut between a call and its result", faults.rebalance, long_histories=True)
def _cut_anywhere() -> list[Any]:
    def starts(self: Any, *, escalate: bool) -> Iterator[int]:
        end = len(self._messages)
        keep = max(self._policy.keep_tail, 1)
        while keep:
            if self._first < end - keep:
                yield end - keep
            keep = keep // 2 if escalate else 0

    return [patch.object(turnlog_streams.history.compaction_plan._Material, "_tail_starts", starts)]


@_weakness("a new owner does not know the summary", faults.crash, faults.rebalance, long_histories=True)
def _summary_forgotten() -> list[Any]:
    load = SimStore.load

    async def without_summary(self: SimStore, names: Collection[StreamName]) -> dict[StreamName, LoadedStream]:
        return {name: _forgetting(stream) for name, stream in (await load(self, names)).items()}

    return [patch.object(SimStore, "load", without_summary)]


def _forgetting(stream: LoadedStream) -> LoadedStream:
    if not isinstance(stream.state, Session):
        return stream
    return replace(stream, state=replace(stream.state, history_compaction=HistoryCompactionState()))


@_weakness(
    "turns and history compactions run side by side", faults.everything_is_slow, max_requests=50, long_histories=True
)
def _side_by_side() -> list[Any]:
    async def compact(self: SessionActor, request: OwedRun) -> None:
        if await self._compactor.requested(request):
            self._fresh_runner = True

    return [patch.object(SessionActor, "_compact", compact)]
