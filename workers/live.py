"""A session in memory: its folded state, its messages, and what runs for it."""

from dataclasses import dataclass, field

from streams.history import HistoryMessage, of_turn
from streams.replies import Reply
from streams.session import Session
from workers.actors import SessionActor
from workers.runners.base import TurnInput


@dataclass(slots=True, kw_only=True)
class LiveSession:
    """State and history run ahead of the log by what is being appended; a release throws both away."""

    session: Session
    history: list[HistoryMessage] = field(default_factory=list)
    last_offset: int = -1  #: of the session's newest confirmed event
    last_used: float = 0.0  #: monotonic seconds
    unknown_events: bool = False  #: written by a newer version: nothing is decided for it here
    actor: SessionActor | None = None
    frame_seqs: dict[tuple[str | None, int], int] = field(default_factory=dict)

    def idle_since(self, moment: float) -> bool:
        """Has nothing run, waited or been asked for since then?"""
        busy = self.session.open_turns > 0 or (self.actor is not None and self.actor.busy)
        return not busy and self.last_used < moment

    def next_frame_seq(self, reply: Reply) -> int:
        """Position of the next frame in its attempt, from 0; a terminal frame ends the count."""
        key = (reply.turn_id, reply.attempt)
        seq = self.frame_seqs.get(key, 0)
        if reply.terminal:
            self.frame_seqs = {k: v for k, v in self.frame_seqs.items() if k[0] != reply.turn_id}
        else:
            self.frame_seqs[key] = seq + 1
        return seq

    def turn_input(self, turn_id: str, epoch: int) -> TurnInput:
        """What the runner of the running turn gets."""
        turn = self.session.turns[turn_id]
        mine = of_turn(self.history, turn_id)
        return TurnInput(
            session_id=self.session.session_id,
            turn_id=turn_id,
            attempt=turn.attempt,
            turn_number=self.session.turn_count,
            fencing_token=epoch,
            model=turn.model or "",
            instructions=self.session.instructions,
            user_content=turn.content,
            history=self.history[: len(self.history) - len(mine)],
            turn_messages=mine[1:],
            metadata=self.session.metadata,
        )
