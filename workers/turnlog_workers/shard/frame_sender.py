"""Frames of one epoch on their way to the replies, and how far the terminal ones are sent."""

import logging
from dataclasses import dataclass, replace

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


@dataclass(slots=True)
class _Spoken:
    """An attempt that has said something."""

    turn_id: str
    attempt: int
    last: Sent | None = None  #: its newest frame, where that is a delta which may still take up more
    kind: type[fr.TextDelta | fr.ReasoningDelta] | None = None  #: of that

    def join(self, text: str) -> bool:
        """Take up more of the same kind."""
        if self.last is None or not self.last.join(text):
            self.last = None
            return False
        return True


class FrameSender:
    """Gives frames their place: epoch, partition and ``frame_seq``.

    A turn's first delta goes at once. A later one that still waits for its lane takes up what is said meanwhile:
    nothing of its turn was queued behind it, so text, frames and ``frame_seq`` keep their order.
    """

    def __init__(
        self, sender: RecordSender, partition: int, *, epoch: int, replied: int, joins_deltas: bool = False
    ) -> None:
        self.replied = Replied(replied)
        self._sender = sender
        self._partition = partition
        self._epoch = epoch
        self._joins_deltas = joins_deltas
        self._spoken: dict[str, _Spoken] = {}  #: by session

    def send(self, stream: AnyStream, reply: Reply, offset: int | None = None) -> None:
        """A frame; ``offset``: of the event that a terminal one reports, where it must come again if it is lost."""
        frame_seq = stream.next_frame_seq(reply)
        if reply.turn_id is not None and self._spoken:
            self._nothing_joins_before(stream.stream_id, reply)
        try:
            sent: Sent | None = self._queue(stream, reply, frame_seq)
        except Exception as error:
            sent = self._instead(stream, reply, frame_seq, error)
        if sent is not None and reply.terminal and offset is not None:
            self.replied.add(offset, sent)

    def _nothing_joins_before(self, stream_id: str, reply: Reply) -> None:
        """What its turn says from here on comes behind this frame."""
        spoken = self._spoken.get(stream_id)
        if spoken is not None and spoken.turn_id == reply.turn_id:
            spoken.last = None
            if reply.terminal:
                del self._spoken[stream_id]

    def _queue(self, stream: AnyStream, reply: Reply, frame_seq: int, *, may_wait: bool = False) -> Sent:
        return self._sender.reply(
            reply,
            stream_id=stream.stream_id,
            partition=self._partition,
            epoch=self._epoch,
            frame_seq=frame_seq,
            may_wait=may_wait,
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

    def delta(
        self, stream: SessionInMemory, turn: TurnInput, frame: fr.TextDelta | fr.ReasoningDelta
    ) -> _Spoken | None:
        """An ephemeral frame of the running attempt; where it waits, what takes up the pieces after it."""
        open_turn = stream.state.turns.get(turn.turn_id)
        if open_turn is None:
            return None
        spoken = self._spoken.get(stream.stream_id)
        if spoken is not None and (spoken.turn_id != turn.turn_id or spoken.attempt != turn.attempt):
            spoken.last = None
            spoken = None
        if spoken is not None and spoken.last is not None:
            if spoken.kind is frame.__class__ and spoken.join(frame.text):
                return spoken
            spoken.last = None
        reply = Reply(
            frame=frame,
            address=open_turn.reply,
            request_id=open_turn.request_id,
            turn_id=turn.turn_id,
            attempt=turn.attempt,
        )
        if spoken is None:
            self.send(stream, reply)
            if self._joins_deltas:
                self._spoken[stream.stream_id] = _Spoken(turn.turn_id, turn.attempt)
            return None
        frame_seq = stream.next_frame_seq(reply)
        try:
            spoken.last = self._queue(stream, reply, frame_seq, may_wait=True)
            spoken.kind = frame.__class__
        except Exception as error:
            self._instead(stream, reply, frame_seq, error)
            return None
        return spoken

    def close(self) -> None:
        """Drop the deltas that wait: their turns are said anew by the next owner."""
        for spoken in self._spoken.values():
            if spoken.last is not None:
                spoken.last.withdraw()
        self._spoken.clear()
