"""Small records that commands, events and frames share."""

from dataclasses import dataclass

from turnlog_schemas.direct_init import direct_init
from turnlog_schemas.generation import GenerationParams

TEXT = "text"
FILE_REF = "file_ref"


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class ContentPart:
    """One part of a message: a text, or a reference to a file, whose bytes are never in the log."""

    kind: str = TEXT  #: or ``file_ref``
    text: str | None = None
    uri: str | None = None  #: of a ``file_ref``, as what follows: where the file is, ``https://…`` or ``file:///…``
    media_type: str | None = None  #: such as ``image/png``
    sha256: str | None = None  #: of its bytes, in hex: who reads it compares; absent: not said
    bytes: int | None = None  #: how many it has; absent: not said


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A model's wish to run a tool. Ids repeat in real conversations: pair call and result by position."""

    call_id: str
    name: str
    arguments: str  #: as the model wrote them; often not canonical JSON, never re-serialised
    idempotent: bool = False  #: may it be started again when its outcome is unknown?
    idempotency_key: str = ""  #: stored with the call and reused on every retry of it
    client: bool = False  #: of a tool that the request brought: whoever sent it runs it, no worker does


OUTCOMES = ("ok", "error", "timed_out", "interrupted")
"""How a tool call ended: it gave a result; it failed and says why; it was stopped; nobody knows (it may have run)."""


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a turn cost, summed over its model calls (tokens), as the runner reported it."""

    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0
    last_input_tokens: int = 0  #: prompt size of the last model call: what history compaction looks at


NO_USAGE = Usage()


def added(one: Usage, other: Usage) -> Usage:
    """What both cost; the size of the last prompt is that of ``other``, if it says one."""
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        model_calls=one.model_calls + other.model_calls,
        last_input_tokens=other.last_input_tokens or one.last_input_tokens,
    )


@direct_init
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyAddress:
    """Where and how a request is answered."""

    reply_to: str | None = None  #: a reply topic; absent: the default one
    framing: str = "avro"
    traceparent: str | None = None
    tracestate: str | None = None


DEFAULT_ADDRESS = ReplyAddress()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTool:
    """A function that whoever sends a request runs itself: a call of it ends the turn, its output is a request."""

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'  #: the JSON schema of an object, as text


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput:
    """What a call of a :class:`ClientTool` gave."""

    call_id: str
    output: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialMessage:
    """A message that a new session begins with: it was said elsewhere."""

    role: str  #: one of :data:`INITIAL_ROLES`; what ``system`` and ``developer`` say becomes instructions
    content: tuple[ContentPart, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


INITIAL_ROLES = ("user", "assistant", "tool", "system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest:
    """The request that ended a turn on purpose: its retry finds this answer."""

    request_id: str
    command_hash: str
    reply: ReplyAddress = DEFAULT_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """How a session is made: by a lifecycle request, or by the first chat that names it."""

    channel: str | None = None  #: that it belongs to; absent: none
    title: str | None = None
    instructions: str | None = None
    model: str | None = None
    metadata: dict[str, str] | None = None
    history_max_tokens: int | None = (
        None  #: above it the history is compacted; negative: not by itself; absent, 0: default
    )
    history_keep_tail: int | None = None  #: newest messages that history compaction leaves word for word
    params: GenerationParams | None = None  #: of its turns, where their requests say nothing else
    messages: tuple[InitialMessage, ...] = ()  #: that it begins with; in the log they are messages of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A stored message, as a history page carries it."""

    message_seq: int
    turn_id: str
    role: str
    content: tuple[ContentPart, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    interrupted: bool = False
    truncated: bool = False
    covered: bool = False  #: a summary stands for it in what models see
    outcome: str | None = None  #: of a tool message: how its call ended, one of :data:`OUTCOMES`; absent: not said
    imported: bool = False  #: said elsewhere: the session was opened with it


def text_content(text: str) -> tuple[ContentPart, ...]:
    """The content list of a plain text."""
    return (ContentPart(text=text),)


def content_text(content: tuple[ContentPart, ...] | None) -> str | None:
    """The text of a content list, parts joined; ``None`` stays ``None`` (it is not the empty string)."""
    if content is None:
        return None
    return "".join(part.text or "" for part in content)


def is_plain_text(part: ContentPart) -> bool:
    """Is it a text, and nothing else?"""
    return part.kind == TEXT and part.uri is None


def files_of(content: tuple[ContentPart, ...] | None) -> tuple[ContentPart, ...]:
    """The references to files in a content list."""
    return tuple(part for part in content or () if part.kind == FILE_REF)


def cut_text(text: str, limit_bytes: int) -> str:
    """The text within a number of bytes, cut at a whole character. The same object where nothing is cut."""
    if len(text) * 4 <= limit_bytes:
        return text
    raw = text[: limit_bytes + 1].encode()
    if len(text) <= limit_bytes and len(raw) <= limit_bytes:
        return text
    return raw[:limit_bytes].decode(errors="ignore")


def cut_content(
    content: tuple[ContentPart, ...] | None, limit_bytes: int
) -> tuple[tuple[ContentPart, ...] | None, bool]:
    """The content within the limit, and whether it was cut (at a whole character)."""
    text = content_text(content)
    if text is None or (cut := cut_text(text, limit_bytes)) is text:
        return content, False
    return text_content(cut), True


def beyond(one: Usage, other: Usage) -> Usage:
    """What ``one`` counts that ``other`` does not; the size of the last prompt is that of ``one``."""
    return Usage(
        input_tokens=max(0, one.input_tokens - other.input_tokens),
        output_tokens=max(0, one.output_tokens - other.output_tokens),
        model_calls=max(0, one.model_calls - other.model_calls),
        last_input_tokens=one.last_input_tokens,
    )
