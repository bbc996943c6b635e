"""A reply frame on its way: what it says, whom it answers, and of which attempt it is."""

from dataclasses import dataclass

from turnlog_schemas import events as ev
from turnlog_schemas import frames as fr
from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.refusals import Refuse

_TERMINAL = frozenset(fr.TERMINAL_FRAMES)


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A frame, whom it answers, and of which attempt it is. The sender adds epoch and frame_seq."""

    frame: fr.Frame
    address: ReplyAddress
    request_id: str
    turn_id: str | None = None
    attempt: int = 0
    session_id: str | None = None  #: where it differs from the stream that answers
    channel: str | None = None

    @property
    def terminal(self) -> bool:
        """Does this frame end what its reader waits for?"""
        return self.frame.__class__ in _TERMINAL


def unrecorded_refusal(kind: str, stream_id: str, refused: Refuse) -> Reply:
    """The frame of a refusal that no stream records."""
    frame = fr.RequestRefused(code=refused.code, reason=refused.reason)
    if kind == ev.CHANNEL:
        return Reply(
            frame=frame, address=refused.reply, request_id=refused.request_id, session_id="", channel=stream_id
        )
    return Reply(frame=frame, address=refused.reply, request_id=refused.request_id)
