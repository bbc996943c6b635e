"""The runner: what talks to a model for one session.

A runner gets the history and the user's message and yields typed outputs. The session asks for the next output only
after a message with tool calls is confirmed in the log, so a runner that runs tools itself starts them right after
that ``yield``: a tool never starts before its call is stored. The end of the iteration is the end of the turn.

All that a runner yields and raises is checked (``runners.checked``, ``.contained``): what is wrong ends its own
turn, and a ``SystemExit`` in a task or callback that it started ends nothing else. What cannot be contained: code that
blocks the event loop (a factory, too) stops the whole worker meanwhile, and so does one that cancels others' tasks.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from turnlog_schemas.files import file_name
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import NO_USAGE, ContentPart, ToolCall, Usage, text_content
from turnlog_streams.history.messages import HistoryMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """The result of an open tool call: ``call_id`` is that of one."""

    call_id: str
    content: tuple[ContentPart, ...] | None
    name: str | None = None
    outcome: str | None = None  #: one of :data:`turnlog_schemas.parts.OUTCOMES`; ``None``: not said


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinition:
    """What a model is told of a tool."""

    name: str
    description: str
    parameters: Mapping[str, Any]  #: the JSON schema of an object
    idempotent: bool = False  #: a call whose outcome nobody knows may be made again
    client: bool = False  #: whoever sent the request runs it: its call ends the turn


class TurnTools(Protocol):
    """The tools that this turn may use.

    ::

        yield AssistantMessage(content=..., tool_calls=calls)
        async for result in turn.tools.run(calls):
            yield result
    """

    @property
    def definitions(self) -> Sequence[ToolDefinition]:
        """What to tell the model."""
        ...

    def run(self, calls: Sequence[ToolCall]) -> AsyncGenerator[ToolResult]:
        """Run the calls side by side, each once; their results come in the order of the calls.

        They must have been yielded before, or be among ``turn.turn_messages``: else :class:`RunnerError`. Whatever goes
        wrong with a tool is a result that says so; so is a call of a tool that is not there. Calls that the client runs
        have none: once no other call is open, the turn ends, and the runner is asked for nothing more.
        """
        ...


class NoTools:
    """No tool at all: what is called all the same gets a result that says so."""

    __slots__ = ()  # there is one for all turns
    definitions: Sequence[ToolDefinition] = ()

    async def run(self, calls: Sequence[ToolCall]) -> AsyncGenerator[ToolResult]:
        """A result for each call."""
        for call in calls:
            yield no_such_tool(call)


def no_such_tool(call: ToolCall, known: Sequence[str] = ()) -> ToolResult:
    """What a model is told that calls what it was not offered."""
    instead = f"There are: {', '.join(known)}." if known else "Answer without it."
    text = f"Error: there is no tool {call.name[:100]!r} here. {instead}"
    return ToolResult(call_id=call.call_id, content=text_content(text), name=call.name, outcome="error")


NO_TOOLS = NoTools()


class TurnFiles(Protocol):
    """The files that the messages of this turn refer to: parts of the kind ``file_ref``."""

    @property
    def max_turn_bytes(self) -> int:
        """Of all that one call of a model is shown."""
        ...

    async def read(self, part: ContentPart) -> bytes:
        """The bytes, which are what the part says: keep them for the call of the model and no longer.

        Raises :class:`RunnerError`, with a code of its own for each thing that can be wrong.
        """
        ...


class NoFiles:
    """No file may be read."""

    __slots__ = ()
    max_turn_bytes = 0

    async def read(self, part: ContentPart) -> bytes:
        """Raises :class:`RunnerError`."""
        raise RunnerError("file_not_allowed", f"file {file_name(part)!r}: no files are read here", retryable=False)


NO_FILES = NoFiles()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnInput:
    """All that a runner may know of the turn it is to run."""

    session_id: str
    turn_id: str
    attempt: int
    turn_number: int  #: of the session, from 1; history compaction does not change it
    fencing_token: int  #: the owner's epoch, for tools: a higher one means a newer owner
    model: str
    instructions: str | None
    user_content: tuple[ContentPart, ...]
    history: Sequence[HistoryMessage] = ()  #: assembled, everything before this turn's user message
    turn_messages: Sequence[HistoryMessage] = ()  #: stored in this turn so far, after the user message
    assembled: Sequence[HistoryMessage] = ()  #: all that a model is to see: a summary (role ``summary``) and what it
    #: does not cover, this turn's messages included, without those of a model that say nothing. After a failed turn two
    #: messages of the user may follow each other; ``history.openai_format`` renders it and joins them
    metadata: Mapping[str, str] = field(default_factory=dict)
    allow_tools: bool = True  #: false: the model must write, it is not told of any tool
    tools: TurnTools = NO_TOOLS
    files: TurnFiles = NO_FILES
    params: GenerationParams = field(default_factory=GenerationParams)  #: how to generate; within the worker's bounds
    channel: str = ""
    spent: Usage = NO_USAGE  #: what the turn has cost until now, as far as the log has it
    client_tools: Sequence[ToolDefinition] = ()  #: that its request brought; ``tools`` has them, too
    tool_outputs: Sequence[HistoryMessage] = ()  #: with which it begins, instead of the user's message or before it


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """A piece of the answer, as it is generated."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """A piece of the model's reasoning; streamed, never stored."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantMessage:
    """A whole message of the model. ``content`` ``None`` and the empty text differ. Calls start after this yield."""

    content: tuple[ContentPart, ...] | None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """What this ``run()`` has cost so far, as a total; the last one counts.

    The session adds up the attempts. What was not reported before a crash is lost, so report after each model call,
    before its message: where that calls tools of the client, nothing is asked for after it.
    """

    usage: Usage


RunnerOutput = TextDelta | ReasoningDelta | AssistantMessage | ToolResult | UsageReport


CONTEXT_TOO_LONG = "context_too_long"
"""The code of a :class:`RunnerError`: the model cannot take so long a prompt. Its history is compacted, and the model
asked once more in the same attempt, if nothing was streamed since the last whole message."""


class RunnerError(Exception):
    """A runner gave up. The reason reaches the user: no secrets in it."""

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        retryable: bool = True,
        retry_after_s: float | None = None,
        prompt_tokens: int | None = None,
        window_tokens: int | None = None,
    ) -> None:
        """``retryable``: another attempt may help.

        ``retry_after_s``: but not sooner; if that is longer than a turn may wait, it fails and says so.
        ``prompt_tokens``, ``window_tokens``: with :data:`CONTEXT_TOO_LONG`, what the prompt had and the model can take.
        """
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.prompt_tokens = prompt_tokens
        self.window_tokens = window_tokens


class Runner(Protocol):
    """Calls the model for one session. One turn at a time."""

    @property
    def alive(self) -> bool:
        """False when the runner must be replaced before the next turn."""
        ...

    def run(self, turn: TurnInput) -> AsyncIterator[RunnerOutput]:
        """Run one turn (or go on with it after ``turn.turn_messages``). Raises :class:`RunnerError`.

        It may be cancelled at each ``await``, and closed at each ``yield``; one that does not end within seconds then
        is left alone.
        """
        ...

    async def aclose(self) -> None:
        """Free what the runner holds. Called once."""
        ...


class RunnerFactory(Protocol):
    """Makes runners of one provider: what an entry point of the group ``turnlog.runners`` names.

    One that takes files says so by :meth:`TakesFiles.media_types`.
    """

    def __call__(self, model: str) -> Runner:
        """A runner for a full model name. Raises :class:`RunnerError` for one it cannot serve."""
        ...


@runtime_checkable
class TakesFiles(Protocol):
    """A :class:`RunnerFactory` whose runners can be shown files. For any other, a request with one is refused."""

    def media_types(self, model: str) -> Sequence[str]:
        """What the model takes, as shell-style patterns such as ``image/*``. Cheap: asked before each such turn."""
        ...
