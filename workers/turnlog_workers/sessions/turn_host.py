"""What a turn asks of the shard that it runs in, and its bounds."""

from dataclasses import dataclass
from typing import Protocol

from turnlog_streams.session.commands import SessionCommand
from turnlog_streams.session.title import TitleTask
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.sessions.history_compactor import CompactionHost
from turnlog_workers.sessions.streamed_text import DeltaHost


class TurnHost(CompactionHost, DeltaHost, Protocol):
    """What an actor needs from its shard."""

    def turn_input(self, session_id: str, turn_id: str) -> TurnInput | None:
        """What the runner of the running turn gets, as the session stands now; ``None``: the turn is over."""
        ...

    def title_task(self, session_id: str) -> TitleTask | None:
        """What the fast model is to be asked for the session's title; ``None``: it is not."""
        ...

    def failed(self, session_id: str, outcome: SessionCommand) -> None:
        """Record this outcome of work that died; nobody waits for it."""
        ...

    def is_running(self, session_id: str, turn_id: str) -> bool:
        """Has nothing been decided that ends this turn? What was decided may not be in the log yet."""
        ...

    async def confirm_ownership(self) -> None:
        """Make sure that no other owner claimed meanwhile, if the last confirmation is old."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorLimits:
    """Bounds of a turn."""

    turn_timeout_s: float
    retry_delay_s: float
    delta_interval_s: float
    max_text_bytes: int
    max_tool_result_bytes: int
    max_turn_messages: int = 200
    summary_timeout_s: float = 120.0
    max_retry_after_s: float = 60.0
    max_turn_tokens: int = 2_000_000  #: after so many no tool is started any more
