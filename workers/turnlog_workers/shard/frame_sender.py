"""Frames of one epoch on their way to the replies, and how far the terminal ones are sent."""

import logging
from dataclasses import replace

from turnlog_schemas import frames as fr
from turnlog_streams.reply import Reply
from turnlog_workers.base.logs import at
from turnlog_workers.base.ports import RecordSender, Sent
from turnlog_workers.base.tasks import describe
from turnlog_workers.runners.base import TurnInput
from turnlog_workers.shard.reply_watermark import Replied
from turnlog_workers.shard.session_in_memory import SessionInMemory
from turnlog_workers.shard.stream import AnyStream

log = logging.getLogger(__name__)


class FrameSender:
    """Gives frames their place: epoch, partition and ``frame_seq``."""

    def __init__(self, sender: RecordSender, partition: int, *, epoch: int, replied: int) -> None:
        self.replied = Replied(replied)
        self._sender = sender
        self._partition = partition
        self._epoch = epoch

    def send(self, stream: AnyStream, reply: Reply, offset: int | None = None) -> None:
        """A frame; ``offset``: of the event that a terminal one reports, where it must come again if it is lost."""
        frame_seq = stream.next_frame_seq(reply)
        try:
            sent: Sent | None = self._queue(stream, reply, frame_seq)
        except Exception as error:
            sent = self._instead(stream, reply, frame_seq, error)
        if sent is not None and reply.terminal and offset is not None:
            self.replied.add(offset, sent)

    def _queue(self, stream: AnyStream, reply: Reply, frame_seq: int) -> Sent:
        return self._sender.reply(
            reply, stream_id=stream.stream_id, partition=self._partition, epoch=self._epoch, frame_seq=frame_seq
        )

    def _instead(self, stream: AnyStream, reply: Reply, frame_seq: int, error: Exception) -> Sent | None:
        """A frame that cannot be made is no reason to stop anything; whoever waits for a terminal one is told."""
        what = type(reply.frame).__name__
        place = at(partition=self._partition)
        log.error(
            "%s %s: a %s frame cannot be made: %s", stream.kind, stream.stream_id, what, describe(error), extra=place
        )
        if not reply.terminal:
            return None
        reason = f"the answer is in the log, and cannot be made a {what} frame ({type(error).__name__})"
        refused = fr.RequestRefused(code="unsendable", reason=reason)
        try:
            return self._queue(stream, replace(reply, frame=refused), frame_seq)
        except Exception as again:
            log.error("%s %s: nobody can be told: %s", stream.kind, stream.stream_id, describe(again), extra=place)
            return None

    def delta(self, stream: SessionInMemory, turn: TurnInput, frame: fr.TextDelta | fr.ReasoningDelta) -> None:
        """An ephemeral frame of the running attempt."""
        open_turn = stream.state.turns.get(turn.turn_id)
        if open_turn is None:
            return
        reply = Reply(
            frame=frame,
            address=open_turn.reply,
            request_id=open_turn.request_id,
            turn_id=turn.turn_id,
            attempt=turn.attempt,
        )
        self.send(stream, reply)
