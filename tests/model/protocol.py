"""The ownership of one partition as a transition system: what processes, broker and group can do next, in any order.

The rules are those of ``reader_rule``, ``shard.epoch`` and ``shard.partition``; each can be taken out
(:class:`Rules`). A process that is paused needs no step: it just takes none. Faults have budgets (:class:`Faults`), so
the graph is finite, and a state that nothing follows is an end: there everything must be answered.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

OFF, CLAIMING, SERVING = range(3)
FAILED, SKIPPED = -2, -3  #: instead of an offset
SEQUENCE_BROKEN = ("sequence broken",)  #: an idempotent producer that lost a batch: nothing more of it is taken


class BrokenPromiseError(Exception):
    """A step led to what must never be."""


class Rules(NamedTuple):
    """What keeps the protocol sound; the weakened variants take one out each."""

    fencing: bool = True  #: readers: the epoch is the last claim and ``n`` the next one; else: everything counts
    confirm: bool = True  #: effects wait until an append is known to be accepted; else: acknowledged is enough
    position_of_log: bool = True  #: requests are taken from the log's ``accepted`` on; else: where the group stands
    last_record_accepts: bool = True  #: of a decision only the last record raises ``accepted``
    ordered_skips: bool = True  #: a request that is skipped is acknowledged behind what is pending
    catch_up: bool = True  #: serve only after the log was read up to the claim
    generations: bool = True  #: who meets a claim of a newer generation waits
    ask_the_group: bool = (
        True  #: who meets a claim of its own name by another process claims only when the group says so
    )


class Faults(NamedTuple):
    """How often each may happen."""

    rebalances: int = 1
    name_taken: int = 0  #: another process of a name joins: its place is the old one, in the same generation
    crashes: int = 0
    timeouts: int = 0
    drops: int = 0


class Setup(NamedTuple):
    """One case."""

    names: tuple[int, ...] = (0, 1)  #: of each process; two of one name are one member of the group
    requests: tuple[str | None, ...] = (None,)  #: request ids; ``None``: the offset is the identity
    faults: Faults = Faults()
    rules: Rules = Rules()
    window: int = 2  #: records in flight
    most_records: int = 40  #: more in the log: claims go on for ever


class Claim(NamedTuple):
    process: int
    incarnation: int
    generation: int


class Event(NamedTuple):
    epoch: int
    n: int
    kind: str  #: S session created, R turn requested, X turn ended
    turn: int
    accepted: int


class Fold(NamedTuple):
    """What a reader knows: turns are bits."""

    epoch: int = -1
    next_n: int = 0
    accepted: int = -1
    created: int = 0
    requested: int = 0
    ended: int = 0


class Pending(NamedTuple):
    """An append on its way, or a skipped request that waits for its turn to be acknowledged."""

    status: int | None
    kind: str
    turn: int
    request: int
    record: Any


class Process(NamedTuple):
    generation: int = -1
    incarnation: int = 0
    phase: int = OFF
    epoch: int = -1
    n: int = 0
    last: int = -1  #: offset of the last record that it knows
    pending: tuple[Pending, ...] = ()
    position: int = 0
    acked: int = 0
    view: tuple[int, int, int, int] = (-1, 0, 0, 0)  #: accepted, created, requested, ended: run ahead
    confirmed: int = 0  #: requested turns that are confirmed
    waits_for: int = -1  #: no claim before this generation
    doubts: bool = False  #: no claim before the group has said that it means us
    fenced: bool = False  #: the group means another process of the name: it has ended


class State(NamedTuple):
    log: tuple[Any, ...] = ()
    net: tuple[Any, ...] = ()  #: by producer (process, incarnation): what left it and has not arrived
    generation: int = 0
    owner: int = 0  #: a name
    holders: tuple[int, ...] = ()  #: by name: the process that the group means
    committed: int = 0
    processes: tuple[Process, ...] = ()
    faults: Faults = Faults()


Step = tuple[str, State]


class Protocol:
    """The steps of a setup."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.rules = setup, setup.rules
        ids = setup.requests
        self.turn_of = [i if name is None else ids.index(name) for i, name in enumerate(ids)]
        self.all_turns = sum({1 << turn for turn in self.turn_of})
        self.fold = cache(self._fold)

    def first(self) -> State:
        """Nothing has happened; of processes with one name the first one is the member."""
        names = self.setup.names
        holders = tuple(names.index(name) for name in range(max(names) + 1))
        return State(holders=holders, processes=(Process(),) * len(names), faults=self.setup.faults)

    # ---- readers

    def accepts(self, fold: Fold, event: Event) -> bool:
        return not self.rules.fencing or (event.epoch == fold.epoch and event.n == fold.next_n)

    def _fold(self, log: tuple[Any, ...]) -> Fold:
        if not log:
            return Fold()
        before, record = self.fold(log[:-1]), log[-1]
        if isinstance(record, Claim):
            return before._replace(epoch=len(log) - 1, next_n=0)
        if not self.accepts(before, record):
            return before
        bit = 1 << record.turn
        after = before._replace(next_n=record.n + 1, accepted=max(before.accepted, record.accepted))
        if record.kind == "S":
            _never(bool(before.created), "a session is created twice")
            return after._replace(created=1)
        if record.kind == "R":
            _never(not before.created, "a turn without its session: a hole")
            _never(bool(before.requested & bit), "two turns for one request")
            return after._replace(requested=before.requested | bit)
        _never(not before.requested & bit, "an end without its turn: a hole")
        _never(bool(before.ended & bit), "a turn ends twice")
        return after._replace(ended=before.ended | bit)

    def check(self, state: State) -> None:
        """What holds in every state."""
        requested = self.fold(state.log).requested
        for request in range(state.committed):
            _never(not requested >> self.turn_of[request] & 1, f"request {request} is lost: committed, not in the log")

    def check_end(self, state: State) -> None:
        """What holds when nothing can happen any more."""
        fold = self.fold(state.log)
        _never(fold.requested != self.all_turns, "a request is never accepted")
        _never(fold.ended != self.all_turns, "a turn never ends")
        _never(state.committed != len(self.setup.requests), "the group's offset never arrives")

    def _acknowledge(self, log: tuple[Any, ...], upto: int) -> None:
        requested = self.fold(log).requested
        for request in range(upto):
            _never(not requested >> self.turn_of[request] & 1, f"request {request} is acknowledged, not in the log")

    # ---- steps

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that can happen next."""
        yield from self._group_steps(state)
        yield from self._network_steps(state)
        for number, process in enumerate(state.processes):
            if not process.fenced:
                yield from self._membership_steps(state, number, process)
                if process.generation >= 0:
                    yield from self._owner_steps(state, number, process)

    def _group_steps(self, state: State) -> Iterator[Step]:
        faults = state.faults
        if faults.rebalances:
            for name in range(len(state.holders)):
                left = faults._replace(rebalances=faults.rebalances - 1)
                yield f"rebalance to {name}", state._replace(generation=state.generation + 1, owner=name, faults=left)
        if faults.name_taken:
            for number, name in enumerate(self.setup.names):
                if state.holders[name] != number and not state.processes[number].fenced:
                    left = faults._replace(name_taken=faults.name_taken - 1)
                    yield (
                        f"{number} takes its name",
                        state._replace(holders=_at(state.holders, name, number), faults=left),
                    )

    def _network_steps(self, state: State) -> Iterator[Step]:
        for key, queue in state.net:
            if queue == SEQUENCE_BROKEN:
                continue
            record, rest = queue[0], _queue(state.net, key, queue[1:])
            log = (*state.log, record)
            _never(len(log) > self.setup.most_records, "claims go on for ever")
            self.fold(log)
            told = _told(state.processes, key, record, len(state.log))
            yield f"{key} arrives", state._replace(log=log, net=rest, processes=told)
            if state.faults.drops:
                processes = state.processes
                for lost in queue:
                    processes = _told(processes, key, lost, FAILED)
                left = state.faults._replace(drops=state.faults.drops - 1)
                broken = _queue(state.net, key, SEQUENCE_BROKEN)
                yield f"{key} is lost", state._replace(net=broken, processes=processes, faults=left)

    def _membership_steps(self, state: State, number: int, process: Process) -> Iterator[Step]:
        name = self.setup.names[number]
        member, mine = state.holders[name] == number, state.owner == name
        if not member:
            if process.generation >= 0:  # its next heartbeat tells; one that never joined just waits
                yield f"{number} is fenced", _with(state, number, _released(process)._replace(fenced=True))
            return
        if process.generation != state.generation and (process.generation >= 0 or mine):
            if not mine:
                yield f"{number} revoked", _with(state, number, _released(process)._replace(generation=-1))
            elif process.generation >= 0 and process.phase == SERVING:
                position = min(state.committed, process.position) if self.rules.position_of_log else state.committed
                kept = process._replace(generation=state.generation, position=position)
                yield f"{number} keeps", _with(state, number, kept)
            else:
                at = state.committed
                new = _released(process)._replace(generation=state.generation, position=at, acked=at)
                yield f"{number} assigned", _with(state, number, new)
        if process.generation < 0:
            return
        if state.faults.crashes:
            left = state.faults._replace(crashes=state.faults.crashes - 1)
            crashed = _with(state, number, _released(process)._replace(generation=-1))
            yield f"{number} crashes", crashed._replace(faults=left)
        if process.generation == state.generation and mine and process.acked != state.committed:
            yield f"{number} commits", state._replace(committed=process.acked)
        if process.doubts:
            yield f"{number} asks: it is meant", _with(state, number, process._replace(doubts=False))

    def _owner_steps(self, state: State, number: int, process: Process) -> Iterator[Step]:
        if process.phase == OFF:
            if process.waits_for <= process.generation and not process.doubts:
                claim = Claim(number, process.incarnation, process.generation)
                claiming = process._replace(phase=CLAIMING, pending=(Pending(None, "C", 0, 0, claim),))
                yield f"{number} claims", _sent(state, number, claiming, claim)
            return
        if process.pending:
            yield from self._answer_steps(state, number, process)
        if process.phase != SERVING:
            return
        if self.fold(state.log).epoch > process.epoch:
            yield f"{number} sees a claim", self._fenced_by(state, number, process)
        in_flight = sum(pending.status is None for pending in process.pending)
        if in_flight < self.setup.window:
            if process.position < len(self.setup.requests):
                yield self._take(state, number, process)
            turns = process.confirmed & ~process.view[3]
            if turns:
                yield self._end_turn(state, number, process, (turns & -turns).bit_length() - 1)

    def _fenced_by(self, state: State, number: int, process: Process) -> State:
        """Released by another's claim; whether it may claim again is the question."""
        waits_for = newest(state.log) if self.rules.generations else -1
        doubts = self.rules.ask_the_group and self.namesake_after(state, number, process)
        return _with(state, number, _released(process)._replace(waits_for=waits_for, doubts=doubts))

    def namesake_after(self, state: State, number: int, process: Process) -> bool:
        """Is there a claim of the same name by another process, above its own?"""
        names = self.setup.names
        return any(
            isinstance(record, Claim) and record.process != number and names[record.process] == names[number]
            for record in state.log[process.epoch + 1 :]
        )

    def _answer_steps(self, state: State, number: int, process: Process) -> Iterator[Step]:
        first = process.pending[0]
        status = first.status
        if status is None and ((number, process.incarnation), SEQUENCE_BROKEN) in state.net:
            status = FAILED
        if status is None:
            if state.faults.timeouts:
                left = state.faults._replace(timeouts=state.faults.timeouts - 1)
                yield f"{number} gives up", _with(state, number, _released(process))._replace(faults=left)
        elif status == FAILED:
            yield f"{number} is told of a failure", _with(state, number, _released(process))
        elif first.kind == "C":
            for end in [status + 1] if self.rules.catch_up else range(status + 2):
                yield f"{number} serves", _with(state, number, self._serving(state, process, status, end))
        else:
            yield self._confirm(state, number, process, first, status)

    def _serving(self, state: State, process: Process, claim: int, end: int) -> Process:
        fold, by_log = self.fold(state.log[:end]), self.rules.position_of_log
        return process._replace(
            phase=SERVING,
            epoch=claim,
            n=0,
            last=claim,
            pending=process.pending[1:],
            position=fold.accepted + 1 if by_log else process.position,
            acked=fold.accepted + 1 if by_log else process.acked,
            view=tuple(fold[2:]),
            confirmed=fold.requested,
            waits_for=-1,
        )

    def _confirm(self, state: State, number: int, process: Process, first: Pending, offset: int) -> Step:
        last = process.last
        if offset >= 0:
            if self.rules.confirm and offset != last + 1:  # somebody wrote in between: read it
                before = self.fold(state.log[:offset])
                if not (offset > last and before.epoch == process.epoch and self.accepts(before, first.record)):
                    return f"{number} is not accepted", self._fenced_by(state, number, process)
            last = offset
        acked, confirmed = process.acked, process.confirmed
        if first.kind == "R":
            confirmed |= 1 << first.turn
        if first.kind in "RA":
            acked = max(acked, first.request + 1)
            self._acknowledge(state.log, acked)
        if first.kind == "X":
            _never(not self.fold(state.log).ended >> first.turn & 1, "an end is told that the log does not have")
        done = process._replace(last=last, pending=process.pending[1:], acked=acked, confirmed=confirmed)
        return f"{number} confirms {first.kind}", _with(state, number, done)

    def _take(self, state: State, number: int, process: Process) -> Step:
        position = process.position
        turn = self.turn_of[position]
        accepted, created, requested, ended = process.view
        again = self.setup.requests[position] is not None and requested >> turn & 1
        if position <= accepted or again:
            if self.rules.ordered_skips and process.pending:
                skip = Pending(SKIPPED, "A", turn, position, None)
                waiting = process._replace(pending=(*process.pending, skip), position=position + 1)
                return f"{number} skips {position}", _with(state, number, waiting)
            acked = max(process.acked, position + 1)
            self._acknowledge(state.log, acked)
            return f"{number} skips {position}", _with(
                state, number, process._replace(position=position + 1, acked=acked)
            )
        events = []
        if not created:
            early = position - 1 if self.rules.last_record_accepts else position
            events.append(Event(process.epoch, process.n, "S", 0, max(accepted, early)))
        events.append(Event(process.epoch, process.n + len(events), "R", turn, position))
        taken = process._replace(
            n=process.n + len(events),
            pending=process.pending + tuple(Pending(None, e.kind, e.turn, position, e) for e in events),
            position=position + 1,
            view=(max(accepted, position), 1, requested | 1 << turn, ended),
        )
        return f"{number} decides {position}", _sent(state, number, taken, *events)

    def _end_turn(self, state: State, number: int, process: Process, turn: int) -> Step:
        accepted, created, requested, ended = process.view
        event = Event(process.epoch, process.n, "X", turn, accepted)
        ending = process._replace(
            n=process.n + 1,
            pending=(*process.pending, Pending(None, "X", turn, 0, event)),
            view=(accepted, created, requested, ended | 1 << turn),
        )
        return f"{number} ends turn {turn}", _sent(state, number, ending, event)


@cache
def newest(log: tuple[Any, ...]) -> int:
    """The highest generation in any claim."""
    return max((record.generation for record in log if isinstance(record, Claim)), default=-1)


def _never(happened: bool, what: str) -> None:
    if happened:
        raise BrokenPromiseError(what)


def _at(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _with(state: State, number: int, process: Process) -> State:
    return state._replace(processes=_at(state.processes, number, process))


def _sent(state: State, number: int, process: Process, *records: Any) -> State:
    """The process has handed records to its producer."""
    key = (number, process.incarnation)
    queue = dict(state.net).get(key, ())
    after = _with(state, number, process)
    return after if queue == SEQUENCE_BROKEN else after._replace(net=_queue(state.net, key, (*queue, *records)))


def _queue(net: tuple[Any, ...], key: tuple[int, int], queue: tuple[Any, ...]) -> tuple[Any, ...]:
    queues = dict(net)
    queues.pop(key, None)
    if queue:
        queues[key] = queue
    return tuple(sorted(queues.items(), key=lambda item: item[0]))


def _told(processes: tuple[Process, ...], key: tuple[int, int], record: Any, status: int) -> tuple[Process, ...]:
    """The producer's answer, if the process still waits for it."""
    number, incarnation = key
    process = processes[number]
    if process.incarnation != incarnation:
        return processes
    for place, pending in enumerate(process.pending):
        if pending.status is None and pending.record == record:
            answered = _at(process.pending, place, pending._replace(status=status))
            return _at(processes, number, process._replace(pending=answered))
    return processes


def _released(process: Process) -> Process:
    """All that it knew is thrown away; what it sent may still arrive."""
    return Process(
        generation=process.generation,
        incarnation=process.incarnation + (process.phase > OFF),
        position=process.position,
        acked=process.acked,
    )
