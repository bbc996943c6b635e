"""The verbs of the session API: one request, one answer each. :class:`turnlog.Client` has them all."""

from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

from schemas import commands as cmd
from schemas import frames as fr
from schemas.parts import HistoryEntry, NewSession
from turnlog.connection import Connection
from turnlog.replies import FinishedTurn, ReplyFrame, TurnView
from turnlog.session_info import HistoryPage, SessionInfo, session_info

TIMEOUT_S = 60.0
_PAGE = 100

FrameType = TypeVar("FrameType")


class SessionVerbs:
    """Every verb takes two more arguments. ``request_id`` is the idempotency key (absent: a new one): the same verb
    with the same id gives the first answer, whatever happened since. ``timeout_s`` bounds the wait; while nothing is
    heard the request is sent again.

    All raise :class:`RequestTimedOutError` and :class:`BrokerUnreachableError`, :class:`UsageError` for an id that no
    request can have, and :class:`RequestRefusedError` (with subclasses for busy, conflict, archived and not found).
    """

    _connection: Connection

    # ---- keyed by channel: a channel decides its sessions' lifecycle

    async def create(
        self,
        channel: str,
        *,
        session_id: str | None = None,
        title: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """Open a session in the channel; it becomes the active one. ``session_id``: its id (absent: a new one).

        Refused with code ``exists`` when the channel has a session of that id.
        """
        command = cmd.CreateSession(new_session=_new(title, instructions, model, metadata))
        return await self._lifecycle(command, channel, session_id, request_id, timeout_s)

    async def resolve(
        self,
        channel: str,
        *,
        title: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """The channel's active session; a new one, made of the arguments, if there is none. Atomic per channel."""
        command = cmd.ResolveSession(new_session=_new(title, instructions, model, metadata))
        return await self._lifecycle(command, channel, None, request_id, timeout_s)

    async def rotate(
        self,
        channel: str,
        *,
        title: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """Archive the channel's active session, if any, and open a new one. A turn that runs on the old one ends."""
        command = cmd.RotateSession(new_session=_new(title, instructions, model, metadata))
        return await self._lifecycle(command, channel, None, request_id, timeout_s)

    async def archive(
        self,
        session_id: str,
        channel: str | None = None,
        *,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """Archive a session: it stays readable, its queued turns are cancelled, later chats to it are refused.

        ``channel`` is asked of the session's owner when it is absent.
        """
        if channel is None:
            channel = (await self.get(session_id, timeout_s=timeout_s)).channel
        return await self._lifecycle(cmd.ArchiveSession(), channel, session_id, request_id, timeout_s)

    async def active(self, channel: str, *, request_id: str | None = None, timeout_s: float = TIMEOUT_S) -> SessionInfo:
        """The channel's active session: the most recently active one that is not archived.

        Raises :class:`SessionNotFoundError` when it has none.
        """
        return await self._lifecycle(cmd.ActiveSession(), channel, None, request_id, timeout_s)

    # ---- keyed by session: its owner answers, so what was written before is in the answer

    async def get(self, session_id: str, *, request_id: str | None = None, timeout_s: float = TIMEOUT_S) -> SessionInfo:
        """A session as it is now. Raises :class:`SessionNotFoundError`."""
        return _info(await self._ask(cmd.GetSession(), fr.SessionInfo, session_id, request_id, timeout_s))

    async def history(
        self,
        session_id: str,
        *,
        after: int = 0,
        limit: int = _PAGE,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> HistoryPage:
        """One page of a session's messages: at most ``limit`` (1 to 1000) of those behind message number ``after``.

        A page of long messages holds fewer. Raises :class:`SessionNotFoundError`.
        """
        command = cmd.GetHistory(after=after, limit=limit)
        reply = await self._ask(command, fr.HistoryPage, session_id, request_id, timeout_s)
        page = _frame(reply, fr.HistoryPage)
        return HistoryPage(session_id=session_id, messages=page.messages, next_after=page.next_after)

    async def messages(
        self, session_id: str, *, after: int = 0, page: int = _PAGE, timeout_s: float = TIMEOUT_S
    ) -> AsyncIterator[HistoryEntry]:
        """All messages of a session behind number ``after``, page by page; ``timeout_s`` bounds each page."""
        position: int | None = after
        while position is not None:
            found = await self.history(session_id, after=position, limit=page, timeout_s=timeout_s)
            for message in found.messages:
                yield message
            position = found.next_after

    async def cancel(
        self,
        session_id: str,
        turn_id: str | None = None,
        *,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> FinishedTurn:
        """End a turn: a queued one, or the running one (absent: that one). Returns the cancelled turn.

        What the running one had said is kept as a message. Refused with code ``not_running`` when there is no such turn
        that has not ended.
        """
        reply = await self._ask(cmd.CancelTurn(turn_id=turn_id), fr.TurnCancelled, session_id, request_id, timeout_s)
        view = TurnView()
        view.feed(reply)
        assert view.finished is not None
        return view.finished

    async def reset_runner(
        self, session_id: str, *, request_id: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> SessionInfo:
        """Close the session's runner: its next turn makes a new one, by the settings of then."""
        return _info(await self._ask(cmd.ResetRunner(), fr.SessionInfo, session_id, request_id, timeout_s))

    # ---- asking

    async def _lifecycle(
        self,
        command: cmd.ChannelRequest,
        channel: str,
        session_id: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> SessionInfo:
        reply = await self._connection.ask(
            command,
            fr.SessionInfo,
            channel=channel,
            session_id=session_id,
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return _info(reply)

    async def _ask(
        self,
        command: cmd.SessionRequest,
        expected: type,
        session_id: str,
        request_id: str | None,
        timeout_s: float,
    ) -> ReplyFrame:
        return await self._connection.ask(
            command, expected, session_id=session_id, request_id=request_id, timeout_s=timeout_s
        )


def _new(
    title: str | None, instructions: str | None, model: str | None, metadata: Mapping[str, str] | None
) -> NewSession | None:
    if title is None and instructions is None and model is None and not metadata:
        return None
    return NewSession(
        title=title, instructions=instructions, model=model, metadata=dict(metadata) if metadata else None
    )


def _frame(reply: ReplyFrame, expected: type[FrameType]) -> FrameType:
    assert isinstance(reply.frame, expected)
    return reply.frame


def _info(reply: ReplyFrame) -> SessionInfo:
    return session_info(reply.header, _frame(reply, fr.SessionInfo))
