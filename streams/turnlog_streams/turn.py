"""A turn: one user message, or the outputs of calls that its session waits for, to its terminal event.

    accepted --> started(attempt n) --> completed
        |              |  `- owner lost / runner failed --> started(attempt n+1)
        |              |--> failed        `--> cancelled (partial text kept)
        `--> cancelled before it started

Runner failures and takeovers are counted apart: an owner's death is not the turn's fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import (
    NO_USAGE,
    ClientTool,
    ContentPart,
    ReplyAddress,
    ToolCall,
    ToolOutput,
    Usage,
    added,
)
from turnlog_streams.records import changed

INTERRUPTED_TEXT = (
    "The outcome of this tool call is unknown: it was interrupted. It may have run, may be running, or may yet run."
)


class _Message(Protocol):
    @property
    def role(self) -> str: ...


@direct_init
@dataclass(frozen=True, kw_only=True)  # no slots: see ``records``
class Turn:
    """A turn that has no terminal event yet."""

    turn_id: str
    request_id: str
    content: tuple[ContentPart, ...]
    requested_model: str | None
    reply: ReplyAddress
    model: str | None = None  #: the effective one, once started
    requested_params: GenerationParams | None = None
    params: GenerationParams | None = None  #: the effective ones, once started
    attempt: int = 0  #: 0: waits its turn
    runner_failures: int = 0
    takeovers_in_a_row: int = 0  #: since the last message that a runner produced
    open_calls: tuple[ToolCall, ...] = ()  #: stored calls without a stored result, in order
    answer_seq: int = 0  #: message_seq of the newest assistant message; 0: none yet
    spent: Usage = NO_USAGE  #: what its attempts have cost, as far as the log has it
    tools: tuple[ClientTool, ...] = ()  #: that its sender runs
    outputs: tuple[ToolOutput, ...] = ()  #: that it begins with; none any more once it has started
    name: str | None = None  #: of who says it
    results_first: int = 0  #: messages of tools at its beginning: those outputs, or what closed the calls before it

    def inputs_in(self, messages: Sequence[_Message]) -> int:
        """How many of its messages come before what its runner adds: results, and what its user says, if anything."""
        if not self.content:
            return self.results_first
        return next((index + 1 for index, message in enumerate(messages) if message.role == "user"), len(messages))

    def cost(self, usage: Usage) -> Usage:
        """What the whole turn cost, if its last attempt cost ``usage`` beside what is recorded.

        The last prompt is the last attempt's: of an earlier one it would measure another history.
        """
        if self.spent == NO_USAGE:
            return usage
        return changed(added(self.spent, usage), last_input_tokens=usage.last_input_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedCall:
    """A stored call that the session's client runs: its output is awaited."""

    call_id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactedAnswer:
    """How a request to compact the history was answered."""

    summary: str = ""  #: empty: there was nothing to summarise
    from_seq: int = 0
    to_seq: int = 0
    changed: bool = False  #: the summary was made for it
    tokens_before: int | None = None
    tokens_after: int | None = None
    usage: Usage | None = None


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a request, kept for ever: the producer's retry finds it."""

    command_hash: str
    turn_id: str | None = None  #: ``None``: refused, or no turn's
    kind: str = "open"  #: ``open``, ``completed``, ``requires_action``, ``failed``, ``cancelled`` or ``refused``; of a
    #: request to compact the history ``compacting``, ``compacted`` or ``not_compacted``; of one to hide a turn
    #: ``hidden``; of one to erase the session ``erased``; of a lifecycle request ``decided``
    code: str = ""
    reason: str = ""
    attempt: int = 0
    answer_seq: int = 0  #: message_seq of the text that ended its turn; 0: none
    usage: Usage = field(default_factory=Usage)
    reply: ReplyAddress = field(default_factory=ReplyAddress)  #: of the request that was decided
    compacted: CompactedAnswer | None = None
    session_id: str = ""  #: of a lifecycle request: the session that it is about
    created: bool = False  #: by that request, or by this chat
    pending: tuple[str, ...] = ()  #: ids of calls in its last message whose outputs are awaited


class _Call(Protocol):
    @property
    def call_id(self) -> str: ...


C = TypeVar("C", bound=_Call)


def pending_calls(calls: Sequence[ToolCall], pending: Sequence[str]) -> tuple[ToolCall, ...]:
    """Of a message's calls, those of these ids that the client runs; ids may repeat."""
    left, found = list(pending), []
    for call in calls:
        if call.client and call.call_id in left:
            left.remove(call.call_id)
            found.append(call)
    return tuple(found)


def without_result(open_calls: tuple[C, ...], call_id: str | None) -> tuple[C, ...]:
    """The open calls after a result came in: the first with its id is answered, else the first of all.

    By position, since ids repeat in real conversations.
    """
    for index, call in enumerate(open_calls):
        if call.call_id == call_id:
            return open_calls[:index] + open_calls[index + 1 :]
    return open_calls[1:]
