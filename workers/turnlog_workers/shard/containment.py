"""Failure stays where it happens: what fails on one stream must not release its partition again and again."""

import contextlib
import logging
from collections.abc import Iterator

from turnlog_workers.base.logs import at
from turnlog_workers.base.tasks import describe, frames
from turnlog_workers.sessions.history_compactor import UnrecordableError
from turnlog_workers.shard.residency import Resident
from turnlog_workers.shard.run_ahead import DecisionTooLargeError
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.shard.stream import AnyStream

log = logging.getLogger(__name__)


class Containment:
    """Sets streams of one partition aside: until the next claim nothing is decided for them, and others go on."""

    def __init__(self, resident: Resident, topic: str, partition: int) -> None:
        self._resident = resident
        self._place = at(topic=topic, partition=partition)

    @contextlib.contextmanager
    def around(self, stream: AnyStream, what: str) -> Iterator[None]:
        """Whatever fails in here sets the stream aside. Raises :class:`StoreError`: that is not about one stream.

        What a full disk kept from being read comes with the next claim, answers that are still owed, too.
        """
        try:
            yield
        except Exception as error:
            self._resident.raise_if_of_all(error)
            self.set_aside(stream, what, error)

    def set_aside(self, stream: AnyStream, what: str, error: Exception) -> None:
        """Refuse what comes for the stream, with a sentence. Logged once."""
        if not stream.set_aside:
            stream.set_aside = f"{what} made it fail ({describe(error)})"
            told = stream.kind, stream.stream_id, stream.set_aside, frames(error)
            log.error("%s %s is set aside: %s%s", *told, extra=self._place)

    def unrecordable(self, stream: SessionInMemory, error: Exception) -> UnrecordableError:
        """For the actor, which says what becomes of its outcome. The error's own text may hold anything."""
        if isinstance(error, UnrecordableError):
            return error
        too_large = isinstance(error, DecisionTooLargeError)
        why = str(error) if too_large else describe(error)
        told = stream.stream_id, why, "" if too_large else frames(error)
        log.error("session %s: an outcome cannot be recorded: %s%s", *told, extra=self._place)
        unrecordable = UnrecordableError(why)
        unrecordable.__cause__ = error
        return unrecordable
