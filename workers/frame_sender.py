"""Frames of one epoch on their way to the replies, and how far the terminal ones are sent."""

from schemas import frames as fr
from streams.replies import Reply
from workers.live import Live, LiveSession
from workers.ports import Outbox
from workers.replied import Replied
from workers.runners.base import TurnInput


class FrameSender:
    """Gives frames their place: epoch, partition and ``frame_seq``."""

    def __init__(self, outbox: Outbox, partition: int, *, epoch: int, replied: int) -> None:
        self.replied = Replied(replied)
        self._outbox = outbox
        self._partition = partition
        self._epoch = epoch

    def send(self, live: Live, reply: Reply, offset: int | None = None) -> None:
        """A frame; ``offset``: of the event that a terminal one reports, where it must come again if it is lost."""
        sent = self._outbox.reply(
            reply,
            stream_id=live.stream_id,
            partition=self._partition,
            epoch=self._epoch,
            frame_seq=live.next_frame_seq(reply),
        )
        if reply.terminal and offset is not None:
            self.replied.add(offset, sent)

    def delta(self, live: LiveSession, turn: TurnInput, frame: fr.TextDelta | fr.ReasoningDelta) -> None:
        """An ephemeral frame of the running attempt."""
        open_turn = live.session.turns.get(turn.turn_id)
        if open_turn is None:
            return
        reply = Reply(
            frame=frame,
            address=open_turn.reply,
            request_id=open_turn.request_id,
            turn_id=turn.turn_id,
            attempt=turn.attempt,
        )
        self.send(live, reply)
