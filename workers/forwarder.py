"""Sends what streams have to tell each other: the first pending forward to each target, again until it is received.

At least once: the target skips what it has heard, the source forgets what is received. Both are facts in their logs.
"""

from collections.abc import Callable

from schemas import commands as cmd
from schemas.events import SESSION
from streams.forwarding import Forward, ReceiveForward, due
from streams.lifecycle import refuses
from streams.session import Session
from workers.live import Live
from workers.ports import Outbox

RESEND_S = 2.0


class Forwarder:
    """The forwards of one partition's streams."""

    def __init__(self, outbox: Outbox, now: Callable[[], float]) -> None:
        self._outbox = outbox
        self._now = now
        self._streams: dict[tuple[str, str], Live] = {}
        self._sent: dict[tuple[str, str], dict[int, float]] = {}

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
                self._send(live, forward, sent)

    def resend(self) -> None:
        """Whatever is not received for a while is sent again: the target's owner may have changed."""
        now = self._now()
        for key, live in self._streams.items():
            sent = self._sent[key]
            for forward in due(live.outbox):
                if now - sent.get(forward.seq, now) >= RESEND_S:
                    self._send(live, forward, sent)

    def _send(self, live: Live, forward: Forward, sent: dict[int, float]) -> None:
        sent[forward.seq] = self._now()
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
        self._outbox.request(_header(forward.target_kind, forward.target_id, request_id[:256]), command)

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
