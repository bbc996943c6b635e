"""Decisions told as given these facts, when this command, then those facts.

    given(*a_started_turn()).when(CompleteTurn(...)).then(Fact(...))

Steps chain: what was decided is folded, and the next ``when`` is decided on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Self

from turnlog_schemas import events as ev
from turnlog_schemas.commands import Chat
from turnlog_schemas.parts import (
    NO_USAGE,
    ClientTool,
    ContentPart,
    NewSession,
    ReplyAddress,
    ToolCall,
    ToolOutput,
    Usage,
    text_content,
)
from turnlog_streams.facts import Fact
from turnlog_streams.forwarding import ReceiveForward, ReceiveReceipt
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import Refuse
from turnlog_streams.session.commands import (
    AcceptChat,
    Archive,
    Cancel,
    CompleteTurn,
    FailAttempt,
    RecordMessage,
    ResumeTurn,
    SessionCommand,
)
from turnlog_streams.session.decide import decide
from turnlog_streams.session.state import Session, evolve

SESSION_ID = "web-1a2b3c4d"
USAGE = Usage(input_tokens=5, output_tokens=7, model_calls=1, last_input_tokens=5)


def fold(facts: Sequence[Fact], start: Session | None = None) -> Session:
    """The state that these facts lead to."""
    return reduce(evolve, facts, start or Session(session_id=SESSION_ID))


@dataclass(slots=True)
class Scenario:
    """A session, the policy it is decided under, and what the last command led to."""

    session: Session
    policy: Policy = field(default_factory=Policy)
    facts: list[Fact] = field(default_factory=list)

    def when(self, command: SessionCommand) -> Self:
        """Decide and fold."""
        self.facts = decide(self.session, command, self.policy)
        self.session = fold(self.facts, self.session)
        return self

    def then(self, *facts: Fact) -> Self:
        """Exactly these facts were decided."""
        assert self.facts == list(facts)
        return self

    def then_types(self, *types: type) -> Self:
        """Facts of exactly these types were decided."""
        assert [type(fact.event) for fact in self.facts] == list(types)
        return self

    def then_nothing(self) -> Self:
        """The command added nothing."""
        return self.then()

    def then_refused(self, code: str) -> Self:
        """The command was refused with this code, and nothing else happened."""
        self.then_types(ev.RequestRefused)
        event = self.facts[0].event
        assert isinstance(event, ev.RequestRefused)
        assert event.code == code
        return self

    def under(self, policy: Policy) -> Self:
        """What follows is decided under this policy."""
        self.policy = policy
        return self


def given(*facts: Fact, policy: Policy | None = None, session_id: str = SESSION_ID) -> Scenario:
    """A session to which these facts have happened."""
    return Scenario(session=fold(facts, Session(session_id=session_id)), policy=policy or Policy())


def chat(
    name: str = "1",
    text: str = "Hi",
    *,
    command_hash: str | None = None,
    model: str | None = None,
    on_busy: str = "enqueue",
    partial: str = "",
    new_session: NewSession | None = None,
    content: tuple[ContentPart, ...] | None = None,
    reply: ReplyAddress | None = None,
    usage: Usage = NO_USAGE,
    tools: tuple[ClientTool, ...] = (),
    outputs: tuple[ToolOutput, ...] = (),
    after: str | None = None,
) -> AcceptChat:
    """A chat request, its ids made of ``name``: request ``r1``, turn ``t1``, command hash ``h1``."""
    command = Chat(
        content=content or (text_content(text) if text else ()),
        model=model,
        on_busy=on_busy,
        new_session=new_session,
        tools=tools,
        tool_outputs=outputs,
        after_turn=after,
    )
    return AcceptChat(
        request_id=f"r{name}",
        command_hash=command_hash or f"h{name}",
        turn_id=f"t{name}",
        chat=command,
        reply=reply or ReplyAddress(),
        partial=partial,
        usage=usage,
    )


def refuse(name: str = "1", code: str = "empty_text", *, command_hash: str | None = None) -> Refuse:
    """A request that was found wrong before it reached the session."""
    return Refuse(
        request_id=f"r{name}", command_hash=command_hash or f"h{name}", code=code, reason=code, reply=ReplyAddress()
    )


def message(
    seq: int,
    text: str | None = "Hello",
    *,
    name: str = "1",
    attempt: int = 1,
    role: str = "assistant",
    calls: tuple[ToolCall, ...] = (),
    call_id: str | None = None,
) -> RecordMessage:
    """A message of turn ``t<name>``."""
    return RecordMessage(
        turn_id=f"t{name}",
        attempt=attempt,
        message_seq=seq,
        role=role,
        content=None if text is None else text_content(text),
        tool_calls=calls,
        tool_call_id=call_id,
    )


def call(call_id: str = "c", name: str = "search", *, idempotent: bool = False) -> ToolCall:
    """A tool call as a runner makes it."""
    return ToolCall(call_id=call_id, name=name, arguments="{}", idempotent=idempotent)


def complete(name: str = "1", attempt: int = 1) -> CompleteTurn:
    """The runner of turn ``t<name>`` came to its end."""
    return CompleteTurn(turn_id=f"t{name}", attempt=attempt, usage=USAGE, duration_ms=9)


def fail(name: str = "1", attempt: int = 1, *, retryable: bool = True) -> FailAttempt:
    """The runner of turn ``t<name>`` failed."""
    return FailAttempt(
        turn_id=f"t{name}",
        attempt=attempt,
        code="model_error",
        reason="it broke",
        retryable=retryable,
        usage=USAGE,
        duration_ms=9,
    )


def resume(name: str = "1", attempt: int = 1) -> ResumeTurn:
    """A new owner found turn ``t<name>`` in this attempt."""
    return ResumeTurn(turn_id=f"t{name}", attempt=attempt)


def cancel(
    name: str = "c",
    turn: str | None = None,
    *,
    partial: str = "",
    reply: ReplyAddress | None = None,
    usage: Usage = NO_USAGE,
) -> Cancel:
    """Request ``r<name>`` wants turn ``t<turn>`` to end; without one, the running turn."""
    return Cancel(
        request_id=f"r{name}",
        command_hash=f"h{name}",
        turn_id=f"t{turn}" if turn else None,
        reply=reply or ReplyAddress(),
        partial=partial,
        usage=usage,
    )


def archive(name: str = "a") -> Archive:
    """Request ``r<name>`` wants the session archived."""
    return Archive(request_id=f"r{name}", command_hash=f"h{name}", reply=ReplyAddress())


def told(what: str, seq: int, *, new: NewSession | None = None, origin: str | None = None) -> ReceiveForward:
    """The session's channel tells it something."""
    return ReceiveForward(
        source_kind="channel", source_id="web", seq=seq, what=what, new_session=new, request_id_of_origin=origin
    )


def receipt(seq: int) -> ReceiveReceipt:
    """A forward of ours arrived."""
    return ReceiveReceipt(seq=seq)


def running(*, policy: Policy | None = None) -> Scenario:
    """A session whose first turn has just started."""
    return given(policy=policy).when(chat())


__all__ = [
    "SESSION_ID",
    "USAGE",
    "Scenario",
    "call",
    "cancel",
    "chat",
    "complete",
    "fail",
    "fold",
    "given",
    "message",
    "receipt",
    "refuse",
    "resume",
    "running",
    "told",
]
