"""What the client tells of sessions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas import frames
from schemas.frames import FrameHeader
from schemas.parts import HistoryEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session, as its owner (``get``, ``reset_runner``) or its channel (all others) knows it.

    What the one that answered cannot know is ``None``.
    """

    session_id: str
    channel: str
    request_id: str
    title: str | None = None
    instructions: str | None = None
    model: str | None = None  #: the session's own; ``None``: the default at each turn
    metadata: Mapping[str, str] = field(default_factory=dict)
    archived: bool = False
    active: bool | None = None  #: is it its channel's active session?
    created: bool = False  #: by this very request (its first sending, if it was sent again)
    messages: int | None = None  #: how many the history has
    turns: int | None = None  #: ever started
    running_turn_id: str | None = None
    queued_turns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Messages of a session in turn order."""

    session_id: str
    messages: tuple[HistoryEntry, ...]
    next_after: int | None = None  #: give it as ``after`` for the next page; ``None``: there is none


def session_info(header: FrameHeader, frame: frames.SessionInfo) -> SessionInfo:
    """The public form of a frame."""
    return SessionInfo(
        session_id=header.session_id,
        channel=header.channel or "",
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
    )
