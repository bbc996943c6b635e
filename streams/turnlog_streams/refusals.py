"""A readable request that is not carried out: the event that says so."""

from dataclasses import dataclass
from typing import Protocol

from turnlog_schemas import events as ev
from turnlog_schemas.parts import ReplyAddress
from turnlog_streams.facts import Fact

MAX_REASON_CHARS = 1000  #: names in it may be somebody else's, and long


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Command: a request was found wrong before it reached its session or channel."""

    request_id: str
    command_hash: str
    code: str
    reason: str
    reply: ReplyAddress


class _Request(Protocol):
    @property
    def request_id(self) -> str: ...
    @property
    def command_hash(self) -> str: ...
    @property
    def reply(self) -> ReplyAddress: ...


def refusal(request: _Request, code: str, reason: str, *, reused: bool = False) -> Fact:
    """The refusal of a request, with all that its answer needs. ``reused``: its id was used before."""
    refused = ev.RequestRefused(
        request_id=request.request_id,
        command_hash=request.command_hash,
        code=code,
        reason=reason[:MAX_REASON_CHARS],
        reply=request.reply,
        reused=reused,
    )
    return Fact(event=refused)


def conflict(request: _Request) -> Fact:
    """The refusal of a request id that was used before, for another command."""
    return refusal(request, "conflict", conflict_reason(request.request_id), reused=True)


def conflict_reason(request_id: str) -> str:
    """In words, for whoever re-used the id."""
    return f"request id {request_id!r} was used before, for another command"
