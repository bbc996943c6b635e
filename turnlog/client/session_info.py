"""What the client tells of sessions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from turnlog_schemas import frames
from turnlog_schemas.frames import FrameHeader
from turnlog_schemas.parts import HistoryEntry, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session, as its owner (``get``, ``archive``, ``reset_runner``) or its channel (all others) knows it.

    What the one that answered cannot know is ``None``. Of the title, instructions, model and metadata a channel knows
    those of a session that was ``created`` by this request; for any other one ask the session (``get``).
    """

    session_id: str
    channel: str | None  #: that it belongs to; ``None``: none
    request_id: str
    title: str | None = None
    instructions: str | None = None
    model: str | None = None  #: the session's own; ``None``: the default at each turn
    metadata: Mapping[str, str] = field(default_factory=dict)
    archived: bool = False
    active: bool | None = None  #: is it its channel's active session? ``None``: it has no channel
    created: bool = False  #: by this very request (its first sending, if it was sent again)
    messages: int | None = None  #: how many the history has
    turns: int | None = None  #: ever started
    running_turn_id: str | None = None
    queued_turns: int | None = None
    context_tokens: int | None = None  #: of the prompt that its assembled history makes now (estimated)
    needs_compaction: bool | None = None  #: is that above its limit, so that its next turn compacts the history first?


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Messages of a session in turn order. One that is ``covered`` is part of the newest summary."""

    session_id: str
    messages: tuple[HistoryEntry, ...]
    next_after: int | None = None  #: give it as ``after`` for the next page; ``None``: there is none
    covered_to: int = 0  #: the newest summary stands for the messages up to this number; 0: there is none
    summary: str | None = None  #: its text, on a page without the covered messages


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCompaction:
    """The newest summary of a session and the messages that it stands for in what models see. They stay readable."""

    session_id: str
    request_id: str
    summary: str  #: empty: there was nothing to summarise
    from_seq: int  #: message numbers, both ends inclusive; 0: there was nothing to summarise
    to_seq: int
    changed: bool  #: made for this request (its first sending, if it was sent again); else it was there before
    tokens_before: int | None = None  #: of the prompt that the history makes (estimated)
    tokens_after: int | None = None
    usage: Usage | None = None  #: of the summary's model calls


def session_info(header: FrameHeader, frame: frames.SessionInfo) -> SessionInfo:
    """The public form of a frame."""
    return SessionInfo(
        session_id=header.session_id,
        channel=header.channel,
        request_id=header.request_id,
        title=frame.title,
        instructions=frame.instructions,
        model=frame.model,
        metadata=frame.metadata,
        archived=frame.archived,
        active=frame.active,
        created=frame.created,
        messages=frame.messages,
        turns=frame.turns,
        running_turn_id=frame.running_turn_id,
        queued_turns=frame.queued_turns,
        context_tokens=frame.context_tokens,
        needs_compaction=frame.needs_compaction,
    )


def history_compaction(header: FrameHeader, frame: frames.HistoryCompacted) -> HistoryCompaction:
    """The public form of a frame."""
    return HistoryCompaction(
        session_id=header.session_id,
        request_id=header.request_id,
        summary=frame.summary,
        from_seq=frame.from_seq,
        to_seq=frame.to_seq,
        changed=frame.changed,
        tokens_before=frame.tokens_before,
        tokens_after=frame.tokens_after,
        usage=frame.usage,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReceipt:
    """How long what an erasure does not reach is kept: milliseconds from it; -1: for ever, 0: not known."""

    requests_kept_ms: int
    replies_kept_ms: int
    dead_letters_kept_ms: int
    key_kept_ms: int  #: the bytes of the dropped key, at the broker
