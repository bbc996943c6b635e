"""Every state that a setup can reach, merged where no future can tell two of them apart."""

import random
import time
from collections import deque
from typing import Any, NamedTuple

from tests.model.protocol import (
    SEQUENCE_BROKEN,
    SERVING,
    BrokenPromiseError,
    Claim,
    Protocol,
    Setup,
    State,
    newest,
)


class Found(NamedTuple):
    """What became of a search."""

    broken: str | None
    states: int
    complete: bool
    trace: tuple[str, ...] = ()


def explore(setup: Setup, *, most_states: int = 4_000_000, seconds: float = 600.0, deep: bool = False) -> Found:
    """Breadth first, so that a trace is short; ``deep``: what goes on for ever is found soon."""
    protocol = Protocol(setup)
    state = protocol.first()
    seen, waiting = {_key(protocol, state)}, deque([(state, ())])
    deadline = time.monotonic() + seconds
    path: Any = ()
    try:
        while waiting:
            state, path = waiting.pop() if deep else waiting.popleft()
            end = True
            for name, after in protocol.steps(state):
                end = False
                key = _key(protocol, after)
                if key not in seen:
                    seen.add(key)
                    protocol.check(after)
                    waiting.append((after, (name, path)))
            if end:
                protocol.check_end(state)
            if len(seen) > most_states or time.monotonic() > deadline:
                return Found(None, len(seen), complete=False)
    except BrokenPromiseError as broken:
        return Found(str(broken), len(seen), complete=False, trace=_trace(path))
    return Found(None, len(seen), complete=True)


def walk(setup: Setup, *, walks: int, seed: int) -> Found:
    """Random ways to an end, for setups that are too large to see all of."""
    protocol, rng = Protocol(setup), random.Random(seed)
    steps = 0
    path: Any = ()
    try:
        for _ in range(walks):
            state, path = protocol.first(), ()
            while following := list(protocol.steps(state)):
                faults = [step for step in following if step[1].faults != state.faults]
                calm = [step for step in following if step[1].faults == state.faults]
                name, state = rng.choice(faults if faults and (not calm or rng.random() < 0.12) else calm)
                path = (name, path)
                steps += 1
                protocol.check(state)
            protocol.check_end(state)
    except BrokenPromiseError as broken:
        return Found(str(broken), steps, complete=False, trace=_trace(path))
    return Found(None, steps, complete=False)


def _trace(path: Any) -> tuple[str, ...]:
    names = []
    while path:
        name, path = path
        names.append(name)
    return tuple(reversed(names))


def _key(protocol: Protocol, state: State) -> int:
    """Epochs become "the current one" or "an old one", offsets "accepted" or "in a row"; what is inert is junk.

    The number of claims stays: claims that go on for ever are no circle.
    """
    log, fold = state.log, protocol.fold(state.log)
    live: dict[int, Any] = {}
    late = []
    for (number, incarnation), queue in state.net:
        mine = state.processes[number].incarnation == incarnation
        if queue == SEQUENCE_BROKEN:
            if mine:
                live[number] = queue
        elif mine:
            live[number] = tuple(_record(record, fold.epoch) for record in queue)
        else:
            late.append(tuple(_record(record, fold.epoch) for record in queue))
    processes = []
    for number, process in enumerate(state.processes):
        known, pending = process.last, []
        for item in process.pending:
            status: Any = item.status
            if status is not None and status >= 0:
                after = protocol.fold(log[: status + 1])
                if item.kind == "C":
                    status = ("claim", status == fold.epoch, after[2:])
                else:
                    before = protocol.fold(log[:status])
                    accepted = before.epoch == process.epoch and protocol.accepts(before, item.record)
                    status = ("event", accepted, status == known + 1, status > known, after == fold)
                known = item.status
            pending.append((status, item.kind, item.turn, item.request, _record(item.record, fold.epoch)))
        in_a_row = process.phase and len(log) - 1 == known
        namesake = process.phase == SERVING and protocol.namesake_after(state, number, process)
        processes.append(
            (
                *(process.generation, process.phase, process.epoch == fold.epoch, process.n, in_a_row, tuple(pending)),
                *(process.position, process.acked, process.view, process.confirmed, process.waits_for),
                *(process.doubts, process.fenced, namesake, live.get(number)),
            )
        )
    claims = sum(isinstance(record, Claim) for record in log)
    shared = (fold[1:], fold.epoch >= 0, newest(log), claims, tuple(sorted(late, key=repr)))
    group = (state.generation, state.owner, state.holders, state.committed, state.faults)
    return hash((shared, group, tuple(processes)))


def _record(record: Any, epoch: int) -> Any:
    if record is None:
        return None
    if isinstance(record, Claim):
        return ("C", record.process, record.generation)
    return ("inert",) if record.epoch != epoch else tuple(record[1:])
