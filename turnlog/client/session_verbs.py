"""The verbs of the session API: one request, one answer each. :class:`turnlog.Client` has them all."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

from turnlog.client.connection import Connection
from turnlog.client.replies import FinishedTurn, ReplyFrame, TurnView
from turnlog.client.session_info import (
    ErasureReceipt,
    HistoryCompaction,
    HistoryPage,
    SessionInfo,
    history_compaction,
    session_info,
)
from turnlog.errors import HistoryCompactionFailedError
from turnlog_schemas import commands as cmd
from turnlog_schemas import frames as fr
from turnlog_schemas.generation import GenerationParams
from turnlog_schemas.parts import HistoryEntry, InitialMessage, NewSession

TIMEOUT_S = 60.0
COMPACT_TIMEOUT_S = 900.0  #: as of a turn: one that runs comes first
_COMPACT_WAITS_FOR = "It waits for the running turn, then for the model that writes the summary."
_PAGE = 100

FrameType = TypeVar("FrameType")


class SessionVerbs:
    """Every verb takes two more arguments. ``request_id`` is the idempotency key (absent: a new one): the same verb
    with the same id gives the first answer, whatever happened since. ``timeout_s`` bounds the wait; while nothing is
    heard the request is sent again.

    ``history_max_tokens`` (0: the deployment's; negative: no automatic history compaction) and ``history_keep_tail``
    (so many newest messages stay word for word) are a new session's own bounds of history compaction; ``params``: how
    a model is asked to generate in its turns, where their requests say nothing else; ``messages``: what it begins with.

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
        history_max_tokens: int | None = None,
        history_keep_tail: int | None = None,
        params: GenerationParams | None = None,
        messages: Sequence[InitialMessage] = (),
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """Open a session in the channel; it becomes the active one. ``session_id``: its id (absent: a new one).

        Refused with code ``exists`` when the channel has a session of that id.
        """
        new = _new(title, instructions, model, metadata, history_max_tokens, history_keep_tail, params, messages)
        return await self._lifecycle(cmd.CreateSession(new_session=new), channel, session_id, request_id, timeout_s)

    async def resolve(
        self,
        channel: str,
        *,
        title: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        history_max_tokens: int | None = None,
        history_keep_tail: int | None = None,
        params: GenerationParams | None = None,
        messages: Sequence[InitialMessage] = (),
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """The channel's active session; a new one, made of the arguments, if there is none. Atomic per channel."""
        new = _new(title, instructions, model, metadata, history_max_tokens, history_keep_tail, params, messages)
        return await self._lifecycle(cmd.ResolveSession(new_session=new), channel, None, request_id, timeout_s)

    async def rotate(
        self,
        channel: str,
        *,
        title: str | None = None,
        instructions: str | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        history_max_tokens: int | None = None,
        history_keep_tail: int | None = None,
        params: GenerationParams | None = None,
        messages: Sequence[InitialMessage] = (),
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """Archive the channel's active session, if any, and open a new one. A turn that runs on the old one ends."""
        new = _new(title, instructions, model, metadata, history_max_tokens, history_keep_tail, params, messages)
        return await self._lifecycle(cmd.RotateSession(new_session=new), channel, None, request_id, timeout_s)

    async def archive(
        self,
        session_id: str,
        channel: str | None = None,
        *,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """Archive a session: it stays readable, its queued turns are cancelled, later chats to it are refused.

        Its channel, if it has one, knows of it when this returns. Who gives the ``channel`` asks that one, which
        refuses a session that is not its own. Raises :class:`SessionNotFoundError`.
        """
        return await self._lifecycle(cmd.ArchiveSession(), channel, session_id, request_id, timeout_s)

    async def active(self, channel: str, *, request_id: str | None = None, timeout_s: float = TIMEOUT_S) -> SessionInfo:
        """The channel's active session: the one that was opened last and is not archived. Chats change nothing.

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
        skip_covered: bool = False,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> HistoryPage:
        """One page of a session's messages: at most ``limit`` (1 to 1000) of those behind message number ``after``.

        ``skip_covered``: only messages that no summary stands for, and the newest summary's text: what models see. A
        page of long messages holds fewer. Raises :class:`SessionNotFoundError`.
        """
        command = cmd.GetHistory(after=after, limit=limit, skip_covered=skip_covered)
        reply = await self._ask(command, fr.HistoryPage, session_id, request_id, timeout_s)
        page = _frame(reply, fr.HistoryPage)
        return HistoryPage(
            session_id=session_id,
            messages=page.messages,
            next_after=page.next_after,
            covered_to=page.covered_to,
            summary=page.summary,
        )

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

    async def compact(
        self,
        session_id: str,
        *,
        instructions: str | None = None,
        summary: str | None = None,
        to_seq: int | None = None,
        request_id: str | None = None,
        timeout_s: float = COMPACT_TIMEOUT_S,
        resend_after_s: float = 15.0,
    ) -> HistoryCompaction:
        """Have a model summarise the messages before the kept tail. They stay readable; models see the summary.

        ``instructions``: what the summary must take care of. It begins when the running turn has ended, and may then
        take two minutes. Where the newest summary says it all, that one is returned, not ``changed``.

        ``summary`` and ``to_seq``: you have a summary, of the messages up to that number. No model is asked then, and
        nothing waited for: :class:`SessionBusyError` while a turn is open, code ``wrong_range`` where it cannot end
        there. Raises
        :class:`HistoryCompactionFailedError` when no summary can be had, :class:`SessionNotFoundError`,
        :class:`SessionArchivedError`, and :class:`SessionBusyError` when too many such requests wait.
        """
        reply = await self._connection.ask(
            cmd.CompactHistory(instructions=instructions, summary=summary, to_seq=to_seq),
            fr.HistoryCompacted | fr.HistoryCompactionFailed,
            session_id=session_id,
            request_id=request_id,
            timeout_s=timeout_s,
            resend_after_s=resend_after_s,
            waits_for=_COMPACT_WAITS_FOR,
        )
        if isinstance(reply.frame, fr.HistoryCompactionFailed):
            raise HistoryCompactionFailedError(session_id, reply.frame.code, reply.frame.reason)
        return history_compaction(reply.header, _frame(reply, fr.HistoryCompacted))

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
        that has not ended. Raises :class:`SessionNotFoundError` where there is no such session.
        """
        reply = await self._ask(cmd.CancelTurn(turn_id=turn_id), fr.TurnCancelled, session_id, request_id, timeout_s)
        view = TurnView()
        view.feed(reply)
        assert view.finished is not None
        return view.finished

    async def hide_turn(
        self,
        session_id: str,
        turn_id: str | None = None,
        *,
        of_request: str | None = None,
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> str:
        """Mark a turn as hidden, for good; returns its id. Nothing is erased, and models see it as before.

        Name it by its id or by that of its request. The snapshot says so (``turns.hidden``). Refused with code
        ``not_found`` when there is no such turn.
        """
        command = cmd.HideTurn(turn_id=turn_id, of_request=of_request)
        reply = await self._ask(command, fr.TurnHidden, session_id, request_id, timeout_s)
        return _frame(reply, fr.TurnHidden).hidden_turn_id

    async def update(
        self,
        session_id: str,
        *,
        title: str | None = None,
        model: str | None = None,
        instructions: str | None = None,
        metadata: Mapping[str, str] | None = None,
        remove_metadata: Sequence[str] = (),
        request_id: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> SessionInfo:
        """Change what was said of a session when it was made; turns that start later follow it.

        ``None`` leaves a thing as it is, an empty text takes it back; ``metadata`` is set name by name. Raises
        :class:`SessionNotFoundError`, :class:`SessionArchivedError`.
        """
        command = cmd.UpdateSession(
            title=title,
            model=model,
            instructions=instructions,
            set_metadata=dict(metadata or {}),
            remove_metadata=tuple(remove_metadata),
        )
        return _info(await self._ask(command, fr.SessionInfo, session_id, request_id, timeout_s))

    async def erase(
        self, session_id: str, *, request_id: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> ErasureReceipt:
        """Make every text of the session unreadable, for good; it takes nothing more. Again gives the receipt again.

        Refused with code ``not_sealed`` where texts are kept in the clear (see docs/guarantees.md). Raises
        :class:`SessionNotFoundError`.
        """
        reply = await self._ask(cmd.EraseSession(), fr.SessionErased, session_id, request_id, timeout_s)
        told = _frame(reply, fr.SessionErased)
        return ErasureReceipt(
            requests_kept_ms=told.requests_kept_ms,
            replies_kept_ms=told.replies_kept_ms,
            dead_letters_kept_ms=told.dead_letters_kept_ms,
            key_kept_ms=told.key_kept_ms,
        )

    async def reset_runner(
        self, session_id: str, *, request_id: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> SessionInfo:
        """Close the session's runner: its next turn makes a new one, by the settings of then."""
        return _info(await self._ask(cmd.ResetRunner(), fr.SessionInfo, session_id, request_id, timeout_s))

    # ---- asking

    async def _lifecycle(
        self,
        command: cmd.ChannelRequest,
        channel: str | None,
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
    title: str | None,
    instructions: str | None,
    model: str | None,
    metadata: Mapping[str, str] | None,
    history_max_tokens: int | None,
    history_keep_tail: int | None,
    params: GenerationParams | None,
    messages: Sequence[InitialMessage],
) -> NewSession | None:
    new = NewSession(
        title=title,
        instructions=instructions,
        model=model,
        metadata=dict(metadata) if metadata else None,
        history_max_tokens=history_max_tokens,
        history_keep_tail=history_keep_tail,
        params=params,
        messages=tuple(messages),
    )
    return None if new == NewSession() else new


def _frame(reply: ReplyFrame, expected: type[FrameType]) -> FrameType:
    assert isinstance(reply.frame, expected)
    return reply.frame


def _info(reply: ReplyFrame) -> SessionInfo:
    return session_info(reply.header, _frame(reply, fr.SessionInfo))
