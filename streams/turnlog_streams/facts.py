"""Events as they are decided; their owner adds the position in the log."""

from dataclasses import dataclass

from turnlog_schemas import events as ev
from turnlog_schemas.direct_init import direct_init


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """An event and the turn and attempt that it belongs to."""

    event: ev.Event
    turn_id: str | None = None
    attempt: int = 0
