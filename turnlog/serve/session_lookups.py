"""What is asked of a session before something is sent to it: is it there, and which turn is its newest?"""

from dataclasses import dataclass

from turnlog.client.async_client import Client
from turnlog.client.session_info import SessionInfo
from turnlog.errors import SessionNotFoundError
from turnlog_schemas.parts import HistoryEntry

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionNow:
    """A session, and its newest turn that has begun, if any."""

    info: SessionInfo
    newest_turn_id: str | None

    @property
    def open_turns(self) -> bool:
        """Does a turn run or wait?"""
        return self.info.running_turn_id is not None or bool(self.info.queued_turns)


async def session_info(client: Client, session_id: str) -> SessionInfo | None:
    """The session as its owner knows it; ``None``: it is not there."""
    try:
        return await client.get(session_id)
    except SessionNotFoundError:
        return None


async def session_now(client: Client, session_id: str) -> SessionNow | None:
    """The session and its newest turn; ``None``: it is not there."""
    info = await session_info(client, session_id)
    if info is None:
        return None
    newest = info.running_turn_id
    if newest is None and info.messages:
        page = await client.history(session_id, after=info.messages - 1, limit=1)
        newest = page.messages[-1].turn_id if page.messages else None
    return SessionNow(info=info, newest_turn_id=newest)


async def whole_history(client: Client, session_id: str) -> list[HistoryEntry]:
    """All messages of a session."""
    return [entry async for entry in client.messages(session_id, page=_PAGE)]
