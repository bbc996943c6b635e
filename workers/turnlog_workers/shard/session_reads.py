"""What the actor of a session reads of it, as it stands in memory."""

import asyncio
import itertools

from turnlog_schemas.parts import Usage
from turnlog_streams.history.messages import HistoryMessage
from turnlog_streams.session.title import TitleTask
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.sessions.history_compactor import CompactionInput
from turnlog_workers.shard.epoch import Epoch
from turnlog_workers.shard.residency import Resident
from turnlog_workers.shard.worker_context import WorkerContext
from turnlog_workers.store.port import DamagedStoreError, StoreError

_READ_ATTEMPTS = 10
_READ_AGAIN = Backoff(first_s=0.2, max_s=5.0)


class SessionReads:
    """The reading half of an actor's host."""

    def __init__(self, context: WorkerContext, resident: Resident, epoch: Epoch) -> None:
        self.resident = resident
        self._context = context
        self._epoch = epoch

    def turn_input(self, session_id: str, turn_id: str) -> TurnInput | None:
        """What the runner of the running turn gets; ``None``: the turn is over."""
        if not self.is_running(session_id, turn_id):
            return None
        return self.resident.sessions[session_id].turn_input(turn_id, self._epoch.epoch)

    def is_running(self, session_id: str, turn_id: str) -> bool:
        """Has nothing been decided that ends this turn? What was decided may not be in the log yet."""
        stream = self.resident.sessions.get(session_id)
        return stream is not None and stream.state.running == turn_id

    def title_task(self, session_id: str) -> TitleTask | None:
        """What the fast model is to be asked for the session's title; ``None``: it is not."""
        return self.resident.sessions[session_id].title_task(self._context.policy())

    async def earlier_messages(self, session_id: str, after: int, upto: int) -> list[HistoryMessage]:
        """Messages that the session does not hold. Raises :class:`StoreError`, not for a moment's trouble.

        Nothing else waits meanwhile: a disk that is full, or a file that DuckDB gave up after a failed write and that
        is attached again, must not make a history compaction fail.
        """
        for attempt in itertools.count(1):
            try:
                return await self.resident.messages(session_id, after, upto)
            except StoreError as error:
                if isinstance(error, DamagedStoreError) or attempt == _READ_ATTEMPTS:
                    raise
                await asyncio.sleep(_READ_AGAIN.next_delay(attempt))
        raise AssertionError("unreachable")

    def history_fits(self, session_id: str, usage: Usage | None = None) -> bool:
        """Is the assembled history surely within its bounds?"""
        return self.resident.sessions[session_id].history_fits(self._context.policy(), usage)

    def compaction_input(self, session_id: str, usage: Usage | None = None) -> CompactionInput:
        """What a run of history compaction depends on."""
        stream = self.resident.sessions[session_id]
        return stream.compaction_input(self._context.policy(), self._epoch.epoch, usage)
