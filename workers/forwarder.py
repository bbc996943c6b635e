"""Sends what streams have to tell each other: the first pending forward to each target, again until it is received.

At least once: the target skips what it has heard, the source forgets what is received. Both are facts in their logs.

What the broker has waits its turn in the target's partition, for as long as that is behind. Sending it again there
only makes the wait longer, so a forward is repeated late, ever more seldom, and not many at a time: a backlog must not
feed itself.
"""

import heapq
from collections.abc import Callable

from schemas import commands as cmd
from schemas.events import SESSION
from streams.forwarding import Forward, ReceiveForward, due
from streams.lifecycle import refuses
from streams.session import Session
from workers.live import Live
from workers.ports import Outbox, Sent

RESEND_S = 5.0  #: after the first sending; doubles
RESEND_MAX_S = 300.0
MAX_RESENDS = 20  #: of one partition, each time somebody looks
_MAX_LOOKS = 5_000  #: a few milliseconds

_Key = tuple[str, str]  #: kind and id of the source


class Forwarder:
    """The forwards of one partition's streams."""

    def __init__(self, outbox: Outbox, now: Callable[[], float]) -> None:
        self._outbox = outbox
        self._now = now
        self._streams: dict[_Key, Live] = {}
        self._sent: dict[_Key, dict[int, Sent]] = {}
        self._again: list[tuple[float, float, _Key, int]] = []  # a heap: when, how long it waited, whose, seq

    def note(self, live: Live) -> None:
        """The stream's confirmed outbox may have changed: send what is due and was not sent yet."""
        key = (live.kind, live.stream_id)
        if not live.outbox:
            self._streams.pop(key, None)
            self._sent.pop(key, None)
            return
        self._streams[key] = live
        sent = self._sent.setdefault(key, {})
        for forward in due(live.outbox):
            if forward.seq not in sent:
                self._send(live, key, forward, RESEND_S)

    def resend(self) -> None:
        """Some of what is not received for long is sent again: it, or its receipt, may be lost."""
        now = self._now()
        left = MAX_RESENDS
        for _ in range(_MAX_LOOKS):
            if not left or not self._again or self._again[0][0] > now:
                return
            _, waited_s, key, seq = heapq.heappop(self._again)
            live = self._streams.get(key)
            forward = next((forward for forward in live.outbox if forward.seq == seq), None) if live else None
            if live is None or forward is None:
                continue  # received
            if self._sent[key][seq].done():
                left -= 1
                self._send(live, key, forward, min(2 * waited_s, RESEND_MAX_S))
            else:  # the broker does not take it yet: the outbox tries again
                self._look_again(waited_s, key, seq)

    def _look_again(self, wait_s: float, key: _Key, seq: int) -> None:
        heapq.heappush(self._again, (self._now() + wait_s, wait_s, key, seq))

    def _send(self, live: Live, key: _Key, forward: Forward, wait_s: float) -> None:
        command = cmd.Forwarded(
            source_kind=live.kind,
            source_id=live.stream_id,
            target_kind=forward.target_kind,
            seq=forward.seq,
            what=forward.what,
            new_session=forward.new_session,
            request_id_of_origin=forward.request_id_of_origin,
        )
        request_id = f"forward/{live.kind}/{live.stream_id}/{forward.seq}"
        header = _header(forward.target_kind, forward.target_id, request_id[:256])
        self._sent[key][forward.seq] = self._outbox.request(header, command)
        self._look_again(wait_s, key, forward.seq)

    def receipt(self, live: Live, received: ReceiveForward) -> None:
        """Tell the source that its forward is in our log."""
        command = cmd.ForwardReceipt(
            source_kind=received.source_kind,
            source_id=received.source_id,
            target_kind=live.kind,
            target_id=live.stream_id,
            seq=received.seq,
            refused=isinstance(live.state, Session) and refuses(live.state, received),
        )
        request_id = f"receipt/{live.kind}/{live.stream_id}/{received.seq}"
        self._outbox.request(_header(received.source_kind, received.source_id, request_id[:256]), command)


def _header(kind: str, stream_id: str, request_id: str) -> cmd.RequestHeader:
    if kind == SESSION:
        return cmd.RequestHeader(request_id=request_id, session_id=stream_id)
    return cmd.RequestHeader(request_id=request_id, channel=stream_id)
