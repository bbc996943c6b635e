"""Following the frames of a turn: which of them count, and what they add up to. Pure: frames in, frames out.

Frames may come twice, late, or from an owner that was replaced meanwhile. Of one turn a reader keeps the highest
(epoch, attempt); ``frame_seq`` removes duplicates within it; the first terminal frame of whatever sender ends the turn,
since only confirmed facts are reported and a turn has one terminal event.
"""

from dataclasses import dataclass

from turnlog.errors import RequestRefusedError, TurnFailedError, refusal
from turnlog_schemas.codec import UnknownPayload
from turnlog_schemas.frames import (
    TERMINAL_FRAMES,
    Frame,
    FrameHeader,
    HistoryCompacted,
    HistoryCompactionFailed,
    HistoryPage,
    MessageStored,
    ReasoningDelta,
    RequestRefused,
    SessionInfo,
    TextDelta,
    TurnAccepted,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from turnlog_schemas.parts import ToolCall, Usage
from turnlog_workers.base.counted import counted

DELTA_FRAMES = (TextDelta, ReasoningDelta)
NOTHING_HEARD = "nothing heard"
_OF_OTHER_REQUESTS = (SessionInfo, HistoryPage, HistoryCompacted, HistoryCompactionFailed)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """A place in the reply topic."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyFrame:
    """A frame and where it stood. An :class:`UnknownPayload` was written by a newer Turnlog: pass over it."""

    header: FrameHeader
    frame: Frame | UnknownPayload
    partition: int
    offset: int

    @property
    def position(self) -> Position:
        """Give it to :meth:`turnlog.Client.follow` to go on after this frame."""
        return Position(partition=self.partition, offset=self.offset)

    @property
    def is_terminal(self) -> bool:
        """Does this frame end its turn?"""
        return isinstance(self.frame, TERMINAL_FRAMES)

    @property
    def is_delta(self) -> bool:
        """Is it a piece of something that also comes whole?"""
        return isinstance(self.frame, DELTA_FRAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTurn:
    """How a turn ended."""

    session_id: str
    request_id: str
    status: str  #: ``completed``, ``requires_action`` (see ``pending_calls``), ``failed`` or ``cancelled``
    text: str  #: of the last assistant message; empty when there is none, and for a failed turn
    usage: Usage
    turn_id: str | None
    attempt: int
    code: str = ""  #: why it failed
    reason: str = ""  #: why it failed or was cancelled
    truncated: bool = False  #: ``text`` is cut, as the reply topic takes no more of it; the history has all
    messages: tuple[MessageStored, ...] = ()  #: those that this reader saw being stored; the history has all
    pending_calls: tuple[ToolCall, ...] = ()  #: of tools that the request brought: run them, and send all their outputs

    def raise_for_status(self) -> None:
        """Raise :class:`TurnFailedError` unless the turn completed, or ended in calls for its client to run."""
        if self.status not in ("completed", "requires_action"):
            raise TurnFailedError(self.status, self.code or self.status, self.reason)


class FrameOrder:
    """Decides of each frame of one turn whether it counts."""

    __slots__ = ("_last_seq", "_rank", "ended")

    def __init__(self) -> None:
        self._rank = (-2, -1)
        self._last_seq = -1
        self.ended = False  #: a terminal frame was accepted: nothing after it counts

    def accept(self, reply: ReplyFrame) -> bool:
        """Does the frame count? Each answer is given once: the same frame again does not count."""
        if self.ended:
            return False
        if reply.is_terminal:
            self.ended = True
            return True
        header = reply.header
        rank = (header.epoch, header.attempt)
        if rank < self._rank or (rank == self._rank and header.frame_seq <= self._last_seq):
            return False
        self._rank = rank
        self._last_seq = header.frame_seq
        return True


class TurnView:
    """What the frames of one turn add up to."""

    def __init__(self) -> None:
        self._order = FrameOrder()
        self._messages: dict[int, MessageStored] = {}
        self._pieces: list[str] = []
        self.queued_turns: int | None = None  #: before this one, when it was accepted
        self.opened_session: bool | None = None  #: did this very request make the session? ``None``: not heard
        self.turn_id: str | None = None
        self.attempt = 0  #: of the newest start seen; 0: none
        self.model = ""
        self.finished: FinishedTurn | None = None
        self.refused: RequestRefusedError | None = None

    @property
    def ended(self) -> bool:
        """Has the turn (or its refusal) been seen to the end?"""
        return self._order.ended

    @property
    def text(self) -> str:
        """What has been streamed of the message that is being generated."""
        return "".join(self._pieces)

    @property
    def state(self) -> str:
        """Where the turn stands as far as this reader knows, in words."""
        if self.finished is not None:
            return self.finished.status
        if self.refused is not None:
            return "refused"
        if self.attempt:
            return f"started (attempt {self.attempt}, model {self.model})"
        if self.queued_turns is not None:
            return f"accepted, not started, {counted(self.queued_turns, 'turn')} before it"
        return NOTHING_HEARD

    def feed(self, reply: ReplyFrame) -> bool:
        """Take a frame in; False: it does not count and must not be shown."""
        if isinstance(reply.frame, _OF_OTHER_REQUESTS):  # somebody asked something else under the same request id
            return False
        if not self._order.accept(reply):
            return False
        header, frame = reply.header, reply.frame
        self.turn_id = header.turn_id or self.turn_id
        match frame:
            case TurnAccepted():
                self.queued_turns, self.opened_session = frame.queued_turns, frame.opened_session
            case TurnStarted():
                self.attempt, self.model = header.attempt, frame.model
                self._pieces.clear()
            case TextDelta():
                self._take_delta(header, frame)
            case MessageStored():
                self._messages[frame.message_seq] = frame
                if frame.role == "assistant":
                    self._pieces.clear()
            case TurnCompleted() | TurnFailed() | TurnCancelled():
                self.finished = self._finish(header, frame)
            case RequestRefused():
                self.refused = refusal(frame.code, frame.reason)
            case _:
                pass
        return True

    def _take_delta(self, header: FrameHeader, frame: TextDelta) -> None:
        if (
            header.attempt != self.attempt
        ):  # its start was not seen; what earlier attempts had said is void all the same
            self.attempt = header.attempt
            self._pieces.clear()
        self._pieces.append(frame.text)

    def _finish(self, header: FrameHeader, frame: TurnCompleted | TurnFailed | TurnCancelled) -> FinishedTurn:
        status, text, code, reason = "completed", "", "", ""
        pending: tuple[ToolCall, ...] = ()
        match frame:
            case TurnCompleted():
                text, pending = frame.text, frame.pending_calls
                status = "requires_action" if pending else status
            case TurnFailed():
                status, code, reason = "failed", frame.code, frame.reason
            case TurnCancelled():
                status, text, reason = "cancelled", frame.text, frame.reason
        return FinishedTurn(
            session_id=header.session_id,
            request_id=header.request_id,
            status=status,
            text=text,
            usage=frame.usage,
            turn_id=header.turn_id,
            attempt=header.attempt,
            code=code,
            reason=reason,
            truncated=getattr(frame, "truncated", False),
            messages=tuple(self._messages[seq] for seq in sorted(self._messages)),
            pending_calls=pending,
        )


class Deduplicator:
    """One :class:`FrameOrder` for each turn of a stream that carries many; forgets the one longest unused."""

    def __init__(self, max_turns: int = 10_000) -> None:
        self._max_turns = max_turns
        self._orders: dict[tuple[str, str], FrameOrder] = {}

    def accept(self, reply: ReplyFrame) -> bool:
        """Does the frame count for its turn?"""
        key = (reply.header.session_id, reply.header.request_id)
        order = self._orders.pop(key, None) or FrameOrder()
        self._orders[key] = order
        if len(self._orders) > self._max_turns:
            del self._orders[next(iter(self._orders))]
        return order.accept(reply)
