"""A readable request that is not carried out: the event that says so."""

from typing import Protocol

from turnlog_schemas import events as ev
from turnlog_streams.session.state import Fact
from turnlog_streams.turn import ReplyAddress

MAX_REASON_CHARS = 1000  #: names in it may be somebody else's, and long


class _Request(Protocol):
    @property
    def request_id(self) -> str: ...
    @property
    def command_hash(self) -> str: ...
    @property
    def reply(self) -> ReplyAddress: ...


def refusal(request: _Request, code: str, reason: str) -> Fact:
    """The refusal of a request, with all that its answer needs."""
    reply = request.reply
    refused = ev.RequestRefused(
        request_id=request.request_id,
        command_hash=request.command_hash,
        code=code,
        reason=reason[:MAX_REASON_CHARS],
        reply_to=reply.reply_to,
        framing=reply.framing,
        traceparent=reply.traceparent,
        tracestate=reply.tracestate,
    )
    return Fact(event=refused)


def conflict(request: _Request) -> Fact:
    """The refusal of a request id that was used before, for another command."""
    return refusal(request, "conflict", f"request id {request.request_id!r} was used before, for another command")
