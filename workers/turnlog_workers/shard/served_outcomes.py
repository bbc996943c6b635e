"""What the actors of a partition tell while it is served: taken in order, each decided as one."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from turnlog_streams.session.commands import SessionCommand
from turnlog_workers.base.ports import RecordsRefusedError
from turnlog_workers.sessions.history_compactor import UnrecordableError
from turnlog_workers.shard.containment import Containment
from turnlog_workers.shard.residency import Resident
from turnlog_workers.shard.run_ahead import Decision, RunAhead
from turnlog_workers.shard.session_in_memory import SessionInMemory

_MAX_OUTCOMES = 500


class Outcome(NamedTuple):
    """An actor's outcome, and who waits for its confirmation."""

    session_id: str
    commands: Sequence[SessionCommand]
    done: asyncio.Future[None]


class ServedOutcomes:
    """The outcomes of one claim."""

    def __init__(self, run_ahead: RunAhead, resident: Resident, containment: Containment) -> None:
        self._run_ahead = run_ahead
        self._resident = resident
        self._containment = containment
        self._waiting: deque[Outcome] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, session_id: str, commands: Sequence[SessionCommand], done: asyncio.Future[None]) -> None:
        """Take an outcome; ``done`` is when it is confirmed."""
        self._waiting.append(Outcome(session_id, commands, done))

    def put_last(self, session_id: str, outcome: SessionCommand, done: asyncio.Future[None]) -> None:
        """An actor's work died: this is its outcome. If not even that can be recorded, the session is set aside."""

        def recorded(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                stream = self._resident.sessions.get(session_id)
                if stream is not None and isinstance(error, Exception):
                    self._containment.set_aside(stream, "the end of its work", error)

        done.add_done_callback(recorded)
        self.put(session_id, [outcome], done)

    def take(self) -> list[Outcome]:
        """The next ones, a bounded number."""
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_OUTCOMES))]

    def decide(self, outcome: Outcome) -> None:
        """Decide it, or tell its actor why it cannot be recorded."""
        stream, done = self._resident.sessions[outcome.session_id], outcome.done
        closed = stream.closed
        try:
            if closed is not None:
                raise UnrecordableError(closed[1])
            self._run_ahead.outcome(stream, outcome.commands, partial(_confirm, done))
            again = partial(self._decide_again, outcome)
            self._run_ahead.note(Decision(again, partial(self._refused, stream, done)))
        except Exception as error:
            self._fail(stream, done, error)

    async def _decide_again(self, outcome: Outcome) -> None:
        self.decide(outcome)

    async def _refused(self, stream: SessionInMemory, done: asyncio.Future[None], error: RecordsRefusedError) -> None:
        self._fail(stream, done, error)

    def _fail(self, stream: SessionInMemory, done: asyncio.Future[None], error: Exception) -> None:
        if not done.done():
            done.set_exception(self._containment.unrecordable(stream, error))

    def close(self, doubts: Iterable[asyncio.Future[None]]) -> None:
        """Whoever still waits is cancelled: what a runner has begun beside its turn, perhaps."""
        for waiter in (*(outcome.done for outcome in self._waiting), *doubts):
            waiter.cancel()


def _confirm(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
