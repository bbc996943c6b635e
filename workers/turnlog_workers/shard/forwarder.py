"""Sends what streams have to tell each other: the first pending forward to each target, again until it is received.

At least once: the target skips what it has heard, the source forgets what is received. Both are facts in their logs.

What the broker has waits its turn in the target's partition, for as long as that is behind. Sending it again there
only makes the wait longer, so a forward is repeated late, ever more seldom, and not many at a time: a backlog must not
feed itself.
"""

import heapq
from collections.abc import Callable

from turnlog_schemas import commands as cmd
from turnlog_schemas.events import SESSION
from turnlog_streams.forwarding import Forward, ReceiveForward, due
from turnlog_workers.base.backoff import Backoff
from turnlog_workers.base.ports import RecordSender, Sent

RESEND = Backoff(5.0, 300.0)
MAX_RESENDS = 20  #: of one partition, each time somebody looks
_MAX_LOOKS = 5_000  #: a few milliseconds

_MIN_PRUNE = 1_000

_Key = tuple[str, str]  #: kind and id of the source


class _Source:
    """A stream that has something to tell: its confirmed outbox, and what of it was sent."""

    __slots__ = ("outbox", "sent")

    def __init__(self) -> None:
        self.outbox: tuple[Forward, ...] = ()
        self.sent: dict[int, Sent] = {}

    def pending(self, seq: int) -> Forward | None:
        """The forward with this number, unless it is received."""
        return next((forward for forward in self.outbox if forward.seq == seq), None)


class Forwarder:
    """The forwards of one partition's streams. It knows outboxes as the confirmed log has them, not what runs ahead."""

    def __init__(self, sender: RecordSender, now: Callable[[], float]) -> None:
        self._sender = sender
        self._now = now
        self._sources: dict[_Key, _Source] = {}
        self._again: list[tuple[float, int, _Key, int]] = []  # a heap: when, how often it was sent, whose, seq
        self._prune_at = _MIN_PRUNE  #: so many entries: those of what is received go

    def note(self, kind: str, stream_id: str, outbox: tuple[Forward, ...]) -> None:
        """The stream's confirmed outbox is this: send what is due and was not sent yet."""
        key = (kind, stream_id)
        if not outbox:
            self._sources.pop(key, None)
            return
        source = self._sources.setdefault(key, _Source())
        source.outbox = outbox
        if len(source.sent) > len(outbox):
            waiting = {forward.seq for forward in outbox}
            source.sent = {seq: sent for seq, sent in source.sent.items() if seq in waiting}
        for forward in due(outbox):
            if forward.seq not in source.sent:
                self._send(source, key, forward, 1)

    def resend(self) -> None:
        """Some of what is not received for long is sent again: it, or its receipt, may be lost."""
        now = self._now()
        left = MAX_RESENDS
        for _ in range(_MAX_LOOKS):
            if not left or not self._again or self._again[0][0] > now:
                return
            _, sendings, key, seq = heapq.heappop(self._again)
            source = self._sources.get(key)
            forward = source.pending(seq) if source else None
            if source is None or forward is None:
                continue  # received
            if source.sent[seq].on_its_way():  # the broker does not take it yet: the sender tries again
                self._look_again(sendings, key, seq)
            else:  # stored, or given up: it is ours to send it again
                left -= 1
                self._send(source, key, forward, sendings + 1)

    def _look_again(self, sendings: int, key: _Key, seq: int) -> None:
        heapq.heappush(self._again, (self._now() + RESEND.next_delay(sendings), sendings, key, seq))
        if len(self._again) > self._prune_at:
            self._again = [
                entry for entry in self._again if (source := self._sources.get(entry[2])) and source.pending(entry[3])
            ]
            heapq.heapify(self._again)
            self._prune_at = max(_MIN_PRUNE, 2 * len(self._again))

    def _send(self, source: _Source, key: _Key, forward: Forward, sendings: int) -> None:
        source_kind, source_id = key
        command = cmd.Forwarded(
            source_kind=source_kind,
            source_id=source_id,
            target_kind=forward.target_kind,
            seq=forward.seq,
            what=forward.what,
            new_session=forward.new_session,
            request_id_of_origin=forward.request_id_of_origin,
        )
        request_id = f"forward/{source_kind}/{source_id}/{forward.seq}"
        header = _header(forward.target_kind, forward.target_id, request_id[:256])
        source.sent[forward.seq] = self._sender.request(header, command)
        self._look_again(sendings, key, forward.seq)

    def receipt(self, kind: str, stream_id: str, received: ReceiveForward, *, refused: bool) -> None:
        """Tell the source that its forward is in the log of this stream."""
        command = cmd.ForwardReceipt(
            source_kind=received.source_kind,
            source_id=received.source_id,
            target_kind=kind,
            target_id=stream_id,
            seq=received.seq,
            refused=refused,
        )
        request_id = f"receipt/{kind}/{stream_id}/{received.seq}"
        self._sender.request(_header(received.source_kind, received.source_id, request_id[:256]), command)


def _header(kind: str, stream_id: str, request_id: str) -> cmd.RequestHeader:
    if kind == SESSION:
        return cmd.RequestHeader(request_id=request_id, session_id=stream_id)
    return cmd.RequestHeader(request_id=request_id, channel=stream_id)
