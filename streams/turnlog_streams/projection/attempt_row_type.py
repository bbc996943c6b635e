"""The rows of attempts at turns. Part of ``projection.rows``."""

from typing import NamedTuple

from turnlog_streams.table_types import INTERNAL, Millis, Table


class AttemptRow(NamedTuple):
    """An attempt at a turn, as it began. It ended when the next one began, or with the turn."""

    session_id: str
    partition: int
    session_offset: int
    turn_id: str
    attempt: int  #: from 1
    cause: str  #: ``first``, ``retry`` or ``takeover``
    model: str
    error: str | None  #: why the attempt before it ended, for ``retry``
    log_offset: int
    recorded_at: Millis


ATTEMPTS = Table(name="attempts", schema=INTERNAL, row=AttemptRow, key=("partition", "log_offset"))
